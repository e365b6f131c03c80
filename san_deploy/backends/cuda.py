"""The few functions of the CUDA runtime that an engine needs, through ctypes: no wheel, no compiler, no PyTorch.

Every status is looked at. What is allocated has an owner that frees it exactly once: on `close()`, at the end of
a `with` block, or when nobody holds it any more.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SanError

#: Why there is no GPU on a machine that nobody expects one on.
NO_DRIVER = "no NVIDIA driver is installed"
_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_INSTALL = (
    "install the NVIDIA driver and the CUDA runtime, for example: pip install nvidia-cuda-runtime-cu12, or set "
    "CUDA_HOME to the folder of an installed CUDA"
)

_Out = POINTER(c_void_p)
#: Name -> argument types. All of them give a status, cudaError_t. Every name is in CUDA 11.4 and later.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaGetLastError": (),
    "cudaSetDevice": (c_int,),
    "cudaMalloc": (_Out, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (_Out, c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaStreamCreateWithFlags": (_Out, c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaEventCreateWithFlags": (_Out, c_uint),
    "cudaEventDestroy": (c_void_p,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, _Out),
    "cudaGraphInstantiateWithFlags": (_Out, c_void_p, c_uint64),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
}
# From driver_types.h; none has changed its number since it was introduced.
_DRIVER_TOO_OLD = 35
#: Errors that no call clears: an illegal address, an illegal instruction, a launch that failed or ran too long.
_LOST = (700, 702, 714, 715, 716, 717, 718, 719, 720)
_HOST_TO_DEVICE = 1
_DEVICE_TO_HOST = 2
_STREAM_NON_BLOCKING = 1
_EVENT_BLOCKING_SYNC = 1
_EVENT_DISABLE_TIMING = 2
_CAPTURE_THREAD_LOCAL = 1
_ATTRIBUTE_SM_MAJOR = 75
_ATTRIBUTE_SM_MINOR = 76
#: cudaDeviceProp has had 700 to 1100 bytes; its layout changes, but `char name[256]` is always first.
_PROPERTIES_BYTES = 1 << 16
_NAME_BYTES = 256


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: as the driver gives it, `NVIDIA GeForce RTX 3060`.
        sm: compute capability, `sm86`.
        index: of CUDA, from 0.
    """

    name: str
    sm: str
    index: int

    def __str__(self) -> str:
        return f"cuda:{self.index} {self.name} ({self.sm})"


class _Owner:
    """Holds one handle and gives it back exactly once."""

    def __init__(self, cuda: Cuda, handle: int, release: str) -> None:
        self.handle = handle
        self._cuda = cuda
        self._release = release
        # Where nobody closes it, its status has no one to be told to.
        self._finalizer = weakref.finalize(self, cuda.release, release, handle)

    def close(self) -> None:
        """Give the handle back; a second call does nothing."""
        if self._finalizer.detach() is not None:
            handle, self.handle = self.handle, 0
            self._cuda.call(self._release, handle)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DeviceMemory(_Owner):
    """Bytes on the device; `handle` is their address.

    Args:
        cuda: the runtime; its current device gets them.
        size: bytes.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.size = size
        super().__init__(cuda, cuda.get("cudaMalloc", size), "cudaFree")


class PinnedMemory(_Owner):
    """Bytes on the host that the device copies from and to by itself; `handle` is their address.

    Args:
        cuda: the runtime.
        size: bytes.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.size = size
        super().__init__(cuda, cuda.get("cudaHostAlloc", size, 0), "cudaFreeHost")

    def array(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """A view of its beginning. It must not be used after `close()`."""
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not self.handle or needed > self.size:
            size = self.size if self.handle else 0
            raise ValueError(f"{shape} of {np.dtype(dtype)} needs {needed} bytes, here are {size}")
        raw = (ctypes.c_ubyte * needed).from_address(self.handle)
        return np.frombuffer(memoryview(raw), dtype).reshape(shape)


class Event(_Owner):
    """A point in a stream.

    Args:
        cuda: the runtime.
        timing: can be asked for times; one that cannot costs less.
    """

    def __init__(self, cuda: Cuda, *, timing: bool = False) -> None:
        # Waiting must not spin: the cores decode the next crops meanwhile.
        flags = _EVENT_BLOCKING_SYNC | (0 if timing else _EVENT_DISABLE_TIMING)
        super().__init__(cuda, cuda.get("cudaEventCreateWithFlags", flags), "cudaEventDestroy")

    def wait(self) -> None:
        """Wait until the stream got here; at once where the event was never recorded."""
        self._cuda.call("cudaEventSynchronize", self.handle)

    def milliseconds_since(self, earlier: Event) -> float:
        """Time from `earlier` to here; both were made with `timing` and were waited for."""
        value = c_float()
        self._cuda.call("cudaEventElapsedTime", ctypes.byref(value), earlier.handle, self.handle)
        return float(value.value)


class CudaGraph(_Owner):
    """Work of a stream that was recorded and is launched as one; made by `Stream.capture`."""

    def __init__(self, cuda: Cuda, executable: int) -> None:
        super().__init__(cuda, executable, "cudaGraphExecDestroy")


class Stream(_Owner):
    """A queue of work on the device that does not wait for the default stream.

    Args:
        cuda: the runtime; the stream belongs to its current device.
    """

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(
            cuda, cuda.get("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING), "cudaStreamDestroy"
        )

    def copy_to_device(self, target: DeviceMemory, source: PinnedMemory, size: int) -> None:
        """Enqueue a copy of the first `size` bytes."""
        self._copy(target, source, size, _HOST_TO_DEVICE)

    def copy_to_host(self, target: PinnedMemory, source: DeviceMemory, size: int) -> None:
        """Enqueue a copy of the first `size` bytes."""
        self._copy(target, source, size, _DEVICE_TO_HOST)

    def _copy(self, target: _Memory, source: _Memory, size: int, kind: int) -> None:
        if not 0 < size <= min(target.size, source.size):
            raise ValueError(f"a copy of {size} bytes between buffers of {source.size} and {target.size}")
        self._cuda.call("cudaMemcpyAsync", target.handle, source.handle, size, kind, self.handle)

    def record(self, event: Event) -> None:
        """Mark this point of the stream."""
        self._cuda.call("cudaEventRecord", event.handle, self.handle)

    def wait_for(self, event: Event) -> None:
        """Let what is enqueued from now on wait for `event`; the host does not wait."""
        self._cuda.call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def synchronise(self) -> None:
        """Wait until everything that was enqueued is done."""
        self._cuda.call("cudaStreamSynchronize", self.handle)

    def launch(self, graph: CudaGraph) -> None:
        """Enqueue a recorded graph."""
        self._cuda.call("cudaGraphLaunch", graph.handle, self.handle)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Record what `work` enqueues on this stream, without running it.

        Thread-local: what other threads do with CUDA meanwhile is neither recorded nor forbidden.

        Raises:
            SanError: `work` did something that cannot be recorded. The stream is usable as before.
        """
        self._cuda.call("cudaStreamBeginCapture", self.handle, _CAPTURE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            # A capture must be ended, or the stream stays unusable; its own failure is only a consequence.
            graph = c_void_p()
            if self._cuda.library.cudaStreamEndCapture(self.handle, ctypes.byref(graph)) == 0 and graph.value:
                self._cuda.release("cudaGraphDestroy", graph)
            # Otherwise whoever asks next for the last error takes this one for their own: TensorRT does.
            self._cuda.library.cudaGetLastError()
            raise
        graph = c_void_p()
        self._cuda.call("cudaStreamEndCapture", self.handle, ctypes.byref(graph))
        try:
            return CudaGraph(self._cuda, self._cuda.get("cudaGraphInstantiateWithFlags", graph, 0))
        finally:
            self._cuda.call("cudaGraphDestroy", graph)


_Memory = DeviceMemory | PinnedMemory


class Cuda:
    """The CUDA runtime.

    Args:
        library: libcudart as ctypes loaded it.
        path: where it was found, for messages.

    Raises:
        AttributeError: it is too old and lacks a function.
    """

    def __init__(self, library: Any, path: str = "") -> None:
        self.library = library
        self.path = path
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(arguments), c_int
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            function = getattr(library, name)
            function.argtypes, function.restype = [c_int], c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function and look at its status.

        Raises:
            SanError: naming the function, the error's name and its meaning.
        """
        status = getattr(self.library, name)(*arguments)
        if status:
            # The runtime keeps the error of a failed call until somebody asks for it.
            self.library.cudaGetLastError()
            raise SanError(f"{name} failed: {self.words(status)}", do=_advice(status))

    def release(self, name: str, handle: Any) -> None:
        """Give a handle back where nobody is there to be told of a failure, which is not kept either."""
        if getattr(self.library, name)(handle):
            self.library.cudaGetLastError()

    def get(self, name: str, *arguments: Any) -> int:
        """Call a function whose first argument receives a handle or an address; gives that."""
        handle = c_void_p()
        self.call(name, ctypes.byref(handle), *arguments)
        if not handle.value:
            raise SanError(f"{name} reported success but gave nothing")
        return handle.value

    def words(self, status: int) -> str:
        """`cudaErrorMemoryAllocation (2): out of memory`."""
        name = self.library.cudaGetErrorName(status) or b"unknown error"
        meaning = self.library.cudaGetErrorString(status) or b""
        return f"{name.decode()} ({status}): {meaning.decode()}"

    def _int(self, name: str, *arguments: int) -> int:
        value = c_int()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def runtime_version(self) -> str:
        """Of libcudart, `13.0`."""
        return _version(self._int("cudaRuntimeGetVersion"))

    def driver_version(self) -> str:
        """The newest CUDA that the driver supports, `13.0`; empty where there is no driver."""
        return _version(self._int("cudaDriverGetVersion"))

    def device_count(self) -> int:
        """GPUs; SanError where there is none, no driver, or one too old."""
        return self._int("cudaGetDeviceCount")

    def device(self, index: int) -> Device:
        """Name and compute capability of a GPU."""
        major = self._int("cudaDeviceGetAttribute", _ATTRIBUTE_SM_MAJOR, index)
        minor = self._int("cudaDeviceGetAttribute", _ATTRIBUTE_SM_MINOR, index)
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self.call("cudaGetDeviceProperties", properties, index)
        name = properties.raw[:_NAME_BYTES].split(b"\0", 1)[0].decode("utf-8", "replace")
        return Device(name, f"sm{major}{minor}", index)

    def device_at(self, index: int) -> Device:
        """A GPU by its index; SanError where there is no such GPU, naming those that there are."""
        count = self.device_count()
        if index >= count:
            here = ", ".join(str(self.device(other)) for other in range(count)) or "none"
            raise SanError(f"there is no GPU cuda:{index}", why=f"found: {here}")
        return self.device(index)

    def set_device(self, index: int) -> None:
        """Make a GPU the current one of the calling thread: each thread has its own, and begins with 0."""
        self.call("cudaSetDevice", index)

    def device_memory(self, size: int) -> DeviceMemory:
        """`DeviceMemory` of this runtime."""
        return DeviceMemory(self, size)

    def pinned_memory(self, size: int) -> PinnedMemory:
        """`PinnedMemory` of this runtime."""
        return PinnedMemory(self, size)

    def stream(self) -> Stream:
        """`Stream` of this runtime."""
        return Stream(self)

    def event(self, *, timing: bool = False) -> Event:
        """`Event` of this runtime."""
        return Event(self, timing=timing)


def devices() -> list[Device]:
    """All GPUs that CUDA can use here; empty without libcudart, driver or GPU."""
    return probe()[0]


def runtime_version() -> str:
    """Version of libcudart, `13.0`; empty where there is none. A driver is not needed."""
    try:
        return load().runtime_version()
    except SanError:
        return ""


def probe() -> tuple[list[Device], str]:
    """All GPUs that CUDA can use here, and in words why there is none where the list is empty."""
    try:
        cuda = load()
        if not cuda.driver_version():
            return [], NO_DRIVER
        found = [cuda.device(index) for index in range(cuda.device_count())]
    except SanError as error:
        return [], error.message
    return found, "" if found else "CUDA finds no GPU"


def require(index: int) -> Device:
    """A GPU by its index.

    Raises:
        SanError: there is none, or none that CUDA can use, and why.
    """
    found, why = probe()
    if not found:
        raise SanError(f"there is no GPU cuda:{index} here", why=why, do=_INSTALL)
    return load().device_at(index)


@functools.cache
def load() -> Cuda:
    """The CUDA runtime, loaded once.

    Of the libraries that are found, the first is taken with which the driver works: libcudart 13 beside a
    driver of CUDA 12 would refuse every call. Where none works, for want of a driver, the first that loads.

    Raises:
        SanError: there is no libcudart, or it does not load.
    """
    usable: list[Cuda] = []
    failures: list[str] = []
    for path in candidates():
        try:
            cuda = Cuda(ctypes.CDLL(path), path)
        except (OSError, AttributeError) as error:
            failures.append(str(error).split("\n", maxsplit=1)[0])
            continue
        if cuda.library.cudaGetDeviceCount(ctypes.byref(c_int())) != _DRIVER_TOO_OLD:
            return cuda
        usable.append(cuda)
    if usable:
        return usable[0]
    raise SanError("the CUDA runtime (libcudart) cannot be loaded", why=failures[0], do=_INSTALL)


def candidates() -> Iterator[str]:
    """Where libcudart may be, the most specific place first, each file once.

    What another package of this process has loaded, the wheels on `sys.path`, CUDA_PATH and CUDA_HOME,
    /usr/local/cuda*, and last the bare names, which the loader looks up.
    """
    seen: set[str] = set()
    folders: list[str] = []
    for entry in sys.path:
        for inner in ("cuda_runtime", "cu13", "cu12"):
            folders.append(str(Path(glob.escape(entry or "."), "nvidia", inner, "lib")))
    homes = [glob.escape(home) for name in ("CUDA_PATH", "CUDA_HOME") if (home := os.environ.get(name))]
    # /usr/local/cuda is the one that the machine's owner chose; then the newest first.
    homes += ["/usr/local/cuda", *map(glob.escape, sorted(glob.glob("/usr/local/cuda-*"), reverse=True))]
    for home in homes:
        folders += [f"{home}/lib64", f"{home}/lib", f"{home}/targets/*/lib"]
    yield from (name for name in _NAMES if _is_loaded(name))
    for folder in folders:
        for name in _NAMES:
            for path in sorted(glob.glob(f"{folder}/{name}")):
                real = os.path.realpath(path)
                if real not in seen:
                    seen.add(real)
                    yield path
    yield from _NAMES


def _is_loaded(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except (OSError, AttributeError):  # no RTLD_NOLOAD on Windows
        return False
    return True


def _version(number: int) -> str:
    """13020 -> `13.2`; 0, which stands for none, -> empty."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _advice(status: int) -> str:
    return {
        2: "give a smaller engine (san export --batch), or free memory on the GPU",
        _DRIVER_TOO_OLD: "install or update the NVIDIA driver",
        100: "look whether nvidia-smi lists a GPU",
        **dict.fromkeys(
            _LOST, "start the program again: after this error the GPU refuses all work of this process"
        ),
    }.get(status, "")
