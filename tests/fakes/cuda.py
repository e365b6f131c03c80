"""libcudart on host memory: what a GPU may do to a program, drawn from a seed.

Work that is put into a stream is done late: when somebody waits for it, or by chance before. It reads and writes
its buffers then, not when it was put there. So whoever touches a buffer too early gets wrong numbers, as on a GPU.
Freed memory, foreign pointers, unordered streams and recorded work that is not allowed stop the test.
"""

from __future__ import annotations

import ctypes
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from san_deploy.backends.cuda import _SIGNATURES, Cuda

INVALID_VALUE, OUT_OF_MEMORY, NO_DRIVER, CAPTURE_INVALIDATED, ILLEGAL_ADDRESS = 1, 2, 35, 901, 700
CAPTURE_UNSUPPORTED = 900
#: These end the process's use of the GPU; no call clears them.
STICKY = frozenset({ILLEGAL_ADDRESS})
_NAMES = {
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    35: (
        "cudaErrorInsufficientDriver",
        "CUDA driver version is insufficient for CUDA runtime version",
    ),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    700: ("cudaErrorIllegalAddress", "an illegal memory access was encountered"),
    900: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    901: ("cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"),
}
#: Milliseconds on the device of a copy in, a run and a copy out.
COPY_IN, RUN, COPY_OUT = 3.0, 10.0, 2.0


@dataclass
class _Stream:
    device: int
    work: deque[tuple[str, Callable[[], None]]] = field(default_factory=deque)
    #: Work done so far, ever.
    done: int = 0
    put: int = 0
    #: Milliseconds at which what was put will be done.
    end: float = 0.0
    recording: list[tuple[Callable[[], None], float]] | None = None
    recorder: int = 0
    broken: bool = False


@dataclass
class _Event:
    timing: bool
    #: Stream and how much of it must be done; None until it is recorded.
    place: tuple[_Stream, int] | None = None
    at: float = 0.0


class FakeCudart:
    """The functions of libcudart that `Cuda` calls.

    Args:
        seed: of the moments at which work is done; None does it as late as can be.
        devices: compute capabilities of the GPUs.
        names: of the GPUs; empty calls them `Fake GPU 0`, ...
        driver: CUDA version of the driver, 0 for none.

    Attributes:
        log: names of the functions that were called, in order.
        fail: function -> (calls that still succeed, the status after them).
        free: bytes of memory on the device.
        lost: the error that every call in this process gives from now on; 0 for none.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        devices: tuple[str, ...] = ("sm86",),
        names: tuple[str, ...] = (),
        driver: int = 13000,
    ) -> None:
        self.log: list[str] = []
        self.fail: dict[str, tuple[int, int]] = {}
        self.free = 1 << 40
        self.lost = 0
        self._random = None if seed is None else random.Random(seed)
        self._devices = devices
        self._names = names or tuple(f"Fake GPU {index}" for index in range(len(devices)))
        self._driver = driver
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._handles = 1000
        self._memory: dict[int, tuple[Any, int, str]] = {}
        self.streams: dict[int, _Stream] = {}
        self.events: dict[int, _Event] = {}
        self.graphs: dict[int, list[tuple[Callable[[], None], float]]] = {}
        self.executables: dict[int, list[tuple[Callable[[], None], float]]] = {}
        for name in (*_SIGNATURES, "cudaGetErrorName", "cudaGetErrorString"):
            setattr(self, name, self._function(name))

    def alive(self) -> Counter[str]:
        """What was made and not freed."""
        found = Counter(kind for _, _, kind in self._memory.values())
        found.update(
            streams=len(self.streams),
            events=len(self.events),
            graphs=len(self.graphs) + len(self.executables),
        )
        return +found

    def buffer(self, address: int, size: int, kind: str) -> Any:
        """The bytes behind an address; fails where it is not memory of this kind, or not that much."""
        assert address in self._memory, f"{address} was freed, or never allocated"
        raw, has, found = self._memory[address]
        assert found == kind and size <= has, f"{size} bytes of {kind} at {has} of {found}"
        return (ctypes.c_ubyte * size).from_address(ctypes.addressof(raw))

    def put(self, handle: int, name: str, work: Callable[[], None], milliseconds: float) -> None:
        """Put work into a stream, or into the graph that is recorded from it."""
        with self._lock:
            stream = self.streams[handle]
            assert stream.device == self._current(), f"{name} in a stream of another device"
            if stream.recording is not None:
                assert stream.recorder == threading.get_ident()
                stream.recording.append((work, milliseconds))
                return
            stream.end = max(stream.end, self._now()) + milliseconds
            stream.put += 1
            stream.work.append((name, work))
            self.log.append(name)
            self._by_chance()

    def is_recording(self, handle: int) -> bool:
        """Whether a stream's work goes into a graph."""
        return self.streams[handle].recording is not None

    def spoil(self, handle: int) -> None:
        """Something was done that cannot be recorded: the recording is lost, and the error stays."""
        self.streams[handle].broken = True
        self._failed(CAPTURE_UNSUPPORTED)

    def last_error(self) -> int:
        """What `cudaPeekAtLastError` would say in this thread."""
        return self.lost or getattr(self._thread, "error", 0)

    def current(self) -> int:
        """Index of the GPU that is current in this thread."""
        return self._current()

    def now(self) -> float:
        """Milliseconds that this thread has waited for the device."""
        return self._now()

    # What follows is called through the functions that __init__ made.

    def _function(self, name: str) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            with self._lock:
                if name.startswith("cudaGetError"):
                    return getattr(self, f"_{name}")(*arguments)
                self.log.append(name)
                if name == "cudaGetLastError":
                    return self._cudaGetLastError()
                left, status = self.fail.get(name, (1, 0))
                if status and left <= 0:
                    return self._failed(status)
                self.fail[name] = (left - 1, status)
                return self._failed(getattr(self, f"_{name}")(*arguments))

        return function

    def _failed(self, status: int) -> int:
        """A failure stays the thread's last error until somebody asks for it; a lost context stays for ever."""
        if status:
            self._thread.error = status
        if status in STICKY:
            self.lost = status
        return status

    def _cudaGetLastError(self) -> int:
        status, self._thread.error = self.last_error(), 0
        return status

    def _current(self) -> int:
        return getattr(self._thread, "device", 0)

    def _now(self) -> float:
        return getattr(self._thread, "now", 0.0)

    def _wait_until(self, moment: float) -> None:
        self._thread.now = max(self._now(), moment)

    def _new(self, out: Any) -> int:
        self._handles += 8
        out._obj.value = self._handles
        return self._handles

    def _advance(self, stream: _Stream, until: int) -> None:
        """Do the work of a stream, in order, until that much is done."""
        while stream.done < until:
            _, work = stream.work.popleft()
            stream.done += 1
            work()

    def _by_chance(self) -> None:
        if self._random is None:
            return
        for stream in self._random.sample(list(self.streams.values()), len(self.streams)):
            if stream.work and self._random.random() < 0.4:
                self._advance(stream, stream.done + 1)

    def _cudaGetErrorName(self, status: int) -> bytes:
        return _NAMES.get(status, ("cudaErrorUnknown", ""))[0].encode()

    def _cudaGetErrorString(self, status: int) -> bytes:
        return _NAMES.get(status, ("", "unknown error"))[1].encode()

    def _cudaRuntimeGetVersion(self, out: Any) -> int:
        out._obj.value = 13000
        return 0

    def _cudaDriverGetVersion(self, out: Any) -> int:
        out._obj.value = self._driver
        return 0

    def _cudaGetDeviceCount(self, out: Any) -> int:
        if not self._driver:
            return NO_DRIVER
        out._obj.value = len(self._devices)
        return 0 if self._devices else 100

    def _cudaDeviceGetAttribute(self, out: Any, attribute: int, index: int) -> int:
        number = int(self._devices[index][2:])
        out._obj.value = {75: number // 10, 76: number % 10}[attribute]
        return 0

    def _cudaGetDeviceProperties(self, out: Any, index: int) -> int:
        name = self._names[index].encode()
        # As in every version: the name first, then what differs.
        ctypes.memset(out, 0xAB, 1100)
        ctypes.memmove(out, name + b"\0", len(name) + 1)
        return 0

    def _cudaSetDevice(self, index: int) -> int:
        if index >= len(self._devices):
            return INVALID_VALUE
        self._thread.device = index
        return 0

    def _allocate(self, out: Any, size: int, kind: str) -> int:
        raw = ctypes.create_string_buffer(b"\xcc" * size, size)
        address = ctypes.addressof(raw)
        self._memory[address] = (raw, size, kind)
        out._obj.value = address
        return 0

    def _cudaMalloc(self, out: Any, size: int) -> int:
        if size > self.free:
            return OUT_OF_MEMORY
        self.free -= size
        return self._allocate(out, size, "device")

    def _cudaHostAlloc(self, out: Any, size: int, flags: int) -> int:
        assert flags == 0
        return self._allocate(out, size, "pinned")

    def _cudaFree(self, address: int) -> int:
        # Waits for everything, as the real one does.
        for stream in list(self.streams.values()):
            self._advance(stream, stream.put)
        raw, size, kind = self._memory.pop(address)
        assert kind == "device"
        ctypes.memset(raw, 0xDD, size)
        self.free += size
        return 0

    def _cudaFreeHost(self, address: int) -> int:
        for stream in list(self.streams.values()):
            self._advance(stream, stream.put)
        assert self._memory.pop(address)[2] == "pinned"
        return 0

    def _cudaStreamCreateWithFlags(self, out: Any, flags: int) -> int:
        assert flags == 1, "a stream that waits for the default stream"
        self.streams[self._new(out)] = _Stream(self._current())
        return 0

    def _cudaStreamDestroy(self, handle: int) -> int:
        stream = self.streams[handle]
        self._advance(stream, stream.put)
        del self.streams[handle]
        return 0

    def _cudaStreamSynchronize(self, handle: int) -> int:
        stream = self.streams[handle]
        if stream.recording is not None:
            stream.broken = True
            return 900
        self._advance(stream, stream.put)
        self._wait_until(stream.end)
        return 0

    def _cudaStreamWaitEvent(self, handle: int, event: int, flags: int) -> int:
        assert flags == 0
        place = self.events[event].place
        if place is not None:
            # The place is that of now: recording the event again does not move the waiting.
            stream, at = place, self.events[event].at
            self.streams[handle].end = max(self.streams[handle].end, at)
            self.put(handle, "wait", lambda: self._advance(*stream), 0.0)
        return 0

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, handle: int) -> int:
        to, from_ = {1: ("device", "pinned"), 2: ("pinned", "device")}[kind]
        was = bytes(self.buffer(source, size, "pinned")) if kind == 1 else b""

        def work() -> None:
            raw = self.buffer(source, size, from_)
            assert kind == 2 or bytes(raw) == was, "the host changed what was not copied yet"
            ctypes.memmove(self.buffer(target, size, to), raw, size)

        self.put(handle, "copy in" if kind == 1 else "copy out", work, COPY_IN if kind == 1 else COPY_OUT)
        return 0

    def _cudaEventCreateWithFlags(self, out: Any, flags: int) -> int:
        assert flags & 1, "waiting spins on a core"
        self.events[self._new(out)] = _Event(timing=not flags & 2)
        return 0

    def _cudaEventDestroy(self, handle: int) -> int:
        del self.events[handle]
        return 0

    def _cudaEventRecord(self, event: int, handle: int) -> int:
        stream = self.streams[handle]
        self.put(handle, "record", lambda: None, 0.0)
        self.events[event].place = (stream, stream.put)
        self.events[event].at = stream.end
        return 0

    def _cudaEventSynchronize(self, handle: int) -> int:
        event = self.events[handle]
        if event.place is not None:
            self._advance(*event.place)
            self._wait_until(event.at)
        return 0

    def _cudaEventElapsedTime(self, out: Any, begin: int, end: int) -> int:
        first, last = self.events[begin], self.events[end]
        if not (first.timing and last.timing and first.place and last.place):
            return 400
        assert last.place[0].done >= last.place[1], "asked for the time of what is not done"
        out._obj.value = last.at - first.at
        return 0

    def _cudaStreamBeginCapture(self, handle: int, mode: int) -> int:
        assert mode == 1, "not thread-local: forbids other threads their work"
        stream = self.streams[handle]
        assert not stream.work, "recorded from a stream with work in it"
        stream.recording, stream.recorder, stream.broken = [], threading.get_ident(), False
        return 0

    def _cudaStreamEndCapture(self, handle: int, out: Any) -> int:
        stream = self.streams[handle]
        recorded, stream.recording = stream.recording, None
        assert recorded is not None
        if stream.broken:
            out._obj.value = None
            return CAPTURE_INVALIDATED
        self.graphs[self._new(out)] = recorded
        return 0

    def _cudaGraphInstantiateWithFlags(self, out: Any, graph: Any, flags: int) -> int:
        assert flags == 0
        self.executables[self._new(out)] = self.graphs[graph.value]
        return 0

    def _cudaGraphDestroy(self, graph: Any) -> int:
        del self.graphs[graph.value]
        return 0

    def _cudaGraphExecDestroy(self, handle: int) -> int:
        del self.executables[handle]
        return 0

    def _cudaGraphLaunch(self, executable: int, handle: int) -> int:
        recorded = self.executables[executable]

        def work() -> None:
            for step, _ in recorded:
                step()

        self.put(handle, "graph", work, sum(milliseconds for _, milliseconds in recorded))
        return 0


def fake_cuda(**arguments: Any) -> tuple[Cuda, FakeCudart]:
    """`Cuda` itself, on a library that is not there."""
    library = FakeCudart(**arguments)
    return Cuda(library, "fake"), library
