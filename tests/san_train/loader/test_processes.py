"""The loader against plain calls of `augment`, and what becomes of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from san_train.augment import Augmentation, augment
from san_train.loader import processes
from san_train.loader.images import CropCache
from san_train.loader.processes import Loader, default_workers
from san_train.loader.worker import EpochDraws

from san_deploy.errors import SanError
from san_deploy.images import UnreadableImage, read_image

STRONG = Augmentation(tone=1.0, saturation=0.5, erase=1.0, blur=0.5)
DRAWS = EpochDraws((64, 32), STRONG, seed=5, epoch=3)
PLAN = [[0, 3, 5], [1, 1, 2], [4, 0, 6], [7, 2, 3], [5, 5, 5], [6, 4, 2], [1, 0, 0]]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.fixture
def paths(crop_folder: Path) -> list[Path]:
    return sorted(crop_folder.rglob("*.png"))


def literal(
    paths: list[Path], plan: Sequence[Sequence[int]], draws: EpochDraws, places: Sequence[int] = (0, 1, 2)
) -> np.ndarray:
    """As the loader was when it was one loop: a generator for each place of each batch."""
    result = []
    for step, batch in enumerate(plan):
        for place in places:
            rng = np.random.default_rng([draws.seed, draws.epoch, step, place, draws.stream])
            result.append(augment(read_image(paths[batch[place]]), draws.size_hw, draws.augmentation, rng))
    return np.array(result).reshape(len(plan), len(places), *draws.size_hw, 3)


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_batches_are_the_same_bits_for_any_number_of_workers(paths: list[Path], workers: int) -> None:
    with Loader(CropCache(paths), workers) as loader:
        assert len(loader.process_ids) == workers
        np.testing.assert_array_equal(list(loader.batches(PLAN, DRAWS)), literal(paths, PLAN, DRAWS))
        # A rank's places, of a lesson's draws, in a later epoch.
        later = EpochDraws((32, 16), STRONG, seed=5, epoch=4, stream=12)
        mine = list(loader.batches(PLAN, later, [2, 0]))
        np.testing.assert_array_equal(mine, literal(paths, PLAN, later, [2, 0]))
    assert not loader.process_ids


def test_an_epoch_that_is_left_does_not_mix_with_the_next(paths: list[Path]) -> None:
    with Loader(CropCache(paths, limit_bytes=0), 2) as loader:
        first = next(iter(loader.batches(PLAN, EpochDraws((64, 32), STRONG, seed=1, epoch=0))))
        assert first.shape == (3, 64, 32, 3)
        np.testing.assert_array_equal(list(loader.batches(PLAN, DRAWS)), literal(paths, PLAN, DRAWS))
        assert list(loader.batches([], DRAWS)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_crop_that_is_gone_is_named(paths: list[Path], tmp_path: Path, workers: int) -> None:
    gone = tmp_path / "gone.jpg"
    with (
        Loader(CropCache([*paths[:3], gone]), workers) as loader,
        pytest.raises(UnreadableImage, match=r"gone\.jpg"),
    ):
        list(loader.batches([[0, 1, 2], [1, 3, 2]], DRAWS))


def test_a_bug_in_a_process_keeps_its_traceback(paths: list[Path]) -> None:
    with Loader(CropCache(paths), 1) as loader:
        with pytest.raises(RuntimeError, match=r"Traceback (?s:.*)IndexError"):
            list(loader.batches([[0, 10**6]], DRAWS))
        # It lives on.
        assert len(list(loader.batches([[0]], DRAWS))) == 1


@posix
def test_a_killed_process_is_one_message(paths: list[Path]) -> None:
    with Loader(CropCache(paths), 2) as loader:
        stream = loader.batches(PLAN * 20, DRAWS)
        next(stream)
        os.kill(loader.process_ids[1], signal.SIGKILL)
        with pytest.raises(SanError, match=r"augments crops ended \(signal 9\)\. .*--workers"):
            list(stream)


@posix
def test_signals_to_all_are_not_for_the_processes(paths: list[Path]) -> None:
    with Loader(CropCache(paths), 1) as loader:
        stream = loader.batches(PLAN, DRAWS)
        batches = [next(stream)]
        (child,) = loader.process_ids
        # A terminal sends Ctrl-C to a group, which is not theirs; a scheduler may send SIGTERM to each.
        assert os.getpgid(child) != os.getpgid(0)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        np.testing.assert_array_equal([*batches, *stream], literal(paths, PLAN, DRAWS))
    assert ended([child])


@posix
@pytest.mark.parametrize("working", [True, False], ids=["working", "idle"])
def test_no_process_outlives_a_killed_parent(paths: list[Path], working: bool) -> None:
    code = f"""
import sys, time
from pathlib import Path
from tests.san_train.loader.test_processes import *
if __name__ == "__main__":
    with Loader(CropCache([Path({str(paths[0])!r})]), 2) as loader:
        stream = loader.batches([[0] * 64] * 1000, DRAWS)
        next(stream)
        if not {working}:
            list(loader.batches([[0]], DRAWS))
        print(*loader.process_ids, flush=True)
        time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout and run.stderr
        line = run.stdout.readline()
        assert line, run.stderr.read().decode()
        run.kill()
        found = [int(word) for word in line.split()]
        assert len(found) == 2 and ended(found)
        # Neither a traceback, nor what would be left behind in shared memory.
        assert run.stderr.read() == b""


def ended(processes: list[int]) -> bool:
    """Whether all are gone, or soon are; a zombie is one that ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(runs(process) for process in processes):
            return True
        time.sleep(0.05)
    return False


def runs(process: int) -> bool:
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(shown) and not shown.startswith("Z")


def test_a_process_loads_no_pytorch() -> None:
    """Each would take its seconds to start, and its memory."""
    code = "import sys, san_train.loader.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnxruntime", "multiprocessing"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("cores", "here", "expected"), [(2, "1", 2), (96, "1", 16), (8, "4", 2), (1, "2", 1)]
)
def test_workers_by_default(monkeypatch: pytest.MonkeyPatch, cores: int, here: str, expected: int) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert default_workers() == expected
