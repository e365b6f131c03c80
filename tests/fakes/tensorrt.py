"""A module like `tensorrt` or `tensorrt_rtx`: it parses with onnx, builds plans of JSON, and runs them on fake CUDA.

An engine that was built runs its ONNX file in ONNX Runtime, on the memory of `fakes.cuda`; one of `fake_plan` runs
the tiny network of tests/tiny_models.py. It keeps to the contract that NVIDIA documents, in the shape of 10.3, 10.16
or 11, and stops the test where a caller does not. A test holds its names against those of the real bindings.
"""

from __future__ import annotations

import base64
import enum
import functools
import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from san_deploy.artefact import Engine, sha256_file, write_sidecar
from san_deploy.backends.plan import system
from tests.fakes.cuda import RUN, FakeCudart
from tests.tiny_models import tiny_artefact

MAGIC = b"PLAN"
_CACHE = b"timings of "
#: Bytes for intermediate results, at least.
ACTIVATIONS = 4096


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    UINT8 = 4


class LayerType(enum.Enum):
    CONVOLUTION = 0
    DECONVOLUTION = 1
    MATRIX_MULTIPLY = 2
    CONSTANT = 3
    DEQUANTIZE = 4
    SHUFFLE = 5
    IDENTITY = 6


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 1


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: Severity, text: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITensor:
    def __init__(self, name: str, dtype: DataType, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class ILayer:
    def __init__(
        self, type_: LayerType, inputs: list[ITensor], output: ITensor, kernel: np.ndarray | None
    ) -> None:
        self.type, self._inputs, self._output, self._kernel = type_, inputs, output, kernel

    num_outputs = 1

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        assert index == 0
        return self._output


class IConvolutionLayer(ILayer):
    @property
    def kernel(self) -> np.ndarray | None:
        return self._kernel


class IDeconvolutionLayer(ILayer):
    @property
    def kernel(self) -> np.ndarray | None:
        return self._kernel


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._model = b""

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class ParserError:
    def desc(self) -> str:
        return "Assertion failed:\n  no good"

    def node(self) -> int:
        return 7

    def node_name(self) -> str:
        return "/conv"

    def node_operator(self) -> str:
        return "Conv"

    def file(self) -> str:
        return "/build/parsers/onnx/Importer.cpp"

    def line(self) -> int:
        return 118


#: Of onnx.TensorProto.
_KINDS = {1: DataType.FLOAT, 10: DataType.HALF, 2: DataType.UINT8}
_LAYERS = {"Conv": LayerType.CONVOLUTION, "MatMul": LayerType.MATRIX_MULTIPLY}


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx

        proto = onnx.load_from_string(model)
        self._network._model = model
        if any(node.op_type == "LpNormalization" for node in proto.graph.node):
            self._errors = [ParserError(), ParserError()]
            return False
        for values, tensors in (
            (proto.graph.input, self._network._inputs),
            (proto.graph.output, self._network._outputs),
        ):
            for value in values:
                kind = value.type.tensor_type
                shape = tuple(item.dim_value if item.HasField("dim_value") else -1 for item in kind.shape.dim)
                tensors.append(ITensor(value.name, _KINDS[kind.elem_type], shape))
        weights = {item.name: item for item in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type in _LAYERS:
                weight = weights[node.input[1]]
                kind = _KINDS[weight.data_type]
                tensors = [ITensor(name, kind, (-1,)) for name in node.input[:2]]
                conv = node.op_type == "Conv"
                self._network._layers.append(
                    ILayer(
                        _LAYERS[node.op_type],
                        tensors[:1] if conv else tensors,
                        ITensor(node.output[0], kind, (-1,)),
                        onnx.numpy_helper.to_array(weight).ravel() if conv else None,
                    )
                )
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.shapes[input] = (min, opt, max)


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITimingCache:
    def __init__(self, gpu: bytes, entries: set[bytes]) -> None:
        self._gpu, self._entries = gpu, entries

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if self._gpu != input_cache._gpu and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def serialize(self) -> IHostMemory:
        return IHostMemory(_CACHE + self._gpu + b"".join(b"|" + entry for entry in sorted(self._entries)))


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2


class IExecutionContext:
    """One execution context."""

    def __init__(self, engine: ICudaEngine, strategy: object, *, profile: int) -> None:
        self.engine = engine
        self.strategy = strategy
        self.active_optimization_profile = profile
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] | None = None
        self._memory = 0
        #: Counts changes; a graph is good as long as nothing changes.
        self._changes = 0
        self._run_before: set[tuple[int, ...]] = set()

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert index == 0 and stream in self.engine.cudart.streams
        self.active_optimization_profile = 0
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.engine.cudart.buffer(address, size, "device")
        self._memory = address
        self._changes += 1

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self.engine.refuse == "address":
            return False
        assert name in self.engine.tensors
        self._addresses[name] = address
        self._changes += 1
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.batch
        assert name == "crops" and self.active_optimization_profile == 0
        assert tuple(shape[1:]) == self.engine.tensors["crops"][2]
        if self.engine.refuse == "shape" or not least <= shape[0] <= most:
            self.engine.error(f"setInputShape: {shape} is outside the optimization profile")
            return False
        if shape != self._shape:
            self._changes += 1
        self._shape = tuple(shape)
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine, shape = self.engine, self._shape
        assert shape is not None and len(self._addresses) == 2 and stream
        cudart = engine.cudart
        engine.runs += 1
        if stale := cudart.last_error():
            # NVIDIA's code asks for the last error after its launches, and takes an old one for its own.
            engine.error(f"enqueueV3: Error Code 1: Cuda Runtime (error {stale} of an earlier call)")
            return False
        if engine.fail_after is not None and engine.runs > engine.fail_after:
            engine.error("enqueueV3: Error Code 1: Cuda Runtime")
            return False
        if cudart.is_recording(stream) and (shape not in self._run_before or engine.refuse == "capture"):
            # It allocates at the first run of a shape.
            cudart.spoil(stream)
            engine.error("enqueueV3: operation not permitted when stream is capturing")
            return False
        self._run_before.add(shape)
        assert self._memory, "no memory for intermediate results"
        engine.streams_of_memory.setdefault(self._memory, stream)
        assert engine.streams_of_memory[self._memory] == stream, "two streams share intermediate results"
        source, target, memory = self._addresses["crops"], self._addresses["embedding"], self._memory
        changes = self._changes

        def work() -> None:
            size = int(np.prod(shape)) * np.dtype(engine.type_).itemsize
            raw = cudart.buffer(source, size, "device")
            batch = np.frombuffer(raw, engine.type_).reshape(shape)
            floats(memory, shape[0])[:] = engine._embed(batch)

        def finish() -> None:
            floats(target, shape[0])[:] = floats(memory, shape[0])

        def floats(address: int, rows: int) -> np.ndarray:
            raw = cudart.buffer(address, rows * engine.dim * 4, "device")
            return np.frombuffer(memoryview(raw), np.float32).reshape(rows, engine.dim)

        def recorded() -> None:
            assert self._changes == changes, "the context was changed after it was recorded"
            work()

        # Two kernels. Those of another run must not come between them, since both use the same memory.
        cudart.put(stream, "run", recorded if cudart.is_recording(stream) else work, RUN)
        time.sleep(engine.pause_s)
        cudart.put(stream, "finish", finish, 0.0)
        return True


class ICudaEngine:
    """An engine; `refuse` and `fail_after` make it misbehave."""

    def __init__(self, module: FakeTensorRT, plan: dict[str, Any]) -> None:
        self.cudart = module.cudart
        self.error = module.error
        self.refuse = plan.get("refuse", "")
        self.fail_after = plan.get("fail_after")
        self.module = module
        self.plan = plan
        self.runs = 0
        self.made = 0
        self.pause_s = 0.0
        self.streams_of_memory: dict[int, int] = {}
        #: Those that somebody holds.
        self.contexts: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()
        self.batch = tuple(plan["batch"])
        self.type_ = np.uint8 if plan["input"] == "uint8" else np.float32
        row = tuple(plan.get("row", (32, 16, 3) if plan["input"] == "uint8" else (3, 32, 16)))
        self.dim = plan.get("dim", 8)
        kind = DataType.UINT8 if plan["input"] == "uint8" else DataType.FLOAT
        self.tensors: dict[str, tuple[TensorIOMode, DataType, tuple[int, ...]]] = {
            plan.get("input_name", "crops"): (TensorIOMode.INPUT, kind, row),
            "embedding": (TensorIOMode.OUTPUT, DataType[plan.get("output", "FLOAT")], (self.dim,)),
        }
        self.num_optimization_profiles = plan.get("profiles", 1)
        self.device_memory_size_v2 = max(ACTIVATIONS, self.batch[-1] * self.dim * 4)
        self._scale = plan.get("scale", 1.0)
        rng = np.random.default_rng(0)
        self._weight = rng.normal(0, 1 / 255, (32 * 16 * 3, 8)).astype(np.float32)
        self._bias = rng.normal(0, 1, 8).astype(np.float32)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][1]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.tensors[name][2])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0 and self.tensors[name][0] == TensorIOMode.INPUT
        return [(size, *self.tensors[name][2]) for size in self.batch]

    def create_execution_context(
        self, strategy: object = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        return self._new_context(strategy)

    def _new_context(self, strategy: object) -> IExecutionContext | None:
        if self.refuse == "context":
            self.error("createExecutionContext: out of memory")
            return None
        # As documented for versions before profiles are shared: the first alone has profile 0.
        context = IExecutionContext(self, strategy, profile=-1 if self.made else 0)
        self.made += 1
        self.contexts.add(context)
        return context

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        """Rows of the ONNX file that it was built from; else of the tiny network of tests/tiny_models.py."""
        if "onnx" in self.plan:
            rows: np.ndarray = _session(self.plan["onnx"]).run(None, {"crops": batch})[0]
            if noise := self.plan.get("noise"):
                rows = rows + np.random.default_rng(1).normal(0, noise, rows.shape).astype(np.float32)
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            return rows * np.float32(self._scale)
        if batch.dtype != np.uint8:
            batch = batch.transpose(0, 2, 3, 1)[..., ::-1]
        rows = batch.reshape(len(batch), -1).astype(np.float32) @ self._weight + self._bias
        result: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True) * self._scale
        return result


@functools.lru_cache(maxsize=8)
def _session(onnx: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(base64.b64decode(onnx), options, providers=["CPUExecutionProvider"])


class EngineInspector:
    """Tells what the module's `inspection` says."""

    execution_context: Any = None

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        assert self.execution_context._shape is not None, "formats are not known without shapes"
        return self._engine.module.inspection


class RuntimeConfig:
    """Of TensorRT-RTX."""

    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.allocation: object = None
        self.cache: object = None

    def set_execution_context_allocation_strategy(self, strategy: object) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> object:
        return object()

    def set_runtime_cache(self, cache: object) -> bool:
        self.cache = cache
        return True


class RtxEngine(ICudaEngine):
    """An engine of TensorRT-RTX."""

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, strategy: object = None) -> IExecutionContext | None:
        if strategy is None:
            return self._new_context(strategy)
        assert isinstance(strategy, RuntimeConfig)
        assert strategy.allocation == ExecutionContextAllocationStrategy.USER_MANAGED
        return self._new_context(strategy)


class FakeTensorRT(ModuleType):
    """`tensorrt` of a version, or with `rtx` `tensorrt_rtx`, with what it did and what it shall do.

    Args:
        cudart: the CUDA that it runs on; None makes one.
        version: `10.3.0`, `10.16.1.11` or `11.4.0`: the shape of the API.
        rtx: TensorRT-RTX's additions.

    Attributes:
        gpu: that timings are of.
        config: the last configuration that was made.
        network: the last network.
        inspection: what the inspector gives.
        starts: whether a builder can be made.
        builds: whether building works.
        loads: whether a plan can be loaded.
        during: called at each step of a build.
        misbehave: fields of the plans that it builds, see `ICudaEngine`.
        built_on: index of the GPU that was current in the thread that built last.
        deserialised: how many plans were given to it; none may be, before it is known to fit.
        engine: the last engine.
        host_code: whether the last plan was allowed to bring code.
    """

    def __init__(
        self, cudart: FakeCudart | None = None, *, version: str = "10.16.1.11", rtx: bool = False
    ) -> None:
        super().__init__("fake_tensorrt_rtx" if rtx else "tensorrt")
        self.cudart = cudart or FakeCudart()
        self.__version__ = version
        self.gpu, self.starts, self.builds, self.loads = b"T4", True, True, True
        self.during: Callable[[], None] = lambda: None
        self.misbehave: dict[str, Any] = {}
        self.built_on: int | None = None
        self.config: Any = None
        self.network: Any = None
        self.inspection = json.dumps({"Layers": [], "Bindings": []})
        self.deserialised = 0
        self.engine: Any = None
        self.host_code = False
        self.validity: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)
        self._logger: ILogger | None = None
        for kind in (TensorIOMode, TensorLocation, ExecutionContextAllocationStrategy):
            setattr(self, kind.__name__, kind)
        for kind in (EngineInspector, ICudaEngine, IExecutionContext):
            setattr(self, kind.__name__, kind)
        if rtx:
            self.CudaGraphStrategy, self.EngineValidity = CudaGraphStrategy, EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
        self.Runtime = self._runtime(rtx)
        major, minor = (int(part) for part in version.split(".")[:2])
        for kind in (
            DataType,
            LayerType,
            MemoryPoolType,
            ProfilingVerbosity,
            LayerInformationFormat,
            ILogger,
        ):
            setattr(self, kind.__name__, kind)
        for kind in (
            IProgressMonitor,
            INetworkDefinition,
            ITensor,
            ILayer,
            IConvolutionLayer,
            IDeconvolutionLayer,
        ):
            setattr(self, kind.__name__, kind)
        for kind in (OnnxParser, ParserError, IOptimizationProfile, IHostMemory, ITimingCache):
            setattr(self, kind.__name__, kind)
        weak = {"FP16": 0, "INT8": 1} if major < 11 else {}
        self.BuilderFlag = enum.Enum("BuilderFlag", weak | {"TF32": 7, "VERSION_COMPATIBLE": 14})
        self.NetworkDefinitionCreationFlag = enum.IntEnum(
            "NetworkDefinitionCreationFlag",
            {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if major < 11 else {"STRONGLY_TYPED": 0},
        )
        levels = {"NONE": 0, "AMPERE_PLUS": 1} | (
            {"SAME_COMPUTE_CAPABILITY": 2} if (major, minor) >= (10, 12) else {}
        )
        self.HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", levels)
        fake = self

        class IBuilderConfig:
            def __init__(self) -> None:
                self.profiling_verbosity = fake.ProfilingVerbosity.LAYER_NAMES_ONLY
                self.hardware_compatibility_level = fake.HardwareCompatibilityLevel.NONE
                self.progress_monitor: Any = None
                self._level = 3
                self._flags = {fake.BuilderFlag.TF32}
                self._pools: dict[MemoryPoolType, int] = {}
                self._profiles: list[IOptimizationProfile] = []
                self._cache: ITimingCache | None = None

            @property
            def builder_optimization_level(self) -> int:
                return self._level

            @builder_optimization_level.setter
            def builder_optimization_level(self, level: int) -> None:
                self._level = min(max(level, 0), 5)

            def set_flag(self, flag: Any) -> None:
                self._flags.add(flag)

            def clear_flag(self, flag: Any) -> None:
                self._flags.discard(flag)

            def get_flag(self, flag: Any) -> bool:
                return flag in self._flags

            def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
                self._pools[pool] = min(pool_size, 16 << 30)

            def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
                return self._pools.get(pool, 16 << 30)

            def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
                self._profiles.append(profile)
                return len(self._profiles) - 1

            def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
                if not serialized_timing_cache:
                    return ITimingCache(fake.gpu, set())
                if not serialized_timing_cache.startswith(_CACHE):
                    fake.error("Error Code 1: Serialization (Magic tag does not match)")
                    return None
                gpu, *entries = serialized_timing_cache.removeprefix(_CACHE).split(b"|")
                return ITimingCache(gpu, set(entries))

            def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
                if cache._gpu != fake.gpu and not ignore_mismatch:
                    return False
                self._cache = cache
                return True

            def get_timing_cache(self) -> ITimingCache | None:
                return self._cache

        class Builder:
            def __init__(self, logger: ILogger) -> None:
                fake._logger = logger
                self._device = fake.cudart.current()
                if not fake.starts:
                    fake.error("CUDA initialization failure with error: 35")
                    # What pybind11 says where a constructor of C++ gives nothing.
                    raise TypeError("pybind11::init(): factory function returned nullptr")

            def create_network(self, flags: int = 0) -> INetworkDefinition:
                fake.network = INetworkDefinition(flags)
                return fake.network

            def create_builder_config(self) -> IBuilderConfig:
                fake.config = IBuilderConfig()
                return fake.config

            def create_optimization_profile(self) -> IOptimizationProfile:
                return IOptimizationProfile()

            def build_serialized_network(
                self, network: INetworkDefinition, config: IBuilderConfig
            ) -> IHostMemory | None:
                # CUDA's current device is of each thread: a build in a thread of its own must choose it again.
                assert fake.cudart.current() == self._device, "built on another GPU than the builder's"
                fake.built_on = self._device
                monitor = config.progress_monitor
                monitor.phase_start("Building", None, 4)
                for step in range(4):
                    fake.during()
                    if not monitor.step_complete("Building", step):
                        return None
                monitor.phase_finish("Building")
                if config._cache is not None:
                    config._cache._entries.add(b"built now")
                if not fake.builds:
                    fake.error(
                        "Error Code 10: Internal Error (Could not find any implementation for node conv.)"
                    )
                    return None
                (shapes,) = (profile.shapes["crops"] for profile in config._profiles)
                plan = {
                    "batch": [shape[0] for shape in shapes],
                    "input": "uint8" if network.get_input(0).dtype is DataType.UINT8 else "float",
                    "row": network.get_input(0).shape[1:],
                    "dim": network.get_output(0).shape[-1],
                    "onnx": base64.b64encode(network._model).decode(),
                    "host_code": config.get_flag(fake.BuilderFlag.VERSION_COMPATIBLE),
                }
                return IHostMemory(MAGIC + json.dumps(plan | fake.misbehave).encode())

        for kind in (IBuilderConfig, Builder):
            setattr(self, kind.__name__, kind)

    def error(self, text: str) -> None:
        """What TensorRT says goes to the logger that it was given, before it gives None."""
        assert self._logger is not None
        self._logger.log(ILogger.Severity.ERROR, text)

    def _runtime(self, rtx: bool) -> Callable[[ILogger], Any]:
        module = self

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger: ILogger) -> None:
                assert isinstance(logger, ILogger)
                module._logger = logger

            def deserialize_cuda_engine(self, data: bytes) -> ICudaEngine | None:
                module.deserialised += 1
                module.host_code = self.engine_host_code_allowed
                if not module.loads:
                    module.error("Error Code 1: Internal Error (the plan is no good here)")
                    return None
                if not bytes(data).startswith(MAGIC):
                    module.error("Serialization assertion failed\n  in header.cpp")
                    return None
                plan = json.loads(bytes(data)[len(MAGIC) :])
                if plan.get("host_code") and not self.engine_host_code_allowed:
                    module.error("Host code is not allowed")
                    return None
                module.engine = (RtxEngine if rtx else ICudaEngine)(module, plan)
                return module.engine

        if rtx:
            Runtime.get_engine_validity = lambda self, data: module.validity  # type: ignore[attr-defined]
        return Runtime


def fake_plan(
    path: Path,
    *,
    batch: tuple[int, int, int] = (1, 4, 8),
    input: str = "uint8",
    told: dict[str, Any] | None = None,
    content: dict[str, Any] | None = None,
) -> Path:
    """Write a plan that `FakeTensorRT` reads, and its sidecar.

    Args:
        path: of the plan.
        batch: the profile.
        input: `uint8` or `float`.
        told: fields of the sidecar's engine that are something else.
        content: what the plan has besides, to misbehave.
    """
    plan = {"batch": batch, "input": input} | (content or {})
    path.write_bytes(MAGIC + json.dumps(plan).encode())
    values: dict[str, Any] = {
        "runtime": "tensorrt",
        "version": "10.16.1.11",
        "cuda": "13.0",
        "gpu": "Fake GPU 0",
        "sm": ("sm86",),
        "batch": batch,
        "onnx_sha256": "ab" * 32,
        "tf32": False,
        "hardware_compatibility": "none",
        "version_compatible": False,
        "system": system(),
    }
    engine = Engine(**(values | (told or {})))
    write_sidecar(tiny_artefact(input=input, engine=engine, sha256=sha256_file(path)), path)
    return path
