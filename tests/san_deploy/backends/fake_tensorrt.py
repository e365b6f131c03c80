"""A module like `tensorrt`, whose engines multiply with NumPy on the memory of `fake_cuda`.

It keeps to the contract that NVIDIA documents, and stops the test where a caller does not.
"""

from __future__ import annotations

import enum
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
from tests.san_deploy.backends.fake_cuda import RUN, FakeCudart
from tests.tiny_models import tiny_artefact

ACTIVATIONS = 4096


class ILogger:
    """Base of a logger."""

    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, text: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


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


class FakeContext:
    """One execution context."""

    def __init__(self, engine: FakeEngine, strategy: object, *, profile: int) -> None:
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
        assert size >= ACTIVATIONS
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
            floats(memory, shape[0])[:] = engine.network(batch)

        def finish() -> None:
            floats(target, shape[0])[:] = floats(memory, shape[0])

        def floats(address: int, rows: int) -> np.ndarray:
            raw = cudart.buffer(address, rows * 8 * 4, "device")
            return np.frombuffer(memoryview(raw), np.float32).reshape(rows, 8)

        def recorded() -> None:
            assert self._changes == changes, "the context was changed after it was recorded"
            work()

        # Two kernels. Those of another run must not come between them, since both use the same memory.
        cudart.put(stream, "run", recorded if cudart.is_recording(stream) else work, RUN)
        time.sleep(engine.pause_s)
        cudart.put(stream, "finish", finish, 0.0)
        return True


class FakeEngine:
    """An engine; `refuse` and `fail_after` make it misbehave."""

    def __init__(self, module: FakeTensorRT, plan: dict[str, Any]) -> None:
        self.cudart = module.cudart
        self.error = module.error
        self.refuse = plan.get("refuse", "")
        self.fail_after = plan.get("fail_after")
        self.runs = 0
        self.made = 0
        self.pause_s = 0.0
        self.streams_of_memory: dict[int, int] = {}
        #: Those that somebody holds.
        self.contexts: weakref.WeakSet[FakeContext] = weakref.WeakSet()
        self.batch = tuple(plan["batch"])
        self.type_ = np.uint8 if plan["input"] == "uint8" else np.float32
        row = (32, 16, 3) if plan["input"] == "uint8" else (3, 32, 16)
        kind = DataType.UINT8 if plan["input"] == "uint8" else DataType.FLOAT
        self.tensors: dict[str, tuple[TensorIOMode, DataType, tuple[int, ...]]] = {
            plan.get("input_name", "crops"): (TensorIOMode.INPUT, kind, row),
            "embedding": (TensorIOMode.OUTPUT, DataType[plan.get("output", "FLOAT")], (8,)),
        }
        self.num_optimization_profiles = plan.get("profiles", 1)
        self.device_memory_size_v2 = ACTIVATIONS
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

    def create_execution_context(self, strategy: object) -> FakeContext | None:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return self._new_context(strategy)

    def _new_context(self, strategy: object) -> FakeContext | None:
        if self.refuse == "context":
            self.error("createExecutionContext: out of memory")
            return None
        # As documented for versions before profiles are shared: the first alone has profile 0.
        context = FakeContext(self, strategy, profile=-1 if self.made else 0)
        self.made += 1
        self.contexts.add(context)
        return context

    def network(self, batch: np.ndarray) -> np.ndarray:
        """The tiny network of tests/tiny_models.py."""
        if batch.dtype != np.uint8:
            batch = batch.transpose(0, 2, 3, 1)[..., ::-1]
        rows = batch.reshape(len(batch), -1).astype(np.float32) @ self._weight + self._bias
        result: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True) * self._scale
        return result


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


class RtxEngine(FakeEngine):
    """An engine of TensorRT-RTX."""

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, strategy: object) -> FakeContext | None:
        assert isinstance(strategy, RuntimeConfig)
        assert strategy.allocation == ExecutionContextAllocationStrategy.USER_MANAGED
        return self._new_context(strategy)


class FakeTensorRT(ModuleType):
    """A module like `tensorrt` or, with `rtx`, like `tensorrt_rtx`.

    Attributes:
        deserialised: how many plans were given to it; none may be, before it is known to fit.
        engine: the last engine.
        host_code: whether the last plan was allowed to bring code.
    """

    def __init__(self, cudart: FakeCudart, *, version: str = "10.16.1.11", rtx: bool = False) -> None:
        super().__init__("fake_tensorrt")
        self.cudart = cudart
        self.__version__ = version
        self.deserialised = 0
        self.engine: Any = None
        self.host_code = False
        self.validity: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)
        self.ILogger, self.DataType, self.TensorIOMode = ILogger, DataType, TensorIOMode
        self.TensorLocation = TensorLocation
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.Runtime = self._runtime(rtx)
        if rtx:
            self.CudaGraphStrategy, self.EngineValidity = CudaGraphStrategy, EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
        self._logger: ILogger | None = None

    def error(self, text: str) -> None:
        """What TensorRT says goes to the logger that it was given."""
        assert self._logger is not None
        self._logger.log(ILogger.Severity.ERROR, text)

    def _runtime(self, rtx: bool) -> Callable[[ILogger], Any]:
        module = self

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger: ILogger) -> None:
                assert isinstance(logger, ILogger)
                module._logger = logger

            def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
                module.deserialised += 1
                module.host_code = self.engine_host_code_allowed
                if not data.startswith(b"PLAN"):
                    module.error("Serialization assertion failed\n  in header.cpp")
                    return None
                plan = json.loads(data[4:])
                if plan.get("host_code") and not self.engine_host_code_allowed:
                    module.error("Host code is not allowed")
                    return None
                module.engine = (RtxEngine if rtx else FakeEngine)(module, plan)
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
    path.write_bytes(b"PLAN" + json.dumps(plan).encode())
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
