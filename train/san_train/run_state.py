"""The folder of a training run: what stands in it, whose it is, and where it left off."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from san_deploy.checkpoint_info import read_state
from san_deploy.errors import SanError
from san_deploy.io.atomic import atomic_file

from .checkpoint import load_tensors, save_tensors
from .recipe import from_dict, renamed

STATE = "state.safetensors"
MODEL = "model.safetensors"
BEST = "best.safetensors"
CONFIG = "config.json"
LOG = "metrics.jsonl"


@dataclass(frozen=True)
class RunState:
    """Where a run stands after an epoch.

    Attributes:
        epoch: epochs done.
        best: score of the best validation so far, -1 before the first.
        metrics: the last validation's figures.
        recipe: plain data, with today's names.
        data: fingerprint of the training data.
        precision: `fp32` or `bf16`.
        world_size: processes that trained together.
        tensors: everything learned, by name.
    """

    epoch: int
    best: float
    metrics: dict[str, float]
    recipe: dict[str, Any]
    data: str
    precision: str
    world_size: int = 1
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        description = {
            "schema_version": 1,
            "epoch": self.epoch,
            "best": self.best,
            "metrics": self.metrics,
            "recipe": self.recipe,
            "data": self.data,
            "precision": self.precision,
            "world_size": self.world_size,
        }
        save_tensors(path, self.tensors, description)

    def refuse_other(self, path: Path, now: RunState, *, changed: Collection[str]) -> None:
        """Raise SanError where this state is of another recipe, other data or another precision than `now`.

        Args:
            path: of this state, for the message.
            now: what the run is to go on with.
            changed: values of the recipe that may differ.
        """
        wanted = json.loads(json.dumps(now.recipe))
        differ = sorted(key for key in wanted if key not in changed and self.recipe.get(key) != wanted[key])
        if differ:
            raise SanError(
                f"{path} is of another recipe",
                why=f"different there: {', '.join(differ)}",
                do="resume without overrides, or start a new run",
            )
        if self.data != now.data:
            raise SanError(f"{path} was trained on other data", do="name the same folders in the same order")
        if self.precision != now.precision:
            raise SanError(f"{path} was trained in {self.precision}", do=f"add --precision {self.precision}")


def load_state(path: Path, now: RunState) -> RunState:
    """Read a state; what an older one does not say is as in `now`.

    Raises:
        SanError: missing, damaged, or no state of a run.
    """
    tensors, description = load_tensors(path)
    info = read_state(path, description)
    try:
        # A value that is younger than the state had its default there.
        recipe = from_dict(info.recipe).as_dict()
    except ValueError as error:
        raise SanError(f"{path} is no state of a run", why=str(error)) from error
    return RunState(
        epoch=info.epoch,
        best=info.best,
        metrics=info.metrics,
        recipe=json.loads(json.dumps(recipe)),
        data=now.data if info.data is None else str(info.data),
        precision=info.precision or now.precision,
        world_size=info.world_size,
        tensors=tensors,
    )


def write_config(out: Path, values: Mapping[str, Any]) -> None:
    """Write `config.json`, atomically."""
    with atomic_file(out / CONFIG) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_config(out: Path) -> dict[str, Any]:
    """What `config.json` of the run in `out` says; its recipe with today's names.

    Raises:
        SanError: there is none, or none of ours.
    """
    try:
        config = dict(json.loads((Path(out) / CONFIG).read_text(encoding="utf-8")))
        return {**config, "recipe": renamed(config["recipe"])}
    except FileNotFoundError as error:
        raise SanError(f"{out} holds no run to resume", do="train one: san train DATA -o RUN") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SanError(
            f"{Path(out) / CONFIG} cannot be read as that of a run",
            why=str(error).split("\n")[0],
            do="put it right, or start another run with another -o",
        ) from error


def append_log(out: Path, record: Mapping[str, Any]) -> None:
    """One line of `metrics.jsonl`."""
    with (out / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(record) + "\n")


def forget_log_after(out: Path, epoch: int) -> None:
    """Drop the lines of epochs that a killed run had begun and that are run again, and a line that is cut short."""
    log = out / LOG
    if log.is_file():
        try:
            lines = log.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise SanError(
                f"{log} is no text in UTF-8",
                why=str(error),
                do="write it as such, or remove it to go on without it",
            ) from error
        kept = [line for line in lines if 0 < _epoch_of(line) <= epoch]
        with atomic_file(log) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _epoch_of(line: str) -> int:
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def is_run(out: Path) -> bool:
    """Whether config.json is one of ours; other tools use that name too."""
    try:
        return "hard_mask_kind" in read_config(out)["recipe"]
    except SanError:
        return False


def refuse_run(out: Path, *, force: bool) -> None:
    """Raise SanError where a new run in `out` would replace files of a stranger, or a run without `force`."""
    found = [name for name in (CONFIG, MODEL, BEST, STATE, LOG) if (out / name).exists()]
    if not found:
        return
    if not is_run(out):
        raise SanError(f"{out} holds {found[0]}, which is no file of a run of ours", do="name another output")
    if not force:
        raise SanError(f"{out} holds a run", do="continue it with --resume, or start again with --force")


def remove_run(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else that may lie in the folder."""
    if not is_run(out):
        return
    for name in (MODEL, BEST, STATE):
        (out / name).unlink(missing_ok=True)
        (out / name).with_suffix(".json").unlink(missing_ok=True)
    for name in (CONFIG, LOG):
        (out / name).unlink(missing_ok=True)
    for events in (out / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink()


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, by the rest of their names."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
