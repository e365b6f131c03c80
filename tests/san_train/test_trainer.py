"""The training loop: resuming to the bit, refusing non-finite losses, learning at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from san_train.checkpoint import load_checkpoint  # noqa: E402
from san_train.data import fingerprint, gather  # noqa: E402
from san_train.recipe import Recipe, resolve  # noqa: E402
from san_train.run_state import BEST, LOG, MODEL, STATE  # noqa: E402
from san_train.trainer import Compute, Training  # noqa: E402

from san_deploy.datasets import read_dataset  # noqa: E402
from san_deploy.errors import SanError  # noqa: E402
from tests.san_train.conftest import write_crop_folder  # noqa: E402

CPU = Compute(torch.device("cpu"))
TINY = [
    "settings.width=0.125",
    "settings.size_hw=[64, 32]",
    "settings.hidden=16",
    "settings.embedding_dim=8",
    "num_ids=3",
    "num_instances=2",
    "steps=2",
    "validate_every=2",
    "warmup=0",
]


def run(
    folder: Path,
    out: Path,
    recipe: Recipe,
    *,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Training:
    data = gather([read_dataset(folder)], validation_people=0, seed=0)
    training = Training(recipe, data, out, CPU, say=say)
    if resume:
        training.resume()
    training.run()
    return training


def recipe(*more: str) -> Recipe:
    return resolve("scratch", [*TINY, *more])


@pytest.mark.parametrize(
    "more", [("ema=0.9",), ("hard_mask_epochs=2", "optimizer=adam", "mask_margin_weight=0.1")]
)
def test_resuming_is_bit_for_bit(
    crop_folder: Path, tmp_path: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(crop_folder, tmp_path / "whole", recipe("epochs=3", *more))
    assert whole.epoch == 3

    # The same run, killed during its third epoch.
    broken = Training(recipe("epochs=3", *more), whole.data, tmp_path / "broken", CPU, say=lambda line: None)
    train_epoch = broken._train_epoch

    def killed(cache):  # type: ignore[no-untyped-def]
        if broken.epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(cache)

    monkeypatch.setattr(broken, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    torch.manual_seed(999)  # whatever the new process's random state is
    run(crop_folder, tmp_path / "broken", recipe("epochs=3", *more), resume=True)
    for name in (MODEL, STATE):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "broken" / LOG).read_text().splitlines()]
    assert epochs == [1, 2, 3]


def test_the_same_seed_gives_the_same_run_and_another_another(crop_folder: Path, tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(crop_folder, tmp_path / name, recipe("epochs=1", f"seed={seed}"))
        model, _ = load_checkpoint(tmp_path / name / MODEL)
        files.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(files[0], files[1]) and not torch.equal(files[0], files[2])


def test_it_learns(crop_folder: Path, tmp_path: Path) -> None:
    training = run(
        crop_folder, tmp_path / "run", recipe("epochs=6", "steps=6", "lr=3e-3", "validate_every=6")
    )
    log = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert log[-1]["identity"] < log[0]["identity"]
    assert training.metrics["rank1"] == log[-1]["rank1"]


def test_what_a_run_writes(crop_folder: Path, tmp_path: Path) -> None:
    training = run(crop_folder, tmp_path / "run", recipe("epochs=1"))
    model, info = load_checkpoint(tmp_path / "run" / MODEL)
    assert info.epoch == 1 and info.recipe["num_ids"] == 3 and info.metrics == training.metrics
    assert info.threshold is None  # two people are too few, and that is said
    assert (tmp_path / "run" / BEST).is_file() and list((tmp_path / "run" / "tensorboard").iterdir())
    assert json.loads((tmp_path / "run" / "model.json").read_text())["settings"]["width"] == 0.125
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), training.model.eval()(x))


def test_a_non_finite_loss_stops_with_a_message(
    crop_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from san_train import losses

    monkeypatch.setattr(
        losses, "batch_hard_triplet", lambda *args, **kwargs: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(SanError, match=r"triplet loss is nan in epoch 1, step 1"):
        run(crop_folder, tmp_path / "run", recipe("epochs=1"))
    assert not (tmp_path / "run" / MODEL).exists()


def test_a_run_whose_folder_is_removed(
    crop_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opens(folder: str, **_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", folder.encode())

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", opens)
    with pytest.raises(SanError, match="run was removed while the run wrote"):
        run(crop_folder, tmp_path / "run", recipe("epochs=1"))


def test_resume_refuses_another_recipe_and_a_damaged_state(crop_folder: Path, tmp_path: Path) -> None:
    run(crop_folder, tmp_path / "run", recipe("epochs=1"))
    with pytest.raises(SanError, match="there: lr"):
        run(crop_folder, tmp_path / "run", recipe("epochs=1", "lr=1e-4"), resume=True)
    state = tmp_path / "run" / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(SanError, match="not a whole safetensors file"):
        run(crop_folder, tmp_path / "run", recipe("epochs=1"), resume=True)
    with pytest.raises(SanError, match="does not exist"):
        run(crop_folder, tmp_path / "none", recipe("epochs=1"), resume=True)


def test_a_person_in_train_and_val_is_refused(tmp_path: Path) -> None:
    folder = write_crop_folder(tmp_path / "data")
    lines = (folder / "identities.csv").read_text().replace("cam2,t009,1,train", "cam2,t009,1,val")
    (folder / "identities.csv").write_text(lines)
    with pytest.raises(SanError, match=r"person 1 .* train and val"):
        gather([read_dataset(folder)], validation_people=0, seed=0)


def test_a_val_split_of_one_camera_is_refused(tmp_path: Path) -> None:
    folder = write_crop_folder(
        tmp_path / "data", cameras=1, split=lambda person: "val" if person > 4 else "train"
    )
    with pytest.raises(SanError, match="two cameras"):
        gather([read_dataset(folder)], validation_people=0, seed=0)


def test_resume_refuses_other_data(crop_folder: Path, tmp_path: Path) -> None:
    run(crop_folder, tmp_path / "run", recipe("epochs=1"))
    other = write_crop_folder(
        tmp_path / "other", each=3, split=lambda person: "val" if person > 4 else "train"
    )
    with pytest.raises(SanError, match="other data"):
        run(other, tmp_path / "run", recipe("epochs=1"), resume=True)


def test_two_data_sets_keep_their_people_apart(crop_folder: Path, tmp_path: Path) -> None:
    dataset = read_dataset(crop_folder)
    # Persons that any fixed distance between data sets would let meet.
    far = [replace(crop, person=crop.person + 10_000_000) for crop in dataset.splits["val"]]
    first = replace(dataset, splits=dataset.splits | {"val": far})
    data = gather([first, dataset, dataset], validation_people=0, seed=0)
    people = {
        index: {c.person for c in data.validation if c.camera.startswith(f"{index}/")} for index in range(3)
    }
    assert people[0] == {crop.person for crop in far}
    assert len(set.union(*people.values())) == sum(map(len, people.values())) == 3 * len(people[0])
    data = gather([dataset] * 2, validation_people=0, seed=0)
    assert max(data.classes) + 1 == 8 and set(data.domain) == {0, 1}
    Training(
        recipe("epochs=1", "share=[0.5, 0.5]", "num_ids=4"),
        data,
        tmp_path / "run",
        CPU,
        say=lambda line: None,
    ).run()


def test_a_file_name_that_is_not_utf_8_is_part_of_the_data(crop_folder: Path) -> None:
    dataset = read_dataset(crop_folder)
    data = gather([dataset], validation_people=0, seed=0)
    odd = replace(data.crops[0], path=data.crops[0].path.with_name("a\udcff.jpg"))
    other = replace(data.crops[0], path=data.crops[0].path.with_name("a\udcfe.jpg"))
    assert (
        len(
            {
                fingerprint(data),
                *(fingerprint(replace(data, crops=[crop, *data.crops[1:]])) for crop in (odd, other)),
            }
        )
        == 3
    )


def test_people_are_held_out_where_there_is_no_val_split(crop_folder: Path) -> None:
    dataset = read_dataset(crop_folder)
    dataset = replace(dataset, splits={"train": dataset.splits["train"]})
    data = gather([dataset], validation_people=2, seed=0)
    assert not {crop.person for crop in data.crops} & {crop.person for crop in data.validation}
    assert len({crop.person for crop in data.validation}) == 2
    with pytest.raises(SanError, match="held out"):
        gather([dataset], validation_people=3, seed=0)


def test_a_run_does_not_depend_on_its_workers(crop_folder: Path, tmp_path: Path) -> None:
    data = gather([read_dataset(crop_folder)], validation_people=0, seed=0)
    written = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}"
        Training(recipe("epochs=2"), data, out, replace(CPU, workers=workers), say=lambda line: None).run()
        written.append((out / MODEL).read_bytes())
    assert written[0] == written[1]


def test_a_weak_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_crop_folder(
        tmp_path / "data", people=16, split=lambda person: "val" if person > 5 else "train"
    )
    for least, told in ((1.1, 1), (0.0, 0)):
        monkeypatch.setattr("san_train.trainer._WEAK", least)
        said: list[str] = []
        run(folder, tmp_path / f"run{told}", recipe("epochs=2"), say=said.append)
        weak = [line for line in said if "--teacher FILE" in line and "is weak" in line]
        assert len(weak) == told and (not weak or said[-1] == weak[0])


def test_the_threshold_is_calibrated_on_the_people_held_out(tmp_path: Path) -> None:
    folder = write_crop_folder(
        tmp_path / "data", people=16, split=lambda person: "val" if person > 5 else "train"
    )
    run(folder, tmp_path / "run", recipe("epochs=1"))
    _, info = load_checkpoint(tmp_path / "run" / MODEL)
    assert info.threshold is not None
    assert (info.threshold.genuine_pairs, info.threshold.impostor_pairs) == (11, 11 * 10)
    assert info.threshold.false_match_rate <= 0.05 and "11 validation people" in info.threshold.source
