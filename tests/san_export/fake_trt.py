"""A TensorRT for tests: the part of the API that builds and inspects, in the shape of 10.3, 10.16 or 11.

It parses with onnx, "builds" a few bytes, and refuses what TensorRT refuses. A test holds its names against
those of the real bindings.
"""

from __future__ import annotations

import enum
import json
import struct
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

MAGIC = b"fake plan of "
_CACHE = b"timings of "


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


_KINDS = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.FLOAT16: DataType.HALF,
    TensorProto.UINT8: DataType.UINT8,
}
_LAYERS = {"Conv": LayerType.CONVOLUTION, "MatMul": LayerType.MATRIX_MULTIPLY}


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto = onnx.load_from_string(model)
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
                        numpy_helper.to_array(weight).ravel() if conv else None,
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


class Fake(ModuleType):
    """`tensorrt` of a version, with what it did and what it shall do.

    Args:
        version: `10.3.0`, `10.16.1` or `11.4.0`: the shape of the API.

    Attributes:
        gpu: that timings are of.
        config: the last configuration that was made.
        network: the last network.
        inspection: what the inspector gives.
        starts: whether a builder can be made.
        builds: whether building works.
        loads: whether the plan can be loaded.
        during: called at each step of a build.
    """

    def __init__(self, version: str) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        major, minor = (int(part) for part in version.split(".")[:2])
        self.gpu, self.starts, self.builds, self.loads = b"T4", True, True, True
        self.during = lambda: None
        self.config: Any = None
        self.network: Any = None
        self.inspection = json.dumps({"Layers": [], "Bindings": []})
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
                return IHostMemory(MAGIC + struct.pack("<I", network.num_layers))

        class EngineInspector:
            execution_context: Any = None

            def get_engine_information(self, format: LayerInformationFormat) -> str:
                assert format is LayerInformationFormat.JSON
                assert self.execution_context.shape is not None, "formats are not known without shapes"
                return fake.inspection

        class IExecutionContext:
            shape: tuple[int, ...] | None = None

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                least, _, most = fake.config._profiles[0].shapes[name]
                self.shape = shape
                return least[0] <= shape[0] <= most[0] and shape[1:] == least[1:]

        class ICudaEngine:
            def create_execution_context(self) -> IExecutionContext:
                return IExecutionContext()

            def create_engine_inspector(self) -> EngineInspector:
                return EngineInspector()

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                self.engine_host_code_allowed = False

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
                hosted = fake.config.get_flag(fake.BuilderFlag.VERSION_COMPATIBLE)
                if not fake.loads or not serialized_engine.startswith(MAGIC):
                    fake.error("Error Code 1: Internal Error (the plan is no good here)")
                    return None
                return ICudaEngine() if self.engine_host_code_allowed or not hosted else None

        for kind in (IBuilderConfig, Builder, Runtime, ICudaEngine, IExecutionContext, EngineInspector):
            setattr(self, kind.__name__, kind)

    def error(self, text: str) -> None:
        """Log it, as TensorRT does before it gives None."""
        self._logger.log(ILogger.Severity.ERROR, text)
