"""The model pair, opened: what runs each, what each says of itself, and their graphs to look into."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME, Artefact, from_metadata, sha256_file
from san_deploy.backends import PLANS, open_backend
from san_deploy.backends.onnxruntime import CUDA, int8_entries, missing_provider, open_cpu
from san_deploy.backends.plan import read_plan
from san_deploy.errors import SanError, UsageError, first_line
from san_deploy.integrity import of_onnx
from san_deploy.io.cpu import usable_cores
from san_deploy.io.printable import printable
from san_deploy.preprocess import RESIZES

from ..graph.graph import view
from ..precision.emulate_fp16 import emulate_fp16
from ..precision.fp16 import to_fp16

if TYPE_CHECKING:
    from san_train.models import Network

    from .outputs import GivenRows
    from .sample import Resize
    from .stages.probes import MaskProbe

#: Crops per call where the file does not say what it is best at: what ONNX Runtime is asked to run, and beyond which
#: it gains nothing.
_OPTIMUM, _MAXIMUM = 16, 32
_EXPORT = "export it again: san export CHECKPOINT"
Rows = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ParityModel:
    """One of the two: the reference, or the model under test.

    Attributes:
        path: its file.
        artefact: what it says of itself; of a checkpoint what an export of it would say.
        runtime: what runs it, in words.
        rows: `(n, H, W, 3)` uint8 BGR to `(n, D)`, as they come: nothing is checked or normalised. SanError where
            the runtime fails, or where it checks rows itself, as engines' does.
        optimum, maximum: crops per call that it is best at, and that it takes at most in one run.
        fixed: whether it takes `optimum` crops a call and no other number; `rows` fills up what is less.
        calls: of `rows` at a time.
        model: of an ONNX file, as it lies on the disk.
        as_it_is: of an FP16 file on a CPU, whose `rows` round as a GPU does: the file itself.
        close: gives the memory back that `rows` and `as_it_is` hold between calls.
        outputs: rows that another program computed, by the crop's path below the folder; then `rows` is not called.
        resize: of another pipeline, which its crops are brought to size with in place of san-deploy's.
        notes: for people.
    """

    path: Path
    artefact: Artefact
    runtime: str
    rows: Rows
    optimum: int = _OPTIMUM
    maximum: int = _MAXIMUM
    fixed: bool = False
    calls: int = 1
    model: onnx.ModelProto | None = None
    as_it_is: Rows | None = None
    close: Callable[[], None] = lambda: None
    outputs: GivenRows | None = None
    resize: Resize | None = None
    notes: tuple[str, ...] = ()

    @property
    def checkpoint(self) -> bool:
        """Whether PyTorch runs it."""
        return self.path.suffix == ".safetensors"

    def as_dict(self) -> dict[str, Any]:
        """For people and for JSON."""
        return {
            "file": printable(self.path),
            "runtime": self.runtime,
            "precision": self.artefact.precision.upper(),
            "mask": self.artefact.mask,
        }


@dataclass(eq=False)
class ModelPair:
    """Reference and target, which fit each other.

    Attributes:
        reference, target: opened.
        onnx_file: what an engine was built from, where the user named it.
        notes: on the pair, for people.
        graph_notes: on what stands for the target where layers and masks are looked at.
    """

    reference: ParityModel
    target: ParityModel
    onnx_file: Path | None = None
    notes: tuple[str, ...] = ()
    graph_notes: list[str] = field(default_factory=list)

    @cached_property
    def network(self) -> Network:
        """The reference's network; of a checkpoint alone. Needs PyTorch."""
        from san_train.checkpoint import load_checkpoint

        from san_deploy.backends.torch import TorchNetwork

        if isinstance(self.reference.rows, TorchNetwork):
            return self.reference.rows.network
        return load_checkpoint(self.reference.path, accept_damaged=True)[0]

    @cached_property
    def reference_graph(self) -> onnx.ModelProto:
        """The reference as a graph: the file itself, or a fresh FP32 export of the checkpoint.

        Raises:
            SanError: it cannot be exported.
        """
        if self.reference.model is not None:
            return _to_look_into(self.reference.model)
        from ..onnx_writer import OPSETS, to_onnx
        from ..wrapper import OnnxWrapper

        asked = _opset(self.target.model) if self.target.model is not None else 0
        wrapper = OnnxWrapper(
            self.network, mask=_torch_mask(self.reference.artefact), input_form=self.target.artefact.input
        )
        size_hw = self.reference.artefact.size_hw
        model = to_onnx(wrapper, size_hw, opset=min(max(asked, OPSETS[0]), OPSETS[1]))
        wrapper.release()
        return model

    @property
    def reference_graph_artefact(self) -> Artefact:
        """What `reference_graph` takes: a checkpoint is exported in the target's input form."""
        if self.reference.model is not None:
            return self.reference.artefact
        return replace(self.reference.artefact, input=self.target.artefact.input)

    @cached_property
    def own_graph(self) -> onnx.ModelProto | None:
        """The target as a graph that rounds as it does: the file itself, or what an engine was built from.

        None for an engine whose ONNX file is not here.
        """
        if self.target.model is not None:
            return _to_look_into(self.target.model)
        model = self._engine_source()
        if model is None:
            return None
        self.graph_notes.append("Layers and masks are of the ONNX file that the engine was built from.")
        return _to_look_into(model)

    @cached_property
    def target_graph(self) -> onnx.ModelProto:
        """`own_graph`; of an FP16 engine without one the FP32 reference, rounded to FP16, stands in.

        Raises:
            SanError: nothing shows what an engine computes.
        """
        if self.own_graph is not None:
            return self.own_graph
        if self._stands_in:
            self.graph_notes.append(
                "The ONNX file that the engine was built from is not here: layers and masks are of the reference "
                "converted to FP16, not of the engine."
            )
            return emulate_fp16(to_fp16(self.reference_graph))
        raise SanError(
            f"the ONNX file that {self.target.path.name} was built from is not beside it",
            do="give it: --onnx FILE",
        )

    def resized(self, resize: Resize, name: str) -> ModelPair:
        """The same pair whose target gets its crops as another pipeline resizes them."""
        note = f"The target's crops are resized with {name}; masks and layers are given san-deploy's own."
        target = replace(self.target, resize=resize)
        return ModelPair(self.reference, target, self.onnx_file, (*self.notes, note))

    @property
    def _stands_in(self) -> bool:
        """Whether the reference can show what an engine computes."""
        return self.target.artefact.precision == "fp16" and self.reference.artefact.precision == "fp32"

    @property
    def has_graphs(self) -> bool:
        """Whether there is a `target_graph`, to hold against the reference's.

        Raises:
            SanError: what the engine was built from cannot be read.
        """
        return self.own_graph is not None or self._stands_in

    def mask_probe(self) -> MaskProbe:
        """What the reference's masks are: PyTorch's own for a checkpoint."""
        if self.reference.checkpoint:
            from .stages.torch_probe import torch_probe

            return torch_probe(self.network, self.reference.artefact.mask)
        from .stages.probes import onnx_probe

        return onnx_probe(self.reference_graph, self.reference.artefact)

    def _engine_source(self) -> onnx.ModelProto | None:
        engine = self.target.artefact.engine
        if engine is None:
            return None
        if self.onnx_file is not None:
            return _load(self.onnx_file.read_bytes(), self.onnx_file)
        beside = (
            self.target.path.with_name(engine.onnx) if engine.onnx else self.target.path.with_suffix(".onnx")
        )
        if not beside.is_file():
            return None
        if sha256_file(beside) != engine.onnx_sha256:
            self.graph_notes.append(
                f"{beside.name} beside the engine is not the file that it was built from."
            )
            return None
        return _load(beside.read_bytes(), beside)


def open_pair(
    reference: Path,
    target: Path,
    *,
    mask: str | None = None,
    onnx_file: Path | None = None,
    backend: str = "auto",
    device: str = "auto",
) -> ModelPair:
    """Open both, and refuse what cannot be compared. A target that computes nonsense is opened.

    Args:
        reference: a checkpoint (needs PyTorch), run in FP32 on the CPU, or an ONNX file.
        target: an ONNX file, or an engine with its sidecar.
        mask: of a checkpoint; None takes the target's, where the network has that choice.
        onnx_file: what the engine was built from; None looks for it beside the engine.
        backend: of the target, see `open_backend`.
        device: of the target, likewise.

    Raises:
        UsageError: options that do not fit the files.
        SanError: a file is missing, damaged, without metadata or of another schema; input sizes, lengths of
            embeddings or networks differ; the device is not there.
    """
    reference, target = Path(reference), Path(target)
    _check_kinds(reference, target, mask, onnx_file)
    second = _open_target(target, backend, device)
    if onnx_file is not None:
        _check_source(second, onnx_file)
    first = _open_reference(reference, mask, second.artefact)
    _check_fit(first, second)
    notes = []
    if first.artefact.sha256 == second.artefact.sha256:
        notes.append(
            "REFERENCE AND TARGET ARE THE SAME FILE: that it agrees with itself says nothing of its source."
        )
    if first.artefact.mask != second.artefact.mask:
        notes.append(
            f"THE MASKS DIFFER: {first.artefact.mask} in the reference, {second.artefact.mask} in the target. What is "
            "measured is that choice and the rounding together."
        )
    elif first.checkpoint and mask is None and second.artefact.mask not in ("none", "soft"):
        notes.append(
            f"The checkpoint runs with the target's mask, {second.artefact.mask}; --mask gives another."
        )
    if first.artefact.precision != "fp32":
        notes.append(
            f"THE REFERENCE IS {first.artefact.precision.upper()} ITSELF: what it lost against FP32 is not seen here."
        )
    return ModelPair(first, second, onnx_file, tuple(notes))


def open_outputs(reference: Path, outputs: GivenRows, *, mask: str | None = None) -> ModelPair:
    """A pair whose target is the rows that another program computed; their gates are those of FP16.

    Args:
        reference: a checkpoint or an ONNX file, as in `open_pair`.
        outputs: the rows.
        mask: of a checkpoint; None takes what it was trained for.

    Raises:
        UsageError: as `open_pair`.
        SanError: likewise.
    """
    reference = Path(reference)
    _check_kinds(reference, None, mask, None)
    first = _open_reference(reference, mask, None)
    artefact = replace(first.artefact, precision="fp16", sha256="", engine=None, calibration=None)
    target = ParityModel(outputs.path, artefact, "another program", _not_run, outputs=outputs)
    note = "How the other program rounds is not known: its rows are held to the gates of FP16."
    return ModelPair(first, target, notes=(note,))


def _not_run(crops: np.ndarray) -> np.ndarray:
    raise SanError("the rows of another program are given, not computed")


class RawOnnx:
    """An ONNX graph in ONNX Runtime on the CPU, one thread a call, a batch in one call, rows as they come.

    Args:
        data: of the file; not kept.
        path: for messages.
        artefact: what it says of itself.
        fixed: crops that the graph takes, no more and no fewer; what a batch lacks is filled up with its last crop.
        again: makes `data` once more, where it is called after `close`.

    Raises:
        SanError: it does not open.
    """

    def __init__(
        self, data: bytes, path: Path, artefact: Artefact, fixed: int | None, again: Callable[[], bytes]
    ) -> None:
        self._path = path
        self._artefact = artefact
        self._fixed = fixed
        self._again = again
        self._lock = threading.Lock()
        self._session: Any = self._open(data)

    def close(self) -> None:
        """Give the memory of the session back, until the next call."""
        self._session = None

    def _open(self, data: bytes) -> Any:
        return open_cpu(data, self._path, entries=int8_entries(self._artefact))

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """`(n, H, W, 3)` uint8 BGR to whatever the graph gives, float32; SanError where it fails."""
        if self._fixed is None:
            return self._run(crops)
        parts = []
        for start in range(0, len(crops), self._fixed):
            part = crops[start : start + self._fixed]
            filled = np.concatenate([part, np.repeat(part[-1:], self._fixed - len(part), 0)])
            parts.append(self._run(filled)[: len(part)])
        return np.concatenate(parts)

    def _run(self, crops: np.ndarray) -> np.ndarray:
        with self._lock:
            session = self._session = self._session or self._open(self._again())
        try:
            rows: np.ndarray = session.run([OUTPUT_NAME], {INPUT_NAME: self._artefact.to_input(crops)})[0]
        except SanError:
            raise
        except Exception as error:  # its exceptions have no common base but this
            raise SanError(f"{self._path} failed in ONNX Runtime", why=first_line(error)) from error
        return rows


def has_fp16(model: onnx.ModelProto) -> bool:
    """Whether any value of a graph is FP16."""
    return TensorProto.FLOAT16 in view(model).types.values()


def _check_kinds(reference: Path, target: Path | None, mask: str | None, onnx_file: Path | None) -> None:
    for path in filter(None, (reference, target, onnx_file)):
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise SanError(f"{path} {what}", do="name a file of san train or san export")
    if reference.suffix in PLANS:
        raise UsageError(
            f"the reference {reference} is an engine",
            do="give what it was made from: a checkpoint or an ONNX file",
        )
    if reference.suffix not in (".safetensors", ".onnx"):
        raise UsageError(f"the reference {reference} is neither a checkpoint (.safetensors) nor an ONNX file")
    if target is not None and target.suffix not in (".onnx", *PLANS):
        do = f"export it first: san export {target}" if target.suffix == ".safetensors" else ""
        raise UsageError(f"the target {target} is neither an ONNX file nor an engine", do=do)
    if mask is not None and reference.suffix != ".safetensors":
        raise UsageError(
            f"--mask {mask} does not go with {reference}",
            why="its mask is part of the file",
            do="leave it out",
        )
    if onnx_file is not None and target is not None and target.suffix == ".onnx":
        raise UsageError(f"--onnx is for an engine, and {target} is an ONNX file", do="leave it out")


def _open_reference(path: Path, mask: str | None, target: Artefact | None) -> ParityModel:
    if path.suffix == ".onnx":
        return _open_onnx(path)
    if importlib.util.find_spec("onnxscript") is None:
        # Its graph is needed after minutes: what is missing is said before.
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")
    from san_deploy.checkpoint_info import read_header, read_info

    resize = read_info(path, read_header(path).description).resize
    if resize not in RESIZES:
        raise SanError(
            f"{path} was trained with the resize '{resize}'",
            why=f"this version has {', '.join(RESIZES)}",
            do="use the version of san-deploy that trained it",
        )
    like = mask or (None if target is None or target.mask in ("none", "soft") else target.mask)
    cores = usable_cores()
    try:
        runtime = open_backend(path, device="cpu", threads=cores, mask=like, accept_damaged=True)
    except UsageError:
        if mask is not None:
            raise
        # Its network has no mask to choose, which is said with the rest of what differs.
        runtime = open_backend(path, device="cpu", threads=cores, accept_damaged=True)
    notes = (f"{path.name}: {runtime.note}.",) if runtime.note else ()
    return ParityModel(path, runtime.artefact, runtime.name, runtime, notes=notes)


def _open_target(path: Path, backend: str, device: str) -> ParityModel:
    if path.suffix in PLANS:
        engine = read_plan(path).engine
        runtime = open_backend(path, backend=backend, device=device)
        _, optimum, maximum = engine.batch
        notes = (f"{runtime.note}.",) if runtime.note else ()
        return ParityModel(path, runtime.artefact, runtime.name, runtime, optimum, maximum, notes=notes)
    if backend in ("auto", "onnxruntime") and (device == "cpu" or (device == "auto" and not _gpu())):
        return _open_onnx(path)
    # What was read is compared with what runs: the file may be broken, but not another.
    opened = _open_onnx(path, rounded=False)
    opened.close()
    runtime = open_backend(path, backend=backend, device=device, accept_damaged=True)
    notes = (f"{runtime.note}.",) if runtime.note else ()
    return ParityModel(
        path, opened.artefact, runtime.name, runtime, model=opened.model, notes=(*opened.notes, *notes)
    )


def _gpu() -> bool:
    """Whether ONNX Runtime can use a GPU here."""
    from san_deploy.backends.cuda import probe

    return not (probe()[1] or missing_provider(CUDA))


def _open_onnx(path: Path, *, rounded: bool = True) -> ParityModel:
    """An ONNX file on the CPU; with `rounded`, FP16's roundings are put in, which ONNX Runtime leaves out there."""
    data = path.read_bytes()
    if not data:
        raise SanError(f"model {path} is empty", do="fetch it again, or " + _EXPORT)
    model = _load(data, path)
    metadata = {item.key: item.value for item in model.metadata_props}
    artefact = from_metadata(metadata, path=path, sha256=hashlib.sha256(data).hexdigest())
    if artefact.engine is not None:
        raise SanError(f"{path} says that it is an engine", do=_EXPORT)
    fixed = _batch_of(model)
    raw = RawOnnx(data, path, artefact, fixed, model.SerializeToString)
    cores = usable_cores()
    opened = ParityModel(
        path,
        artefact,
        f"onnxruntime (CPU, {cores} x 1 thread)",
        raw,
        calls=cores,
        model=model,
        close=raw.close,
        notes=_integrity(data, path),
    )
    if fixed is not None:
        note = (
            f"{path.name} takes {fixed} crops a call, no more and no fewer; what a batch lacks is filled up."
        )
        opened = replace(opened, optimum=fixed, maximum=fixed, fixed=True, notes=(*opened.notes, note))
    if not (rounded and has_fp16(model)):
        return opened

    def emulated() -> bytes:
        return emulate_fp16(model).SerializeToString()

    measured = RawOnnx(emulated(), path, artefact, fixed, emulated)

    def close() -> None:
        raw.close()
        measured.close()

    note = f"{path.name} is measured with every FP16 rounding of a GPU, most of which ONNX Runtime leaves out on a CPU."
    return replace(
        opened,
        runtime=f"{opened.runtime}, FP16 emulated",
        rows=measured,
        as_it_is=raw,
        close=close,
        notes=(*opened.notes, note),
    )


def _integrity(data: bytes, path: Path) -> tuple[str, ...]:
    """What is to be said of a file that is not known to be whole. It is compared all the same."""
    try:
        note = of_onnx(data, path).note
    except SanError:  # a sidecar that cannot be read, which is among the artefact's facts
        return ()
    return (f"{path.name}: {note}.",) if note else ()


def _load(data: bytes, path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors, which have no common base but this
        raise SanError(f"{path} is not a whole ONNX file", why=first_line(error), do=_EXPORT) from error


def _check_source(target: ParityModel, onnx_file: Path) -> None:
    engine = target.artefact.engine
    if engine is not None and sha256_file(onnx_file) != engine.onnx_sha256:
        raise SanError(
            f"{onnx_file} is not what {target.path} was built from",
            why=f"that has SHA-256 {engine.onnx_sha256[:12]}",
            do="give that file, or leave --onnx out",
        )


def _check_fit(reference: ParityModel, target: ParityModel) -> None:
    first, second = reference.artefact, target.artefact
    facts = (
        ("takes crops of", "{0[0]} x {0[1]}", first.size_hw, second.size_hw),
        ("gives embeddings of", "{0} values", first.embedding_dim, second.embedding_dim),
        ("is a network of the class", "{0}", first.arch, second.arch),
    )
    for what, form, one, other in facts:
        if one != other:
            raise SanError(
                f"{target.path} {what} {form.format(other)}, {reference.path} {form.format(one)}",
                do="compare with the checkpoint or the file that it was made from",
            )


def _to_look_into(model: onnx.ModelProto) -> onnx.ModelProto:
    """With FP16's roundings put in, and of any batch: a fixed one is a matter of the rows."""
    if _batch_of(model) is not None:
        free = onnx.ModelProto()
        free.CopyFrom(model)
        for item in (*free.graph.input, *free.graph.output):
            item.type.tensor_type.shape.dim[0].dim_param = "N"
        del free.graph.value_info[:]
        model = free
    return emulate_fp16(model) if has_fp16(model) else model


def _batch_of(model: onnx.ModelProto) -> int | None:
    """The batch that a graph is fixed to."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for item in model.graph.input:
        shape = item.type.tensor_type.shape.dim
        if item.name not in weights and shape and shape[0].dim_value > 0:
            return int(shape[0].dim_value)
    return None


def _torch_mask(artefact: Artefact) -> str:
    """A network without a sharp mask has nothing to switch."""
    return "argmax" if artefact.mask in ("none", "soft") else artefact.mask


def _opset(model: onnx.ModelProto) -> int:
    return view(model).opset
