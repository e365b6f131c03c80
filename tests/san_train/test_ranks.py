"""Two processes that train one network, against one process that trains it alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from san_train.data import gather  # noqa: E402
from san_train.ranks import Ranks, join, leave  # noqa: E402
from san_train.recipe import resolve  # noqa: E402
from san_train.run_state import STATE  # noqa: E402
from san_train.trainer import Compute, Training  # noqa: E402
from torch import nn  # noqa: E402

from san_deploy.datasets import read_dataset  # noqa: E402
from san_deploy.errors import UsageError  # noqa: E402

#: Masks without noise, and five steps.
SMALL = [
    "settings.width=0.06", "settings.size_hw=[32, 32]", "settings.embedding_dim=8", "settings.neck=false",
    "num_ids=4", "num_instances=2", "steps=5", "epochs=1", "warmup=0", "mask=expected", "hard_mask_epochs=0",
    "augmentation.erase=0", "lr=1e-2",
]  # fmt: skip


def train(folder: Path, out: Path, ranks: Ranks, *more: str) -> Training:
    """A run whose batch norms keep their first statistics: those see a process's own part of a batch.

    By SGD: Adam divides by the gradient's size, which makes a step of what is rounding alone.
    """
    recipe = resolve("scratch", [*SMALL, *more])
    data = gather([read_dataset(folder)], validation_people=0, seed=0)
    compute = Compute(torch.device("cpu"), ranks=ranks, workers=1)
    training = Training(recipe, data, out, compute, say=lambda line: None)
    for module in training.learner.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
            module.training = False
    training.optimizer = torch.optim.SGD(training._parameter_groups(), lr=1e-3, momentum=0.9)
    return training


def worker(folder: str, out: str, mode: str) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    ranks, _ = join("cpu")
    assert ranks.world == 2
    training = train(Path(folder), Path(out), ranks)
    if mode == "resume":
        training = train(Path(folder), Path(out), ranks, "epochs=2")
        training.resume(changed=("epochs",))
    if mode == "killed" and not ranks.first:
        os._exit(9)
    training.run()
    leave()


def two(folder: Path, out: Path, mode: str = "run") -> list[subprocess.CompletedProcess[str]]:
    """Both processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from tests.san_train.test_ranks import worker; worker({str(folder)!r}, {str(out)!r}, {mode!r})"
    where = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(started, outputs, strict=True)
    ]


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.learner.parameters()])


@pytest.mark.slow
def test_two_processes_train_what_one_does(crop_folder: Path, tmp_path: Path) -> None:
    for done in two(crop_folder, tmp_path / "two"):
        assert done.returncode == 0, done.stderr
    alone = train(crop_folder, tmp_path / "one", Ranks())
    alone.run()
    other = train(crop_folder, tmp_path / "two", Ranks())
    other.resume()
    torch.testing.assert_close(weights(other), weights(alone), atol=1e-6, rtol=0)
    # Two processes go on where two left off, one where two did; the batches are the same.
    shorter = train(crop_folder, tmp_path / "two", Ranks(), "epochs=2")
    shorter.resume(changed=("epochs",))
    for done in two(crop_folder, tmp_path / "two", "resume"):
        assert done.returncode == 0, done.stderr
    shorter.out = tmp_path / "apart"
    shorter.run()
    again = train(crop_folder, tmp_path / "two", Ranks(), "epochs=2")
    again.resume()
    assert again.epoch == 2
    torch.testing.assert_close(weights(again), weights(shorter), atol=2e-6, rtol=0)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(crop_folder: Path, tmp_path: Path) -> None:
    first, second = two(crop_folder, tmp_path / "run", "killed")
    assert second.returncode == 9
    assert first.returncode != 0 and "lost the others" in first.stderr
    assert (tmp_path / "run" / STATE).is_file()


def test_places_of_a_batch() -> None:
    assert Ranks().places(2, 3) == [0, 1, 2, 3, 4, 5]
    parts = [Ranks(rank, 2).places(4, 2) for rank in range(2)]
    assert parts == [[0, 1, 4, 5], [2, 3, 6, 7]]
    with pytest.raises(UsageError, match="num_ids=6"):
        Ranks(0, 3).places(4, 2)
