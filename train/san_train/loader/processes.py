"""Batches in the order of a plan, drawn by a few processes ahead of the network."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any

import numpy as np

from san_deploy.errors import SanError
from san_deploy.io.cpu import usable_cores

from .images import Images
from .worker import EpochDraws, views

#: Batches prepared ahead: enough to hide decoding, few enough to keep memory small.
_AHEAD = 3
#: Processes that are started unasked, at most: more than one GPU's training was ever seen to need.
_MOST = 16
#: What a process runs. Not a module by name: it is to find what this process finds, wherever that was from.
_CODE = "import sys; sys.path[:] = {path!r}; from san_train.loader.worker import main; main()"
#: Products of a crop's pixels are too small to share between threads.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def default_workers() -> int:
    """One for each core that this process may use, at most 16; torchrun's processes on a machine share them."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MOST, usable_cores() // max(1, here)))


class Loader:
    """Draws augmented batches. The same bits for any number of workers.

    Threads would wait for each other: most of what is done to a crop holds Python's lock. An image always goes to the
    same process, so that each keeps its part of the decoded crops, and all together what one would keep.

    Use it as a context: inside, the processes run, and behind it none is left.

    Args:
        images: to draw from.
        workers: processes; 0 draws in this one, when a batch is asked for.
    """

    def __init__(self, images: Images, workers: int) -> None:
        self.images, self.workers = images, workers
        self._processes: list[_Process] = []

    def __enter__(self) -> Loader:
        with contextlib.ExitStack() as stack:
            self._processes = [stack.enter_context(_Process()) for _ in range(self.workers)]
            # Only now: a process takes them when it has started, which all do at once.
            for process in self._processes:
                process.send(self.images)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.clear()
        self._stack.__exit__(kind, error, trace)

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that run."""
        return [process.id for process in self._processes]

    def batches(
        self, plan: Sequence[Sequence[int]], draws: EpochDraws, places: Sequence[int] | None = None
    ) -> Iterator[np.ndarray]:
        """Batches, `(B, H, W, 3)` uint8 BGR, in the order of `plan`.

        Args:
            plan: numbers of the images of each batch.
            draws: of this epoch.
            places: of each batch that are wanted, in order; None is all of it.

        Raises:
            SanError: an image cannot be read, or a process ended.
        """
        wanted = [list(range(len(batch))) if places is None else list(places) for batch in plan]
        if not self._processes:
            for step, (batch, chosen) in enumerate(zip(plan, wanted, strict=True)):
                yield views(self.images, draws, step, chosen, [batch[place] for place in chosen])
            return
        asked: deque[_Asked] = deque()
        steps = iter(range(len(plan)))
        while True:
            for step in islice(steps, _AHEAD - len(asked)):
                asked.append(self._ask(plan[step], draws, step, wanted[step]))
            if not asked:
                return
            yield _joined(asked.popleft())

    def _ask(self, batch: Sequence[int], draws: EpochDraws, step: int, places: Sequence[int]) -> _Asked:
        """Give each process the places whose images are its own."""
        shares: list[list[int]] = [[] for _ in self._processes]
        for position, place in enumerate(places):
            shares[batch[place] % len(shares)].append(position)
        return [
            (
                positions,
                process.ask(
                    draws,
                    step,
                    [places[position] for position in positions],
                    [batch[places[position]] for position in positions],
                ),
            )
            for process, positions in zip(self._processes, shares, strict=True)
            if positions
        ]


#: Of one batch: positions in it, and what will stand there.
_Asked = list[tuple[list[int], "Future[np.ndarray]"]]


def _joined(asked: _Asked) -> np.ndarray:
    parts = [(positions, future.result()) for positions, future in asked]
    size = sum(len(positions) for positions, _ in parts)
    batch = np.empty((size, *parts[0][1].shape[1:]), np.uint8)
    for positions, part in parts:
        batch[positions] = part
    return batch


class _Process:
    """One process, and the thread that talks to it.

    A plain child with two pipes. `multiprocessing` would import the program's main module a second time, need
    semaphores that a killed run leaves behind, and leave its children waiting for a parent that is gone; a pipe ends.
    """

    def __enter__(self) -> _Process:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            # A terminal's Ctrl-C is for the training process alone.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        # Reads answers as they come, in the order of the jobs; those that nobody waits for any more, too.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        return self

    def __exit__(self, *_: object) -> None:
        # It has nothing to lose, and may be in the middle of a read from a disk that is gone.
        self._child.kill()
        self._thread.shutdown(cancel_futures=True)
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._child.wait()

    @property
    def id(self) -> int:
        """The system's number for it."""
        return self._child.pid

    def ask(self, *job: Any) -> Future[np.ndarray]:
        """The arguments of `worker.views` behind the images; its result."""
        self.send(job)
        return self._thread.submit(self._answer)

    def send(self, what: object) -> None:
        """Give the process something to read: the images, then jobs, which it has room for."""
        try:
            pickle.dump(what, self._child.stdin, protocol=5)  # type: ignore[arg-type]
            self._child.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            raise self._ended() from None

    def _answer(self) -> np.ndarray:
        try:
            answer = pickle.load(self._child.stdout)  # type: ignore[arg-type]
        except (EOFError, pickle.UnpicklingError, OSError):
            raise self._ended() from None
        if isinstance(answer, SanError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"a loader's process failed:\n{answer}")
        return answer

    def _ended(self) -> SanError:
        code = self._child.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return SanError(
            f"a process that augments crops ended ({how})",
            do="--resume goes on from the last epoch; with fewer --workers less memory is used",
        )
