"""What a process of the loader does: read jobs from its standard input, write augmented views to its standard output.

Nothing here or above may import PyTorch: a process has to start in a fraction of a second.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from san_deploy.errors import SanError

from ..augment import Augmentation, augment
from .images import Images


@dataclass(frozen=True)
class EpochDraws:
    """What the draws of one epoch hang on, beside the place of a view in it.

    Attributes:
        size_hw: of the views.
        augmentation: what to draw from.
        seed: of the run.
        epoch: counted from 0.
        stream: parts these draws from others of the same seed.
    """

    size_hw: tuple[int, int]
    augmentation: Augmentation
    seed: int
    epoch: int
    stream: int = 2


def view(images: Images, draws: EpochDraws, step: int, place: int, number: int) -> np.ndarray:
    """The image `number` as it is seen in one place of one batch: it depends on nothing else.

    Returns:
        `(H, W, 3)` uint8 BGR, of `draws.size_hw`.
    """
    rng = np.random.default_rng([draws.seed, draws.epoch, step, place, draws.stream])
    return augment(images[number], draws.size_hw, draws.augmentation, rng)


def views(
    images: Images, draws: EpochDraws, step: int, places: Sequence[int], numbers: Sequence[int]
) -> np.ndarray:
    """`(N, H, W, 3)` uint8 BGR of N >= 1 places of a batch."""
    return np.stack(
        [view(images, draws, step, place, number) for place, number in zip(places, numbers, strict=True)]
    )


def main() -> None:
    """Answer until the input ends, which it does when the training process ends, however it does.

    The first pickle is the `Images`, each later one the arguments of `views`. An answer is the pickle of its array, of
    a `SanError`, or of a traceback's text.
    """
    # The training process ends this one; a scheduler's SIGTERM to all is not for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    jobs = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints would stand between answers.
    os.dup2(2, 1)
    try:
        # In a thread: a pipe is small, and whoever reads it may have to wait for a core.
        with ThreadPoolExecutor(1) as sender:
            _serve(jobs, answers, sender)
    except (EOFError, pickle.UnpicklingError):
        # The pipe is at its end, or in the middle of something: nobody is there to be told.
        os._exit(0)


def _serve(jobs: BinaryIO, answers: BinaryIO, sender: ThreadPoolExecutor) -> None:
    images: Images = pickle.load(jobs)
    while True:
        job = pickle.load(jobs)
        answer: np.ndarray | SanError | str
        try:
            answer = views(images, *job)
        except SanError as error:
            answer = error
        except Exception:  # whatever it is: the training process raises it, with this text
            answer = traceback.format_exc()
        sender.submit(_send, answer, answers)


def _send(answer: object, answers: BinaryIO) -> None:
    try:
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
    except OSError:
        os._exit(0)
