"""Views: what they are made of, and who is left out of them."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from san_train.distill.settings import DistillSettings, ViewSettings, check
from san_train.distill.teacher import Answers, open_teacher
from san_train.distill.unlabelled import unlabelled
from san_train.distill.views import composite, is_views, make_views, open_views, other_garments

from san_deploy.datasets import Crop, read_dataset
from san_deploy.errors import SanError
from san_deploy.images import read_image

SETTINGS = ViewSettings(each=4, composite=0.6)


@pytest.fixture(scope="module")
def crops(crop_folder: Path) -> list[Crop]:
    return [crop for part in read_dataset(crop_folder).splits.values() for crop in part]


@pytest.fixture(scope="module")
def folder(crops: list[Crop], toy_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("views") / "views"
    make_views(crops, [0] * len(crops), [open_teacher(toy_teacher)] * 2, out, settings=SETTINGS, seed=3)
    return out


def test_views_keep_what_the_teacher_said_of_them(folder: Path, crops: list[Crop], toy_teacher: Path) -> None:
    views = open_views(folder, crops)
    assert is_views(folder) and len(views) == 4 * len(crops) and views.told == "toy.onnx, toy.onnx"
    assert views.first.sum() == len(crops) and views.settings == SETTINGS
    number = int(np.flatnonzero(~views.first)[5])
    said = open_teacher(toy_teacher)([np.array(views.image(number))])
    row = said.rows[0] / np.linalg.norm(said.rows[0])
    assert np.allclose(views.rows[0][number], row, atol=1e-5)
    assert np.allclose(views.maps[0][views.index[number]], said.maps[0][0], atol=0.05)
    plain = int(np.flatnonzero(views.first)[0])
    original = read_image(crops[views.crop[plain]].path)
    image = views.image(plain)
    assert np.array_equal(image, original) or np.array_equal(image, original[:, ::-1])


def test_no_crop_of_a_person_who_is_held_out_is_in_any_view(folder: Path, crops: list[Crop]) -> None:
    trained = [crop for crop in crops if crop.person <= 3]
    views = open_views(folder, trained)
    with np.load(folder / "views.npz") as stored:
        sources = stored["source"][[*stored["crop"][views.index], *stored["other"][views.index]]]
    assert set(sources.tolist()) <= {hashlib.sha256(crop.path.read_bytes()).hexdigest() for crop in trained}
    assert 0 < len(views) < 4 * len(trained)
    with pytest.raises(SanError, match="no view of these crops"):
        open_views(folder, [crop for crop in crops if crop.person > 3][:0])


def test_views_of_crops_that_moved(folder: Path, crops: list[Crop], tmp_path: Path) -> None:
    moved = []
    for number, crop in enumerate(crops):
        path = shutil.copyfile(crop.path, tmp_path / f"{number}.png")
        moved.append(dataclasses.replace(crop, path=path))
    there, here = open_views(folder, crops), open_views(folder, moved)
    assert np.array_equal(there.crop, here.crop) and np.array_equal(there.index, here.index)
    other = shutil.copyfile(crops[0].path, tmp_path / "other.png")
    other.write_bytes(other.read_bytes() + b"1")
    with pytest.raises(SanError, match="no view of these crops"):
        open_views(folder, [dataclasses.replace(crops[0], path=other)])


def test_composites_are_of_two_people_before_one_camera(folder: Path, crops: list[Crop]) -> None:
    with np.load(folder / "views.npz") as stored:
        pairs = [(crops[a], crops[b]) for a, b in zip(stored["crop"], stored["other"], strict=True) if a != b]
    assert pairs and all(a.camera == b.camera and a.person != b.person for a, b in pairs)


def test_a_persona_wears_the_same_before_every_camera(folder: Path, crops: list[Crop]) -> None:
    views = open_views(folder, crops)
    with np.load(folder / "views.npz") as stored:
        other = stored["other"]
    several, plain = 0, set(views.persona[views.first].tolist())
    for name in np.unique(views.persona):
        shown = np.flatnonzero(views.persona == name)
        worn = {(crops[views.crop[view]].person, crops[other[views.index[view]]].person) for view in shown}
        assert len(worn) == 1
        cameras = {crops[views.crop[view]].camera for view in shown}
        several += name not in plain and len(cameras) > 1
    assert several > 10
    # A person as dressed is one persona, whichever camera and view.
    assert len(plain) == len({crop.person for crop in crops})


def test_the_same_seed_gives_the_same_views(crops: list[Crop], toy_teacher: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_views(
            crops[:4], [0] * 4, [open_teacher(toy_teacher)], tmp_path / name, settings=SETTINGS, seed=1
        )
    assert (tmp_path / "one/pixels.bin").read_bytes() == (tmp_path / "two/pixels.bin").read_bytes()


class _Loud:
    """A teacher whose map has numbers beyond half precision, and a mistake in its second chunk."""

    name = "loud"

    def __init__(self, fails_at: int = 10**9) -> None:
        self._fails_at, self._seen = fails_at, 0

    def __call__(self, given: Sequence[np.ndarray]) -> Answers:
        self._seen += len(given)
        if self._seen > self._fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        maps = np.full((len(given), 2, 4, 2), 7.25, np.float32)
        maps[:, 1] = -1e6
        return Answers(np.arange(2.0 * len(given), dtype=np.float32).reshape(-1, 2) + 1, (maps,))


def test_a_map_beyond_half_precision_is_as_large_as_that(crops: list[Crop], tmp_path: Path) -> None:
    make_views(crops[:4], [0] * 4, [_Loud()], tmp_path / "views", settings=SETTINGS, seed=1)
    (level,) = open_views(tmp_path / "views", crops[:4]).maps
    assert level.shape == (16, 2, 4, 2) and level.dtype == np.float16
    assert (level[:, 0] == 7.25).all() and (level[:, 1] == np.float16(-65504)).all()


def test_views_on_a_full_disk_leave_nothing(crops: list[Crop], tmp_path: Path) -> None:
    with pytest.raises(SanError, match="No space left"):
        make_views(crops, [0] * len(crops), [_Loud(64)], tmp_path / "views", settings=SETTINGS, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_damaged_views_are_refused(tmp_path: Path, crops: list[Crop]) -> None:
    assert not is_views(tmp_path)
    with pytest.raises(SanError, match="--teacher"):
        open_views(tmp_path, crops)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("crop", lambda array: array + 1000, "of no crop"),
        ("other", lambda array: -1 - array, "of no crop"),
        ("crop", lambda array: array.astype(np.float64), "of no crop"),
        ("first", lambda array: array[1:], "different lengths"),
        ("rows0", lambda array: array[:-1], "different lengths"),
        ("rows0", lambda array: array * np.nan, "not finite"),
        ("shape", lambda array: array[:, :1], "other shapes"),
        ("shape", lambda array: array * 10**9, "outside the pixels"),
        ("shape", lambda array: array * 0, "outside the pixels"),
        ("offset", lambda array: array - 1, "outside the pixels"),
    ],
)
def test_views_that_do_not_fit_together_are_refused(
    folder: Path,
    crops: list[Crop],
    tmp_path: Path,
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    why: str,
) -> None:
    shutil.copytree(folder, tmp_path / "views")
    with np.load(folder / "views.npz") as stored:
        data = dict(stored.items())
    np.savez(tmp_path / "views" / "views.npz", **data | {name: change(data[name])})
    note = json.loads((folder / "views.json").read_text())
    note["sha256"]["views.npz"] = hashlib.sha256((tmp_path / "views" / "views.npz").read_bytes()).hexdigest()
    (tmp_path / "views" / "views.json").write_text(json.dumps(note))
    with pytest.raises(SanError, match=f"holds no whole views.*{why}"):
        open_views(tmp_path / "views", crops)


@pytest.mark.parametrize("name", ["views.npz", "pixels.bin", "map0.npy"])
def test_one_bit_of_views(folder: Path, crops: list[Crop], tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "views")
    path = tmp_path / "views" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SanError, match=f"holds no whole views. {name} is not what was written with"):
        open_views(tmp_path / "views", crops)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"teachers": null}',
        '{"teachers": [1, 2]}',
        "[]",
        "{}",
    ],
)
def test_a_damaged_note_of_views_is_refused(
    folder: Path, crops: list[Crop], tmp_path: Path, text: str
) -> None:
    shutil.copytree(folder, tmp_path / "views")
    (tmp_path / "views" / "views.json").write_text(text)
    with pytest.raises(SanError, match="holds no whole views"):
        open_views(tmp_path / "views", crops)


def test_views_of_settings_that_are_none(folder: Path, crops: list[Crop], tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "views")
    note = json.loads((folder / "views.json").read_text())
    (tmp_path / "views" / "views.json").write_text(json.dumps(note | {"settings": {"each": "many"}}))
    with pytest.raises(SanError, match=r"holds no whole views"):
        open_views(tmp_path / "views", crops)


def test_views_without_a_teacher(folder: Path, crops: list[Crop], tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "views")
    note = json.loads((folder / "views.json").read_text())
    (tmp_path / "views" / "views.json").write_text(json.dumps(note | {"teachers": []}))
    with pytest.raises(SanError, match=r"holds no whole views. No teacher answered"):
        open_views(tmp_path / "views", crops)


def test_halves_and_garments() -> None:
    rng = np.random.default_rng(0)
    white, black = np.full((100, 40, 3), 250, np.uint8), np.zeros((80, 30, 3), np.uint8)
    mixed = composite(white, black, rng)
    assert mixed.shape == white.shape and mixed[:35].min() == 250 and mixed[65:].max() == 0
    person = np.full((100, 40, 3), (40, 60, 200), np.uint8)
    changed = [other_garments(person, np.random.default_rng(seed)) for seed in range(6)]
    assert any(np.abs(image.astype(int) - person)[30:90].max() > 30 for image in changed)
    assert all(np.abs(image.astype(int) - person)[:8].max() <= 4 for image in changed)


def test_crops_that_nobody_named(tmp_path: Path, crop_folder: Path) -> None:
    for part in ("cam1", "cam2"):
        (tmp_path / part).symlink_to(crop_folder / part)
    dataset = unlabelled(tmp_path)
    found = dataset.splits["train"]
    assert {crop.camera for crop in found} == {"cam1", "cam2"}
    assert len({crop.person for crop in found}) == 12 and min(crop.person for crop in found) == 1
    with pytest.raises(SanError, match="does not exist"):
        unlabelled(tmp_path / "none")


def test_settings_out_of_their_range() -> None:
    for views in (ViewSettings(each=0), ViewSettings(area=(0.9, 0.5)), ViewSettings(flip=2)):
        with pytest.raises(ValueError, match="views"):
            check(views, DistillSettings())
    for lesson in (DistillSettings(row=-1), DistillSettings(0, 0, 0, 0), DistillSettings(share=(0.0,))):
        with pytest.raises(ValueError, match="distill"):
            check(ViewSettings(), lesson)
