"""Batches through an engine: copied in, run and copied back at the same time, part by part.

A part takes a slot: buffers on the host and on the device that are its own until its rows were read. There are
three streams, one for each direction and one that runs, so while part n runs, part n + 1 is copied in and part
n - 1 is copied back. On the host no buffer is touched before the device is done with it, and the other way round:

    copy in    [ in n+1 ]            waits for: the slot is free, that is, its last rows are on the host
    run        [ run n  ]            waits for: in n
    copy out   [ out n-1 ]           waits for: run n-1

The addresses are set once, when a slot is made; nothing is allocated afterwards.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..artefact import INPUT_NAME, OUTPUT_NAME
from ..errors import SanError
from .cuda import Cuda, CudaGraph, DeviceMemory, Event, PinnedMemory, Stream
from .trt import collected

#: Two are enough: with one part running, the other slot's part is read, filled and copied in.
_SLOTS = 2


@dataclass
class _Slot:
    """Buffers for one part, and the contexts that read and write them.

    Attributes:
        pinned_in, pinned_out: on the host; `host_in` and `host_out` are views of them.
        device_in, device_out: on the device.
        host_in: `(most, *row)` of what the engine takes.
        host_out: `(most, D)` float32.
        copied_in, ran, copied_out: how far its part has come.
        context: for a part of any size; None where all parts have the size of `graph`.
        graph: a recorded run of a part of the largest size; None without CUDA graphs.
        graph_context: that `graph` was recorded from. It must not be changed while the graph is used.
    """

    pinned_in: PinnedMemory
    pinned_out: PinnedMemory
    device_in: DeviceMemory
    device_out: DeviceMemory
    host_in: np.ndarray
    host_out: np.ndarray
    copied_in: Event
    ran: Event
    copied_out: Event
    context: Any = None
    graph: CudaGraph | None = None
    graph_context: Any = None


class Pipeline:
    """Runs batches of any size, from several threads at once.

    A thread holds a slot only while its own part is under way, and waits for a slot only while it holds none:
    so threads take turns part by part, and none can wait for ever. The work is put into the streams under a
    lock, since an engine's contexts share the memory of its intermediate results.

    Args:
        cuda: the CUDA runtime; `device` is an index of it.
        device: that runs it.
        new_context: makes an execution context, with profile 0 and memory for its intermediate results.
        batch: least and largest number of crops per run.
        row: shape and type of a crop as the engine takes it.
        dim: length of an embedding.
        graphs: whether runs of the largest size are recorded as CUDA graphs: True must, False must not, None
            does where TensorRT can.
        name: of the model, for messages.

    Attributes:
        note: why there are no CUDA graphs, where None was given and they cannot be; else empty.

    Raises:
        SanError: no memory, TensorRT refuses, or `graphs` is True and they cannot be. Nothing stays allocated.
    """

    def __init__(
        self,
        cuda: Cuda,
        device: int,
        new_context: Callable[[Stream], Any],
        *,
        batch: tuple[int, int],
        row: tuple[tuple[int, ...], type],
        dim: int,
        graphs: bool | None,
        name: str,
    ) -> None:
        self._cuda = cuda
        self._device = device
        self._least, self._most = batch
        self._row_shape, self._row_type = row
        self._row_bytes = int(np.prod(self._row_shape)) * np.dtype(self._row_type).itemsize
        self._dim = dim
        self._name = name
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        self._closed = False
        self.note = ""
        with ExitStack() as stack:
            self._copy_in: Stream = stack.enter_context(cuda.stream())
            self._run: Stream = stack.enter_context(cuda.stream())
            self._copy_out: Stream = stack.enter_context(cuda.stream())
            slots = [self._new_slot(stack) for _ in range(_SLOTS)]
            for slot in slots:
                if graphs is not False and not self.note:
                    self._record(slot, self._context_of(slot, new_context), stack, must=bool(graphs))
                if slot.graph is None or self._least < self._most:
                    slot.context = self._context_of(slot, new_context)
                self._free.put(slot)
            self._resources = stack.pop_all()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Run a batch.

        Args:
            batch: `(N, *row)`, N >= 1. More than the largest number are cut into parts; fewer than the least
                are filled up with black crops, whose rows are cut off.

        Returns:
            `(N, D)` float32; a new array.

        Raises:
            SanError: CUDA or TensorRT fails, or it was closed.
        """
        rows = np.empty((len(batch), self._dim), np.float32)
        flying: deque[tuple[_Slot, slice]] = deque()

        def land() -> None:
            slot, place = flying[0]
            slot.copied_out.wait()
            rows[place] = slot.host_out[: place.stop - place.start]
            flying.popleft()
            self._free.put(slot)

        self._cuda.set_device(self._device)
        try:
            for start in range(0, len(batch), self._most):
                place = slice(start, min(start + self._most, len(batch)))
                slot = self._take(flying, land)
                flying.append((slot, place))
                self._enqueue(slot, self._fill(slot, batch[place]), place.stop - start)
            while flying:
                land()
        finally:
            # After an error: a slot is given back only when the device does nothing with it any more.
            if flying:
                self._settle()
            for slot, _ in flying:
                self._free.put(slot)
        return rows

    def profile(self, batch: np.ndarray) -> dict[str, float]:
        """Run a batch, its parts one after another, and time each step on the device.

        What other threads run meanwhile is in the times.

        Args:
            batch: as for a call.

        Returns:
            Milliseconds, summed over the parts: `copy_in`, `run`, `copy_out`.
        """
        self._cuda.set_device(self._device)
        times = dict.fromkeys(("copy_in", "run", "copy_out"), 0.0)
        with ExitStack() as stack:
            marks = [stack.enter_context(self._cuda.event(timing=True)) for _ in range(6)]
            for start in range(0, len(batch), self._most):
                part = batch[start : start + self._most]
                slot = self._take((), self._settle)
                try:
                    self._enqueue(slot, self._fill(slot, part), len(part), marks)
                    slot.copied_out.wait()
                    for name, begin, end in zip(times, marks[::2], marks[1::2], strict=True):
                        times[name] += end.milliseconds_since(begin)
                except BaseException:
                    self._settle()
                    raise
                finally:
                    self._free.put(slot)
        return times

    def close(self) -> None:
        """Wait for what is running, then free everything; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        # With the slots go the contexts, before the memory that they use.
        for _ in range(_SLOTS):
            self._free.get()
        # Whoever waits for a slot gets this, and so does everyone after.
        self._free.put(None)
        self._cuda.set_device(self._device)
        self._resources.close()

    def _take(self, flying: Collection[object], land: Callable[[], None]) -> _Slot:
        """A free slot. Where there is none: waits for one, or, while `flying`, calls `land` to get one free."""
        while True:
            try:
                slot = self._free.get(block=not flying)
                break
            except queue.Empty:
                land()
        if slot is None:
            self._free.put(None)
            raise SanError(f"{self._name} was closed", do="open it again")
        return slot

    def _fill(self, slot: _Slot, part: np.ndarray) -> int:
        """Put a part into a slot; gives the number of rows to run."""
        size = max(len(part), self._least)
        slot.host_in[: len(part)] = part
        slot.host_in[len(part) : size] = 0
        return size

    def _enqueue(self, slot: _Slot, size: int, count: int, marks: list[Event] | None = None) -> None:
        """Let `size` rows of a slot be copied in and run, and the first `count` be copied back."""
        with self._lock, collected() as messages:
            with _between(self._copy_in, marks, 0):
                self._copy_in.copy_to_device(slot.device_in, slot.pinned_in, size * self._row_bytes)
            self._copy_in.record(slot.copied_in)
            self._run.wait_for(slot.copied_in)
            with _between(self._run, marks, 2):
                if slot.graph is not None and size == self._most:
                    self._run.launch(slot.graph)
                else:
                    self._set_size(slot.context, size, messages.why)
                    self._execute(slot.context, messages.why)
            self._run.record(slot.ran)
            self._copy_out.wait_for(slot.ran)
            with _between(self._copy_out, marks, 4):
                self._copy_out.copy_to_host(slot.pinned_out, slot.device_out, count * self._dim * 4)
            self._copy_out.record(slot.copied_out)

    def _new_slot(self, stack: ExitStack) -> _Slot:
        cuda = self._cuda
        in_bytes, out_bytes = self._most * self._row_bytes, self._most * self._dim * 4
        pinned_in = stack.enter_context(cuda.pinned_memory(in_bytes))
        pinned_out = stack.enter_context(cuda.pinned_memory(out_bytes))
        return _Slot(
            pinned_in,
            pinned_out,
            stack.enter_context(cuda.device_memory(in_bytes)),
            stack.enter_context(cuda.device_memory(out_bytes)),
            pinned_in.array((self._most, *self._row_shape), self._row_type),
            pinned_out.array((self._most, self._dim), np.float32),
            *(stack.enter_context(cuda.event()) for _ in range(3)),
        )

    def _context_of(self, slot: _Slot, new_context: Callable[[Stream], Any]) -> Any:
        with collected() as messages:
            context = new_context(self._run)
            for name, memory in ((INPUT_NAME, slot.device_in), (OUTPUT_NAME, slot.device_out)):
                if not context.set_tensor_address(name, memory.handle):
                    raise self._refused(f"the address of {name}", messages.why())
        return context

    def _record(self, slot: _Slot, context: Any, stack: ExitStack, *, must: bool) -> None:
        """Record a run of the largest size as the slot's graph; where it cannot be, raise or say so in `note`.

        The graph has `context` for itself: a context that changes its shape afterwards would break it.
        """
        slot.host_in[:] = 0
        with collected() as messages:
            self._set_size(context, self._most, messages.why)
            self._copy_in.copy_to_device(slot.device_in, slot.pinned_in, slot.pinned_in.size)
            self._copy_in.synchronise()
            # TensorRT puts off some of its work to the first run, and that must not be recorded.
            self._execute(context, messages.why)
            self._run.synchronise()
            try:
                slot.graph = stack.enter_context(
                    self._run.capture(lambda: self._execute(context, messages.why))
                )
            except SanError as error:
                if must:
                    raise
                self.note = f"without CUDA graphs, since {error.message}"
                return
        slot.graph_context = context

    def _set_size(self, context: Any, size: int, why: Callable[[], str]) -> None:
        shape = (size, *self._row_shape)
        if not context.set_input_shape(INPUT_NAME, shape):
            raise self._refused(f"the input shape {shape}", why())

    def _execute(self, context: Any, why: Callable[[], str]) -> None:
        if not context.execute_async_v3(self._run.handle):
            raise self._refused("to run", why())

    def _refused(self, what: str, why: str) -> SanError:
        return SanError(f"TensorRT refused {what}, for {self._name}", why=why)

    def _settle(self) -> None:
        """Wait until the device is done with everything, however it ends."""
        for stream in (self._copy_in, self._run, self._copy_out):
            # The error that led here is the one to tell.
            with contextlib.suppress(SanError):
                stream.synchronise()


@contextlib.contextmanager
def _between(stream: Stream, marks: list[Event] | None, first: int) -> Iterator[None]:
    """Put the time marks `first` and the next around what is enqueued."""
    if marks is not None:
        stream.record(marks[first])
    yield
    if marks is not None:
        stream.record(marks[first + 1])
