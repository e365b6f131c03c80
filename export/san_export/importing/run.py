"""`san import` from end to end: read, wrap, compare with the original, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from san_deploy.artefact import Artefact, sha256_file, sidecar_path, space_of, write_sidecar
from san_deploy.backends.onnxruntime import OnnxRuntime, open_cpu
from san_deploy.errors import GateError, SanError, UsageError
from san_deploy.images import UnreadableImage, list_crops, read_image
from san_deploy.io.atomic import atomic_pair
from san_deploy.io.versions import versions
from san_deploy.preprocess import resize_crop
from san_deploy.self_check import keep_samples

from ..graph.precision_stats import count_operands
from ..onnx_writer import write_onnx
from ..verify import BATCHES, CheckCrops, Gate, Parity, check_crops, judge, measure, open_checked, row_cosine
from .convention import Convention
from .foreign import Foreign, read_foreign
from .openvino_ir import IrSession
from .wrap import wrap

#: Architecture of imported networks in an artefact.
ARCH = "imported"
#: What the wrapped network must reach against the original: the same arithmetic but for its order.
GATE = Gate(0.9999)
#: What it must reach against rows that the owner's own program computed: another resize and decoder may be in them.
REFERENCE_GATE = Gate(-1.0, p1_cosine=0.99, mean_cosine=0.998)
#: Rows are of length 1 within this.
_UNIT = 1e-3
#: Classes of the usual training sets: rows of this length may be logits.
_CLASSES = {
    702: "DukeMTMC-reID",
    751: "Market-1501",
    767: "CUHK03",
    1000: "ImageNet",
    1041: "MSMT17",
    4101: "MSMT17",
}
_TOOLS = ("san-deploy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class ImportOptions:
    """What to import, and what it expects.

    Attributes:
        source: an ONNX file, or the .xml of OpenVINO's IR.
        convention: of its input.
        size_hw: height and width, where the file leaves them open.
        layout: `nchw` or `nhwc`; empty to tell by the channels.
        output: name of the embedding, where there are several outputs.
        input_form: of the artefact: `uint8`, or `float` for DeepStream.
        normalise: None adds the L2 norm where rows are not of length 1; False refuses such rows.
        crops: a folder to check on; None takes the sample crops.
        reference: rows that the owner's program gave for `crops`, in sorted order: .npy, `(n, D)`.
    """

    source: Path
    convention: Convention
    size_hw: tuple[int, int] | None = None
    layout: str = ""
    output: str = ""
    input_form: str = "uint8"
    normalise: bool | None = None
    crops: Path | None = None
    reference: Path | None = None


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        artefact: what the file says of itself.
        parity: against the original, see `open_original`.
        against_reference: against the owner's rows; None where none were given.
        notes: what a user should know.
        problems: what TensorRT 10.3 would refuse or run wrong, a line for each node.
    """

    artefact: Artefact
    parity: Parity
    against_reference: dict[str, float] | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "artefact": self.artefact.as_dict(),
            "against_reference": self.against_reference,
            "notes": list(self.notes),
            "tensorrt": list(self.problems),
        }


@dataclass(frozen=True)
class _Original:
    """The foreign network as its owner runs it."""

    foreign: Foreign
    session: Any
    convention: Convention = field(default_factory=Convention)

    @property
    def runtime(self) -> str:
        """Whose arithmetic it is."""
        return "OpenVINO" if self.foreign.is_ir else "ONNX Runtime"

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """`(N, H, W, 3)` uint8 BGR to `(N, D)` float32, as the network gives them."""
        x = self.convention.apply(crops, self.foreign.layout)
        if self.foreign.input_type == onnx.TensorProto.FLOAT16:
            x = x.astype(np.float16)
        batch = self.foreign.batch or len(x)
        # A fixed batch is filled up with its last crop.
        parts = [x[at : at + batch] for at in range(0, len(x), batch)]
        rows = [
            self._run(np.concatenate([part, part[-1:].repeat(batch - len(part), 0)]))[: len(part)]
            for part in parts
        ]
        return np.concatenate(rows).astype(np.float32)

    def _run(self, x: np.ndarray) -> np.ndarray:
        path = self.foreign.path
        try:
            rows: np.ndarray = self.session.run([self.foreign.output], {self.foreign.input: x})[0]
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise SanError(
                f"{path} fails in {self.runtime} on {x.shape}",
                why=str(error).strip().split("\n")[0][:200],
                do="say its --size, or export it again",
            ) from error
        if rows.ndim != 2 or len(rows) != len(x):
            raise SanError(
                f"output {self.foreign.output} of {path} has shape {rows.shape} for {len(x)} crops",
                why="an embedding is (N, D)",
                do="choose another: --output NAME",
            )
        return rows


def open_original(foreign: Foreign, convention: Convention) -> _Original:
    """The foreign network on the CPU, one thread, in ONNX Runtime; an IR in OpenVINO.

    Raises:
        SanError: it does not open.
    """
    if foreign.is_ir:
        return _Original(foreign, IrSession(foreign.path, foreign.output), convention)
    session = open_cpu(foreign.model.SerializeToString(), foreign.path)
    return _Original(foreign, session, convention)


def import_model(
    options: ImportOptions,
    out: Path,
    *,
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Wrap an ONNX network into an artefact that embeds as the original does.

    Args:
        options: what to import.
        out: the .onnx file to write, with its sidecar.
        force: replace an existing one.
        report: takes one line for each step.

    Raises:
        UsageError: options that do not fit the file or each other.
        SanError: no embedding network, or rows that are NaN.
        GateError: the wrapped network, or the owner's rows, differ.
    """
    if options.reference is not None and options.crops is None:
        raise UsageError("--reference holds rows of crops", do="say which: --crops DIR")
    foreign = read_foreign(
        options.source, size_hw=options.size_hw, layout=options.layout, output=options.output
    )
    original = open_original(foreign, options.convention)
    crops = check_crops(
        None if options.reference else options.crops,
        foreign.size_hw,
        report,
        resize=options.convention.resize,
    )
    rows = original(crops.images)
    notes = list(_look_at(rows, options.source))
    unit = bool((np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) < _UNIT).all())
    if options.normalise is False and not unit:
        raise SanError(
            f"rows of {options.source} are not of length 1",
            do="leave --no-normalise out: cosine needs unit rows",
        )
    notes.append("its rows have length 1 already" if unit else "the L2 norm was added")
    report(
        f"wrapping {options.source.name}: {foreign.size_hw[0]} x {foreign.size_hw[1]}, {options.convention}"
    )
    model = wrap(
        foreign,
        options.convention,
        rows.shape[1],
        input_form=options.input_form,
        normalise=not unit or options.normalise is True,
    )
    artefact = _describe(foreign, options, rows.shape[1], model)
    with atomic_pair(out, sidecar_path, force=force) as temporary:
        write_onnx(model, artefact, temporary)
        parity = _compare(temporary, rows, crops, foreign, options.source)
        against = _against(options, temporary, report) if options.reference is not None else None
        checks: dict[str, Any] = {**parity.as_dict(), "gate": GATE.as_dict()}
        if against is not None:
            checks["owner"] = against
        samples = keep_samples(artefact, original, source=f"the original in {original.runtime}")
        artefact = replace(artefact, checks=checks, samples=samples)
        write_onnx(model, artefact, temporary)
        artefact = replace(artefact, sha256=sha256_file(temporary))
        write_sidecar(artefact, temporary)
    if foreign.batch is not None:
        notes.append(f"its batch was fixed at {foreign.batch} and is free now, compared at {_batches()}")
    return Imported(artefact, parity, against, tuple(notes), foreign.problems)


def _look_at(rows: np.ndarray, source: Path) -> list[str]:
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise SanError(
            f"{source} gives NaN or infinity for {int(bad.sum())} of {len(rows)} crops",
            why="the file is broken, or its input is expected in another range",
            do="try another --scale, --mean and --std, or export it again",
        )
    if not np.any(np.ptp(rows, axis=0) > 0):
        raise SanError(
            f"{source} gives the same row for every crop", do="check its --scale, or export it again"
        )
    sums = rows.sum(axis=1)
    if (rows >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        raise SanError(
            f"{source} gives probabilities: a classifier's end",
            do="export the features before its last layer",
        )
    if rows.shape[1] in _CLASSES:
        return [
            f"rows of {rows.shape[1]} numbers may be logits of {_CLASSES[rows.shape[1]]}'s classes, which match "
            "strangers badly; the features lie before the last layer"
        ]
    return []


def _describe(foreign: Foreign, options: ImportOptions, dim: int, model: onnx.ModelProto) -> Artefact:
    mean, std = options.convention.mean_std_rgb()
    settings = {
        "file": foreign.path.name,
        "producer": f"{foreign.model.producer_name} {foreign.model.producer_version}".strip(),
        "output": foreign.output,
        "layout": foreign.layout,
        "convention": options.convention.as_dict(),
    }
    artefact = Artefact(
        arch=ARCH,
        settings=settings,
        embedding_dim=dim,
        size_hw=foreign.size_hw,
        input=options.input_form,
        resize=options.convention.resize,
        mean_rgb=mean,  # type: ignore[arg-type]
        std_rgb=std,  # type: ignore[arg-type]
        mask="none",
        precision="fp32",
        checkpoint_sha256=sha256_file(foreign.path),
        weights_sha256=foreign.weights_sha256(options.convention.color),
        versions=versions(*_TOOLS),
        operands=count_operands(model),
    )
    return replace(artefact, space=space_of(artefact))


def _batches() -> str:
    return ", ".join(map(str, BATCHES))


def _compare(path: Path, rows: np.ndarray, crops: CheckCrops, foreign: Foreign, source: Path) -> Parity:
    try:
        parity = measure(open_checked(path), rows, crops, name="the original")
    except SanError as error:
        if foreign.batch is None or not _runs(
            path, np.resize(crops.images, (foreign.batch, *crops.images.shape[1:]))
        ):
            raise
        raise SanError(
            f"{source} has a fixed batch of {foreign.batch} that cannot be freed",
            why=error.why or error.message,
            do="export it with a dynamic batch (torch: dynamic_shapes or dynamic_axes)",
        ) from error
    failures = judge(parity, GATE)
    if failures:
        fixed = f"; its batch was fixed at {foreign.batch}" if foreign.batch is not None else ""
        raise GateError(
            f"{source} was not imported: {'; '.join(failures)}",
            why=f"the wrapped network embeds otherwise than the original{fixed}",
            do="export it with a dynamic batch" if fixed else "report it, with the file",
        )
    return parity


def _runs(path: Path, crops: np.ndarray) -> bool:
    try:
        open_checked(path)(crops)
    except SanError:
        return False
    return True


def read_owner_crops(folder: Path, size_hw: tuple[int, int], resize: str) -> np.ndarray:
    """All crops of a folder in sorted order, resized.

    Raises:
        SanError: one cannot be read: rows and crops would no longer pair.
    """
    images = []
    for path in list_crops(folder):
        try:
            images.append(resize_crop(read_image(folder / path), size_hw, resize))
        except UnreadableImage as error:
            raise SanError(str(error), do="remove it, and its row from --reference") from error
    return np.stack(images)


def read_reference(path: Path) -> np.ndarray:
    """`(n, D)` float rows of a .npy file.

    Raises:
        SanError: no such file, no array of numbers, or NaN.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise SanError(f"{path} does not exist", do="save the rows with numpy.save") from error
    except Exception as error:  # a .npz is loaded, too, and NumPy raises whatever a damaged file leads to
        raise SanError(f"{path} is no .npy file", do="save the rows with numpy.save") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind != "f":
        raise SanError(f"{path} is not (n, D) of floats", do="save the rows with numpy.save")
    if not np.isfinite(rows).all():
        raise SanError(f"{path} holds NaN or infinity")
    return rows


def _against(options: ImportOptions, path: Path, report: Callable[[str], None]) -> dict[str, float]:
    assert options.reference is not None and options.crops is not None
    model = OnnxRuntime(path)
    wanted = read_reference(options.reference)
    images = read_owner_crops(options.crops, model.artefact.size_hw, options.convention.resize)
    if wanted.shape != (len(images), model.artefact.embedding_dim):
        raise SanError(
            f"{options.reference} has rows of {wanted.shape}, {options.crops} and the network give "
            f"({len(images)}, {model.artefact.embedding_dim})",
            do="one row for each crop, in sorted order of their paths",
        )
    report(f"comparing with {len(wanted)} rows of {options.reference.name}")
    cosine = row_cosine(np.concatenate(list(_embed(model, images))), wanted)
    figures = {
        "mean_cosine": round(float(cosine.mean()), 7),
        "p1_cosine": round(float(np.percentile(cosine, 1)), 7),
        "min_cosine": round(float(cosine.min()), 7),
    }
    below = [key for key, least in REFERENCE_GATE.as_dict().items() if not figures[key] >= least]
    if below:
        raise GateError(
            f"{options.source} was not imported: rows differ from {options.reference.name}'s, "
            + ", ".join(f"{key} {figures[key]:.4f}" for key in figures),
            why=f"the gate is {REFERENCE_GATE}; the convention is another, or the crops are in another order",
            do="let `san import --try` say which convention fits",
        )
    return figures


def _embed(
    model: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int = 32
) -> Sequence[np.ndarray]:
    return [model(images[at : at + batch]) for at in range(0, len(images), batch)]
