"""The sample crops: who is in them, and that the script in tools/ draws them again."""

from __future__ import annotations

import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import make_samples
import numpy as np
import pytest
from drawn import draw_camera, draw_crop, draw_person, draw_track
from drawn.folder import _TRACK_STREAM as TRACK_STREAM
from PIL import Image

from san_deploy.data import samples
from san_deploy.data.samples import extract_samples, read_samples
from san_deploy.datasets import read_dataset
from san_deploy.errors import SanError


def test_who_is_in_the_sample_crops() -> None:
    found = read_samples()
    assert len(found) == 624
    cameras = defaultdict(set)
    for sample in found:
        cameras[sample.person].add(sample.track.split("/")[0])
    assert Counter(len(seen) for seen in cameras.values()) == {3: 24, 1: 6}
    assert set(Counter(sample.track for sample in found).values()) == {8}
    assert sum(len(sample.jpeg) for sample in found) < 2e6


def test_some_are_spread_over_the_cameras() -> None:
    some = read_samples(12)
    assert [sample.name for sample in some] == [sample.name for sample in read_samples(12)]
    assert len({sample.track for sample in some}) == 12
    assert {sample.track.split("/")[0] for sample in some} == {"cam1", "cam2", "cam3"}
    assert len(read_samples(10_000)) == 624 and len(read_samples(1)) == 1


def test_extracted_they_are_a_data_set(tmp_path: Path) -> None:
    extract_samples(tmp_path)
    crops = read_dataset(tmp_path).splits["test"]
    person = {sample.name: sample.person for sample in read_samples()}
    assert {crop.path.relative_to(tmp_path).as_posix(): crop.person for crop in crops} == person


def test_a_picture_is_what_its_file_holds(tmp_path: Path) -> None:
    (sample,) = read_samples(1)
    (tmp_path / "a.jpg").write_bytes(sample.jpeg)
    assert np.array_equal(sample.read()[:, :, ::-1], np.asarray(Image.open(tmp_path / "a.jpg")))


def test_the_script_draws_them() -> None:
    """Pixels up to what floating point and JPEG decoders differ in from machine to machine."""
    settings = make_samples.SETTINGS
    seed, size_h = settings["seed"], settings["size_h"]
    camera = draw_camera(seed, 0)
    packed = [sample for sample in read_samples() if sample.track == "cam1/t001"]
    who = packed[0].person
    person = draw_person(seed, who)
    rng = np.random.default_rng([TRACK_STREAM, seed, 0, who])
    poses = draw_track(person, camera, settings["crops_per_track"], rng, size_h)
    for pose, sample in list(zip(poses, packed, strict=True))[:3]:
        drawn, stored = draw_crop(person, camera, pose, rng), sample.read()
        assert drawn.shape == stored.shape
        # Quality 85 blurs the noise by some grey levels; another crop of the same person is 20 and more away.
        assert np.abs(drawn.astype(float) - stored).mean() < 8


def test_packing_is_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "crops" / "cam1").mkdir(parents=True)
    (tmp_path / "crops" / "cam1" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "crops" / "identities.csv").write_bytes(b"camera")
    for name in ("one.zip", "two.zip"):
        make_samples.pack(tmp_path / "crops", tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "one.zip").namelist() == ["cam1/a.jpg", "identities.csv"]


def test_a_damaged_pack_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PACK", "starter.md")
    with pytest.raises(SanError, match=r"starter.md cannot be read.*Install san-deploy again"):
        read_samples()
    monkeypatch.setattr(samples, "PACK", "none.zip")
    with pytest.raises(SanError, match="Install san-deploy again"):
        read_samples()
