"""The artefact contract: what a model file says of itself. Export writes it, everything else reads it.

An ONNX file carries it in `metadata_props` (keys `san.<field>`, values JSON), with the hash of all the rest of the
file (`san_deploy.integrity`); the same stands in `<file>.json` beside it, together with the file's SHA-256. A TensorRT
plan is left as TensorRT wrote it, so that other tools read it, and has the file beside it alone. This module needs
neither onnx nor torch.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import SanError
from .io.atomic import atomic_file
from .io.printable import printable
from .io.typed_json import read_record

# The command line reads descriptions without it.
if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 1
PREFIX = "san."
INPUT_NAME = "crops"
OUTPUT_NAME = "embedding"
#: Fields that are left out where they are empty.
_LATER = ("weights_sha256", "space", "samples")
#: Key in a sidecar.
DESCRIPTION_SHA256 = "description_sha256"
#: The most crops that any profile allows in one run.
MAX_BATCH = 4096


@dataclass(frozen=True)
class Threshold:
    """A similarity above which two tracklets are taken for one person.

    Attributes:
        similarity: cosine similarity of pooled tracklets, -1..1.
        false_match_rate: share of pairs of different people at or above it, where it was calibrated.
        true_match_rate: share of pairs of the same person at or above it, likewise; None where nobody was known.
        impostor_pairs, genuine_pairs: how many pairs those shares were counted on.
        source: whose people they were, in words.
        mask: of the network that they were embedded with, see `Artefact.mask`; empty in files from before it was
            written, whose threshold is that of the mask that the file names.
        center: whether each camera's mean was taken off the embeddings.
        curve: rates at other thresholds: similarity, false and true match rate, in ascending order.
    """

    similarity: float
    false_match_rate: float
    true_match_rate: float | None
    impostor_pairs: int
    genuine_pairs: int
    source: str
    mask: str = ""
    center: bool = False
    curve: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class PrecisionStats:
    """What the convolutions of a file really compute with, counted in the file, whatever was asked for.

    An operand is a convolution's (transposed or not) or a matrix product's input or weight.

    Attributes:
        count: of operands.
        fp32, fp16, int8: share of them, 0..1. An operand is INT8 where it comes out of a DequantizeLinear.
        source: where they were counted: `onnx`; `network`, the typed network that TensorRT parsed; `engine`,
            the inspector's word on the finished engine, which needs a GPU.
    """

    count: int
    fp32: float
    fp16: float
    int8: float
    source: str = "onnx"


@dataclass(frozen=True)
class Calibration:
    """How the ranges of an INT8 file were found.

    Attributes:
        crops: how many were used.
        crops_sha256: of those crops, resized, in their order.
        folder: the folder's name, in words.
        seed: that chose them.
        method: `minmax`, `entropy` or `percentile`.
        form: `tensorrt`, symmetric without INT32 bias; `cpu`, ONNX Runtime's own.
        rest: what is not quantised, `fp32` or `fp16`.
        left: convolutions that were never quantised (the mask branches), by name.
        reverted: those that were given back to floating point to keep the accuracy, the worst first.
    """

    crops: int
    crops_sha256: str
    folder: str
    seed: int
    method: str
    form: str
    rest: str = "fp32"
    left: tuple[str, ...] = ()
    reverted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Int8Rule:
    """What an architecture says of INT8; the row of `san_train.models.ARCHITECTURES` as the file carries it.

    Attributes:
        floating: modules of soft masks and gates, by their name alone, whose layers stay in floating point.
        min_share: least fraction, 0..1, of the operands that INT8 must reach.
    """

    floating: tuple[str, ...] = ()
    min_share: float = 0.5


@dataclass(frozen=True)
class Engine:
    """What a TensorRT plan was built with, and so where it runs.

    Attributes:
        runtime: `tensorrt` or `tensorrt-rtx`.
        version: of that, for example `10.16.1.11`.
        cuda: version of the CUDA runtime it was built with, `13.0`; empty where none was there.
        gpu: name of the GPU it was built on; empty where it was built ahead of time.
        sm: compute capabilities that it is for, for example `("sm86", "sm89")`.
        batch: least, best and largest number of crops per run.
        onnx_sha256: of the file it was built from.
        tf32: whether FP32 convolutions may run in TF32.
        hardware_compatibility: `none`, `same-sm` or `ampere+`.
        version_compatible: whether later versions of the runtime may run it. Such a plan carries host code.
        system: operating system and processor, for example `linux-x86_64`; a plan runs on no other.
        onnx: name of the file it was built from, without its folder; empty in plans from before it was kept.
    """

    runtime: str
    version: str
    cuda: str
    gpu: str
    sm: tuple[str, ...]
    batch: tuple[int, int, int]
    onnx_sha256: str
    tf32: bool
    hardware_compatibility: str
    version_compatible: bool
    system: str
    onnx: str = ""


@dataclass(frozen=True)
class Samples:
    """What the network that was trained, or imported, gives for the sample crops that ship with the package.

    Attributes:
        count: of the sample crops, `san_deploy.data.samples.read_samples(count)`.
        files_sha256: of those crops' files, one after another: another version may ship others.
        crops_sha256: of their pixels, resized: `(count, H, W, 3)` uint8 BGR.
        source: what gave the rows: `torch fp32`.
        rows: `(count, D)` float32, little-endian, in base64.
    """

    count: int
    files_sha256: str
    crops_sha256: str
    source: str
    rows: str

    @classmethod
    def of(cls, crops: np.ndarray, rows: np.ndarray, *, files_sha256: str, source: str) -> Samples:
        """Keep the rows `(N, D)` that `source` gave for the prepared crops `(N, H, W, 3)`."""
        import numpy as np

        encoded = base64.b64encode(np.ascontiguousarray(rows, "<f4").tobytes()).decode("ascii")
        return cls(len(crops), files_sha256, pixels_sha256(crops), source, encoded)

    def array(self) -> np.ndarray:
        """The rows, `(count, D)` float32."""
        import numpy as np

        return np.frombuffer(base64.b64decode(self.rows), "<f4").reshape(self.count, -1)


def pixels_sha256(crops: np.ndarray) -> str:
    """SHA-256 of prepared crops, hexadecimal."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(crops, np.uint8).tobytes()).hexdigest()


#: What a plan may be built with.
RUNTIMES = ("tensorrt", "tensorrt-rtx")
#: What may be asked for.
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Artefact:
    """One exported network.

    Attributes:
        arch: architecture by name, for example `san-resnet18`.
        settings: the architecture's settings (width, attention stages, ...), as in the checkpoint.
        embedding_dim: length of an embedding; rows have L2 norm 1 (the norm is in the graph).
        size_hw: input height and width, pixels.
        input: `uint8` (N, H, W, 3 BGR 0..255, what OpenCV delivers) or `float` (N, 3, H, W RGB 0..255
            float32). Normalisation is in the graph for both.
        resize: name of the resize that was trained with, `san_deploy.preprocess.RESIZE`.
        mean_rgb, std_rgb: the normalisation inside the graph, units of 0..1.
        mask: `argmax`, `expected` or `ramp:EPS`; `soft` for a sigmoid gate, `none` without attention.
        precision: that was asked for, one of `PRECISIONS`.
        checkpoint_sha256: of the weights that it was made from.
        versions: of the tools that made it.
        threshold: calibrated on people that the network was not trained on; None where it never was.
        operands: the precision that the file has; None in files from before it was counted, which are FP32.
        calibration: of an INT8 file.
        int8: what its architecture says of INT8; in files from before it was kept, nothing in particular.
        engine: of a TensorRT plan; None for ONNX.
        checks: what was measured before the file got its name (minimum row cosine by batch size, ...).
        weights_sha256: of the weights alone, `checkpoint_info.tensors_sha256`; of an imported network, of its graph,
            its weights, which output it is and its order of colours.
            Empty in files from before it was kept.
        space: identity of the embedding space, `space_of`: rows of files that share it may be compared. It does not
            change with precision, engine or threshold. Files from before it was written get one when they are read.
        samples: what to hold a runtime against on this machine; None in files from before they were kept.
        sha256: of the model file itself; empty until it is read from disk or written beside it.
    """

    arch: str
    settings: dict[str, Any]
    embedding_dim: int
    size_hw: tuple[int, int]
    input: str
    resize: str
    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]
    mask: str
    precision: str
    checkpoint_sha256: str
    versions: dict[str, str]
    threshold: Threshold | None = None
    operands: PrecisionStats | None = None
    calibration: Calibration | None = None
    int8: Int8Rule = Int8Rule()
    engine: Engine | None = None
    checks: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    space: str = ""
    samples: Samples | None = None
    schema_version: int = SCHEMA_VERSION
    sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the samples. Text is what it is shown as: folders' names need not be Unicode."""
        return {key: value for key, value in self._plain().items() if key != "samples"}

    def _plain(self) -> dict[str, Any]:
        """Every field; what came later than others is left out where it is empty."""
        values = {key: _plain(value) for key, value in asdict(self).items()}
        return {key: value for key, value in values.items() if value or key not in _LATER}

    def metadata_props(self) -> dict[str, str]:
        """`{key: JSON}` for an ONNX file's metadata_props; without sha256: no file can hold its own."""
        values = {key: value for key, value in self._plain().items() if key != "sha256"}
        return {PREFIX + key: json.dumps(value, sort_keys=True) for key, value in values.items()}

    def to_input(self, crops: np.ndarray) -> np.ndarray:
        """`(N, H, W, 3)` uint8 BGR to what the graph takes; refuses another size or type with SanError."""
        import numpy as np

        height, width = self.size_hw
        if crops.ndim != 4 or crops.shape[1:] != (height, width, 3) or crops.dtype != np.uint8:
            raise SanError(
                f"the model takes crops of (N, {height}, {width}, 3) uint8 BGR",
                why=f"received {crops.shape} {crops.dtype}",
                do="resize with san_deploy.preprocess.resize_crop",
            )
        if self.input == "uint8":
            return crops
        return np.ascontiguousarray(crops[:, :, :, ::-1].transpose(0, 3, 1, 2), dtype=np.float32)


def from_metadata(metadata: Mapping[str, str], *, path: Path, sha256: str) -> Artefact:
    """Read the contract out of an ONNX file's metadata_props.

    Args:
        metadata: `{key: value}` as the runtime gives it.
        path: the file, for messages.
        sha256: of the file's bytes.

    Raises:
        SanError: the file is not ours, of a later schema, or its metadata is damaged.
    """
    ours = {key[len(PREFIX) :]: value for key, value in metadata.items() if key.startswith(PREFIX)}
    if "schema_version" not in ours:
        raise SanError(
            f"{path} was not written by san export",
            do="export the checkpoint: san export CHECKPOINT -o model.onnx",
        )
    try:
        values = {key: json.loads(value) for key, value in ours.items()}
        if values["schema_version"] != SCHEMA_VERSION:
            raise SanError(
                f"{path} has artefact schema {values['schema_version']}, this is {SCHEMA_VERSION}",
                do="export it again, or install the version of san-deploy that wrote it",
            )
        return _build(values | {"sha256": sha256})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SanError(f"the metadata of {path} is damaged", why=str(error), do="export it again") from error


def _build(values: dict[str, Any]) -> Artefact:
    artefact = read_record(Artefact, values)
    height, width = artefact.size_hw
    if not (0 < height <= 4096 and 0 < width <= 4096 and artefact.embedding_dim > 0):
        raise ValueError(f"size {artefact.size_hw} or embedding_dim {artefact.embedding_dim} is out of range")
    if artefact.input not in ("uint8", "float"):
        raise ValueError(f"input is '{artefact.input}'")
    if artefact.precision not in PRECISIONS:
        raise ValueError(f"precision is '{artefact.precision}'")
    if artefact.engine is not None:
        _check_engine(artefact.engine)
    check_threshold(artefact.threshold)
    if artefact.samples is not None:
        rows = artefact.samples.array()
        if not 0 < len(rows) <= MAX_BATCH or rows.shape[1] != artefact.embedding_dim:
            raise ValueError(f"field samples holds rows of {rows.shape}")
    return artefact if artefact.space else replace(artefact, space=space_of(artefact))


def check_threshold(threshold: Threshold | None) -> None:
    """Refuse a similarity that is none; ValueError."""
    if threshold is not None and not -1.0 <= threshold.similarity <= 1.0:
        raise ValueError(f"field threshold.similarity is {threshold.similarity:g}, not in -1..1")


def space_of(artefact: Artefact) -> str:
    """The identity of an embedding space: SHA-256 of what decides where an image lands, hexadecimal.

    That is: weights, mask, size, resize and normalisation.
    """
    # From before it was kept: all that is known of the weights is the SHA-256 of the checkpoint's file.
    weights = artefact.weights_sha256 or f"file {artefact.checkpoint_sha256}"
    preprocessing = [list(artefact.size_hw), artefact.resize, list(artefact.mean_rgb), list(artefact.std_rgb)]
    parts = json.dumps([weights, artefact.mask, *preprocessing])
    return hashlib.sha256(parts.encode("utf-8")).hexdigest()


def _check_engine(engine: Engine) -> None:
    least, best, most = engine.batch
    if not 1 <= least <= best <= most <= MAX_BATCH:
        raise ValueError(f"the engine's batch is {engine.batch}")
    if engine.runtime not in RUNTIMES:
        raise ValueError(f"field engine.runtime is '{engine.runtime}', not {' or '.join(RUNTIMES)}")
    # It becomes part of a command that a user types.
    if engine.onnx and not is_onnx_name(engine.onnx):
        raise ValueError(f"field engine.onnx is {engine.onnx!a}, not the name of an ONNX file")


def is_onnx_name(text: str) -> bool:
    """Whether it names an ONNX file beside another file: none elsewhere, and no option of a command."""
    odd = text.startswith("-") or bool(set(text) & set("/\\:"))
    return text.endswith(".onnx") and text.isprintable() and not odd


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return printable(value) if isinstance(value, str) else value


def parse_mask(name: str) -> tuple[str, float]:
    """`argmax` -> (`argmax`, 0), `expected` -> (`expected`, 0), `ramp:0.0625` -> (`ramp`, 0.0625).

    Raises:
        ValueError: any other name, or EPS outside (0, 1].
    """
    kind, _, width = name.partition(":")
    if kind in ("argmax", "expected") and not width:
        return kind, 0.0
    if kind == "ramp":
        try:
            eps = float(width)
        except ValueError:
            eps = 0.0
        if 0.0 < eps <= 1.0:
            return kind, eps
    raise ValueError(f"mask '{name}' is none of argmax, expected, ramp:EPS with 0 < EPS <= 1")


def mask_name(name: str) -> str:
    """A mask's name as it is written down: `ramp:1e-1` -> `ramp:0.1`.

    Raises:
        ValueError: of `parse_mask`.
    """
    kind, eps = parse_mask(name)
    return f"{kind}:{eps:g}" if kind == "ramp" else kind


def sidecar_path(path: Path) -> Path:
    """`model.onnx` -> `model.onnx.json`."""
    return path.with_name(path.name + ".json")


def write_sidecar(artefact: Artefact, path: Path) -> Path:
    """Write the contract beside the model file `path`, atomically; `artefact.sha256` must be set."""
    target = sidecar_path(path)
    with atomic_file(target) as temporary:
        values = artefact._plain()
        values[DESCRIPTION_SHA256] = description_sha256(values)
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return target


def description_sha256(values: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON description without its own hash, hexadecimal."""
    kept = {key: value for key, value in values.items() if key != DESCRIPTION_SHA256}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode("utf-8")).hexdigest()


def read_sidecar(path: Path) -> Artefact:
    """Read what `write_sidecar` wrote beside the model file `path`; nothing of `path` itself is read.

    Returns:
        The contract. Its `sha256` is what the sidecar claims: the caller compares it with the file's bytes.

    Raises:
        SanError: there is none, or it is damaged or of another schema.
    """
    target = sidecar_path(path)
    try:
        values = json.loads(target.read_text(encoding="utf-8"))
        if values["schema_version"] != SCHEMA_VERSION:
            raise SanError(
                f"{target} has artefact schema {values['schema_version']}, this is {SCHEMA_VERSION}",
                do="export it again, or install the version of san-deploy that wrote it",
            )
        artefact = _build(values)
        # Those from before have neither.
        if "space" in values and values.get(DESCRIPTION_SHA256) != description_sha256(values):
            raise ValueError("it is damaged, or was changed after it was written")
        return artefact
    except FileNotFoundError as error:
        raise SanError(
            f"{path} has no description {target.name} beside it, which says what it is and where it runs",
            do="copy both files, or export the model again",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SanError(
            f"{target} is not readable as the description of {path.name}",
            why=str(error).split("\n")[0],
            do="export the model again",
        ) from error


def read_sidecar_sha256(path: Path) -> str | None:
    """The SHA-256 that the sidecar of `path` has of it; None where there is no sidecar.

    Raises:
        SanError: the sidecar is damaged.
    """
    target = sidecar_path(path)
    try:
        found = json.loads(target.read_text(encoding="utf-8"))["sha256"]
        if not isinstance(found, str):
            raise ValueError("its sha256 is no text")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SanError(
            f"{target} is not readable as the description of {path.name}", do="export the model again"
        ) from error
    return printable(found)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
