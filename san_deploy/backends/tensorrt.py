"""TensorRT 10.3 to 11.4 and TensorRT-RTX, without PyTorch: a plan of `san export`, opened and run.

Written after NVIDIA's documentation and tested on simulated devices; not run on a GPU.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..artefact import INPUT_NAME, OUTPUT_NAME, Artefact, read_sidecar, sidecar_path
from ..errors import SanError
from . import cuda as cuda_runtime
from . import trt as modules
from .common import check_embeddings, export_int8, in_words, other_files, prepare
from .cuda import Cuda, Stream, load, require
from .info import Compatibility, FileInfo
from .pipeline import Pipeline
from .plan import Plan, check_device, check_system, check_version, read_plan, rebuild
from .spec import Backend, BackendSpec, Installed, OpenRequest


class TensorRT:
    """A `Backend` that runs a plan on an NVIDIA GPU.

    Batches larger than the engine's largest are cut into parts, smaller ones than its least are filled up.
    Calls from several threads at once take turns part by part, so while one part runs, another thread's is
    copied; see `pipeline`.

    Runs of the engine's largest batch are recorded as CUDA graphs when it is opened, which saves the time to
    launch every kernel; an engine built for one batch size alone (`--batch 8,8,8`) gains most. TensorRT-RTX
    does this by itself, for every size.

    Args:
        path: the plan, with its sidecar beside it. Nothing of it is executed before the sidecar's SHA-256, the
            system, the version and the GPU are found to fit.
        device: index of the GPU.
        graphs: CUDA graphs: True must, False must not be, None where they can be.
        trt: the module to use instead of the installed one that the sidecar calls for.
        cuda: the CUDA runtime to use instead of the installed one.

    Attributes:
        artefact: what the sidecar says.
        name: `tensorrt 10.16.1.11 (cuda:0 NVIDIA T4, sm75)`.
        note: what to know of this engine on this machine; empty for nothing.

    Raises:
        SanError: the plan does not fit this machine, nothing is installed that runs it, or no memory is left.

    Example:
        with TensorRT(Path("model.engine")) as model:
            rows = model(crops)
            print(model.profile(crops))  # {"copy_in": 0.31, "run": 4.2, "copy_out": 0.02}, if it takes that
    """

    def __init__(
        self,
        path: Path,
        *,
        device: int = 0,
        graphs: bool | None = None,
        trt: ModuleType | None = None,
        cuda: Cuda | None = None,
    ) -> None:
        plan = read_plan(Path(path), device)
        check_system(plan)
        module = _module(plan) if trt is None else trt
        version = modules.version(module)
        check_version(plan, version)
        # `require` says best why there is none.
        gpu = require(device) if cuda is None else cuda.device_at(device)
        cuda = cuda or load()
        check_device(plan, gpu)
        self.artefact = plan.artefact
        self._path = plan.path
        self._source = plan.source
        cuda.set_device(device)
        engine, note = _deserialise(module, plan)
        _check_engine(module, engine, plan)
        contexts = _Contexts(module, engine, graphs=graphs is not False)
        least, _, most = plan.engine.batch
        self._held = [engine]
        with ExitStack() as stack:
            stack.callback(self._held.clear)
            # All contexts share it, as they run one after another, in one stream.
            size = _activation_bytes(engine)
            memory = stack.enter_context(cuda.device_memory(size)) if size else None

            def new_context(stream: Stream) -> Any:
                return contexts.new(stream, memory.handle if memory else 0, size, path=plan.path)

            self._pipeline = Pipeline(
                cuda,
                device,
                new_context,
                batch=(least, most),
                row=_row(plan.artefact),
                dim=plan.artefact.embedding_dim,
                graphs=False if contexts.record_graphs else graphs,
                name=str(path),
            )
            stack.callback(self._pipeline.close)
            self._resources = stack.pop_all()
        self.name = f"{plan.engine.runtime} {version} (cuda:{gpu.index} {gpu.name}, {gpu.sm})"
        notes = [note, self._pipeline.note]
        if plan.engine.gpu not in ("", gpu.name):
            notes.append(f"the engine was built on {plan.engine.gpu}; one built here may be faster")
        if least > 1:
            notes.append(f"batches of fewer than {least} crops take as long as {least}")
        self.note = "; ".join(filter(None, notes))

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Embed prepared crops.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR, N >= 1; H and W as in `artefact.size_hw`.

        Returns:
            `(N, D)` float32, norm 1, in the order of `crops`; a new array.

        Raises:
            SanError: other crops, CUDA or TensorRT fails, or a row is not finite or not of norm 1.
        """
        rows = self._pipeline(prepare(self.artefact, crops))
        return check_embeddings(
            rows,
            shape=(len(crops), self.artefact.embedding_dim),
            path=self._path,
            do=f"see whether {self._source.name} gives them too, and build the engine again",
        )

    def profile(self, crops: np.ndarray) -> dict[str, float]:
        """Time each step of a call on the device, by CUDA events, without overlap.

        Args:
            crops: as for a call.

        Returns:
            Milliseconds: `copy_in`, `run`, `copy_out`, summed over the parts of the batch.
        """
        return self._pipeline.profile(prepare(self.artefact, crops))

    def close(self) -> None:
        """Wait for what is running and free everything; calls from now on are refused."""
        self._resources.close()

    def __enter__(self) -> TensorRT:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Contexts:
    """Makes execution contexts, whose intermediate results lie in memory that they are given.

    Args:
        trt: the module.
        engine: whose they are.
        graphs: whether a runtime that records CUDA graphs by itself is to do so.

    Attributes:
        record_graphs: whether it is such a runtime: TensorRT-RTX from 1.2 on.
    """

    def __init__(self, trt: Any, engine: Any, *, graphs: bool) -> None:
        self._engine = engine
        self._how: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.record_graphs = hasattr(trt, "CudaGraphStrategy") and hasattr(engine, "create_runtime_config")
        if self.record_graphs:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(self._how)
            strategy = trt.CudaGraphStrategy
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
            if hasattr(config, "create_runtime_cache"):
                # Kernels are compiled when they are first needed; with it once, not once for each context.
                config.set_runtime_cache(config.create_runtime_cache())
            self._how = config

    def new(self, stream: Stream, address: int, size: int, *, path: Path) -> Any:
        """A context with profile 0, its intermediate results at `address`."""
        with modules.collected() as messages:
            context = self._engine.create_execution_context(self._how)
            if context is None:
                raise SanError(f"TensorRT made no execution context for {path}", why=messages.why())
            if size and hasattr(context, "set_device_memory"):
                context.set_device_memory(address, size)
            elif size:
                context.device_memory = address
            # Some versions select profile 0 for the first context alone.
            selected = context.active_optimization_profile == 0
            if not selected and not context.set_optimization_profile_async(0, stream.handle):
                raise SanError(f"TensorRT refused profile 0 of {path}", why=messages.why())
        return context


def _module(plan: Plan) -> ModuleType:
    """The installed module of the plan's runtime."""
    try:
        return modules.load(plan.engine.runtime)
    except SanError as error:
        others = [name for name in modules.available() if name != plan.engine.runtime]
        do = error.do
        if others:
            do += f"; or use the {others[0]} that is here: {rebuild(plan, runtime=others[0])}"
        raise SanError(
            f"engine {plan.path} was built with {plan.engine.runtime} {plan.engine.version}",
            why=error.message + (f": {error.why}" if error.why else ""),
            do=do,
        ) from error


def _deserialise(trt: Any, plan: Plan) -> tuple[Any, str]:
    """The engine, and what to know of it in words."""
    note = ""
    with modules.collected() as messages:
        runtime = trt.Runtime(modules.logger(trt))
        if hasattr(runtime, "get_engine_validity"):
            validity, diagnostics = runtime.get_engine_validity(plan.data)
            if validity == trt.EngineValidity.INVALID:
                named = trt.EngineInvalidityDiagnostics.__members__.items()
                reasons = [name for name, member in named if int(diagnostics) & int(member)]
                raise _refused(plan, ", ".join(reasons) or messages.why())
            if validity == trt.EngineValidity.SUBOPTIMAL:
                note = "TensorRT says that the engine is slower here than one built here"
        if plan.engine.version_compatible:
            # It carries a runtime of its own, native code, and is refused without this. Its bytes are those
            # that the sidecar names: whoever may write the sidecar is trusted with code.
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan.data)
        if engine is None:
            raise _refused(plan, messages.why())
    return engine, note


def _refused(plan: Plan, why: str) -> SanError:
    built = f"{plan.engine.runtime} {plan.engine.version} for {', '.join(plan.engine.sm)}"
    return SanError(
        f"TensorRT refuses engine {plan.path}, built with {built}",
        why=why or "it does not say why",
        do=rebuild(plan),
    )


def _check_engine(trt: Any, engine: Any, plan: Plan) -> None:
    """Refuse an engine that is not what its description says: tensors, types, shapes, batch sizes."""
    shape, _ = _row(plan.artefact)
    type_ = "UINT8" if plan.artefact.input == "uint8" else "FLOAT"
    batch = plan.engine.batch
    expected = {
        f"input {INPUT_NAME} {type_} {shape}, batches {batch}",
        f"output {OUTPUT_NAME} FLOAT {(plan.artefact.embedding_dim,)}",
    }
    found = {_tensor(trt, engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)}
    profiles = engine.num_optimization_profiles
    if found != expected or profiles != 1:
        raise SanError(
            f"engine {plan.path} does not fit its own description",
            why=f"expected {' and '.join(sorted(expected))}, found {' and '.join(sorted(found)) or 'none'}"
            + (f" in {profiles} profiles" if profiles != 1 else ""),
            do=rebuild(plan),
        )


def _tensor(trt: Any, engine: Any, name: str) -> str:
    """An input or output of an engine in words, without the size of its batch."""
    first, *rest = tuple(engine.get_tensor_shape(name))
    words = f"{name} {_name(engine.get_tensor_dtype(name))} {tuple(rest)}"
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        words += " in host memory"
    if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
        return f"output {words}"
    profile = [tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0)]
    batch = tuple(dims[0] for dims in profile)
    # The first number is -1, or the batch itself where it is the only one.
    if (first != -1 and set(batch) != {first}) or {dims[1:] for dims in profile} != {tuple(rest)}:
        words += f" with shapes {profile}"
    return f"input {words}, batches {batch}"


def _row(artefact: Artefact) -> tuple[tuple[int, ...], type]:
    """Shape and type of a crop as the engine takes it."""
    height, width = artefact.size_hw
    return ((height, width, 3), np.uint8) if artefact.input == "uint8" else ((3, height, width), np.float32)


def _name(member: Any) -> str:
    """`DataType.FLOAT` -> `FLOAT`."""
    return str(member.name)


def _activation_bytes(engine: Any) -> int:
    """Memory for the intermediate results of one run at the largest shapes."""
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)


def open_model(spec: BackendSpec, request: OpenRequest) -> Backend:
    """As `spec.Runtime.open_model`."""
    return TensorRT(request.path, device=request.index)


def built_for(path: Path) -> str:
    """As `spec.Runtime.built_for`. What is no engine by its description is refused when it is opened."""
    built = read_sidecar(path).engine
    return built.runtime if built is not None else ""


def installed(spec: BackendSpec) -> Installed:
    """As `spec.Runtime.installed`: the module is loaded."""
    try:
        return Installed(spec.name, modules.version(modules.load(spec.name)))
    except SanError as error:
        return Installed(spec.name, "", error)


def read_file(path: Path) -> FileInfo:
    """As `spec.Runtime.read_file`. An engine is code, and nothing of it is executed."""
    plan = read_plan(path)
    sha256, beside = plan.artefact.sha256, sidecar_path(path).name
    return FileInfo(path, "TensorRT engine", len(plan.data), sha256, beside, artefact=plan.artefact)


def diagnose(spec: BackendSpec, file: FileInfo) -> list[Compatibility]:
    """As `spec.Runtime.diagnose`: by the sidecar, the runtime that is installed and the GPUs."""
    if spec.takes(file.path):
        return [_runs_plan(spec, read_plan(file.path))]
    if file.kind == "ONNX" and file.artefact is not None:
        return [_as_engine(spec, file, file.artefact)]
    return other_files(spec, file)


def _as_engine(spec: BackendSpec, file: FileInfo, artefact: Artefact) -> Compatibility:
    """TensorRT runs an ONNX file as an engine that was built on this machine."""
    if artefact.calibration is not None and artefact.calibration.form != spec.int8_form:
        return Compatibility(
            spec.name,
            "",
            False,
            "its INT8 is of ONNX Runtime's form, which TensorRT refuses",
            f"export it for TensorRT: {export_int8(artefact)}",
        )
    words = ["san", "export", str(file.path), "--engine"]
    words += [] if spec.name == "tensorrt" else ["--runtime", spec.name]
    build = f"build one: {shlex.join(words)}"
    missing = installed(spec).problem
    if missing is not None:
        return Compatibility(
            spec.name, "", False, f"it runs engines, and {missing.message}", f"{missing.do}; then {build}"
        )
    found, why = cuda_runtime.probe()
    if not found:
        return Compatibility(spec.name, "", False, f"it runs engines, on an NVIDIA GPU, and {why}")
    return Compatibility(spec.name, "", False, "it runs engines, not ONNX files", build)


def _runs_plan(spec: BackendSpec, plan: Plan) -> Compatibility:
    """By the sidecar, the runtime that is installed and the GPUs: nothing of the plan is executed."""
    if spec.name != plan.engine.runtime:
        return Compatibility(spec.name, "", False, f"this engine is for {plan.engine.runtime}")
    refused: list[SanError] = []

    def held(check: Callable[[], object]) -> bool:
        try:
            check()
        except SanError as error:
            refused.append(error)
            return False
        return True

    held(lambda: check_system(plan))
    there = installed(spec)
    if there.problem is not None:
        refused.append(there.problem)
    else:
        held(lambda: check_version(plan, there.version))
    found, why = cuda_runtime.probe()
    if not found:
        refused.append(SanError(why, do="run it on a machine with an NVIDIA GPU"))
    # One GPU that fits is enough; where none does, the first says why.
    before = len(refused)
    fitting = [device for device in found if held(lambda device=device: check_device(plan, device))]  # type: ignore[misc]
    if fitting:
        del refused[before:]
    if refused:
        reasons = "; ".join(dict.fromkeys(map(in_words, refused)))
        return Compatibility(spec.name, "", False, reasons, refused[0].do)
    message = f"{there.version} on {fitting[0]}, by its description: opening it is the proof"
    return Compatibility(spec.name, "", True, message)
