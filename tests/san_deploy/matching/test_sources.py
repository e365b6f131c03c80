"""What is given for a camera: folders in every layout, names, embeddings of yesterday, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy.embed import Embeddings, write_embeddings
from san_deploy.errors import SanError, UsageError
from san_deploy.matching.sources import Reading, embed_sources, read_sources


def names(given: Sequence[Path]) -> list[str]:
    return [source.name for source in read_sources(given)]


def folder(root: Path, *files: str, size: tuple[int, int] = (8, 16)) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / file)
    return root


def site(tmp_path: Path, *names: str) -> list[Path]:
    folders = []
    for name in names:
        folder = tmp_path / name
        (folder / "t1").mkdir(parents=True)
        Image.new("RGB", (8, 16)).save(folder / "t1" / "1.png")
        folders.append(folder)
    return folders


def test_folders_name_the_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = site(tmp_path, "north", "south")
    assert names(folders) == ["north", "south"]
    monkeypatch.chdir(folders[0])
    assert names([Path("."), Path("../south/")]) == ["north", "south"]


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        (["a/cam"], UsageError, "two cameras"),
        (["a/cam", "a/cam"], UsageError, "given 2 times"),
        (["a/cam", "a/../a/cam/"], UsageError, "given 2 times"),
        (["a/cam", "b/cam"], UsageError, "2 cameras are called cam"),
        (["a/cam", "a|b"], UsageError, "separates cameras"),
        (["a/cam", "missing"], SanError, "does not exist"),
        (["a/cam", "empty"], SanError, "holds no image"),
        (["a/cam", "file"], SanError, "is not a folder"),
        (["a/cam", "lobby.mp4"], SanError, "Cut the people out of the video first.*san crops"),
        (["c"], UsageError, "c is one folder, and holds north, south. Give each: .*c/north .*c/south"),
    ],
)
def test_folders_that_cannot_be(tmp_path: Path, given: list[str], error: type[SanError], told: str) -> None:
    site(tmp_path, "a/cam", "b/cam", "a|b", "c/north", "c/south")
    (tmp_path / "lobby.mp4").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(error, match=told) as caught:
        read_sources([tmp_path / name for name in given])
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "tracks", "layout"),
    [
        (["t1/0.jpg", "t1/1.jpg", "t2/0.jpg"], ["t1", "t1", "t2"], ""),
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], "each its own tracklet"),
        (["t001_0001.jpg", "t001_0002.jpg", "t002_0001.jpg"], ["t001", "t001", "t002"], "t001_0001.jpg"),
        (["7-f12.jpg", "7-f13.jpg"], ["7", "7"], "t001_0001.jpg"),
        (["t001_0001.jpg", "t002_0001.jpg"], ["t001_0001.jpg", "t002_0001.jpg"], "each its own tracklet"),
        (
            [
                "0002_c1s1_000451_03.jpg",
                "0002_c1s1_000453_01.jpg",
                "0002_c1s2_000451_03.jpg",
                "-1_c1s1_000001_00.jpg",
            ],
            ["-1_c1s1", "0002_c1s1", "0002_c1s1", "0002_c1s2"],
            "Market-1501",
        ),
        (
            ["person/im1.jpg", "person/im2.jpg", "car/im1.jpg"],
            ["person/im1.jpg", "person/im2.jpg"],
            "1 of other",
        ),
        (["crops/person/im1.jpg"], ["crops/person/im1.jpg"], "Ultralytics"),
        (["person/im1.jpg", "anna/1.jpg"], ["anna", "person"], ""),
    ],
)
def test_layouts(tmp_path: Path, files: list[str], tracks: list[str], layout: str) -> None:
    (source,) = read_sources([folder(tmp_path / "cam", *files)], at_least=1)
    assert sorted(source.tracks.values()) == tracks
    assert layout in source.layout and bool(layout) == bool(source.layout)
    assert source.question == ""


def test_a_folder_of_several_cameras(tmp_path: Path) -> None:
    root = folder(tmp_path / "all", "0001_c1s1_1_0.jpg", "0001_c2s1_1_0.jpg", "0002_c2s1_1_0.jpg")
    sources = read_sources([root])
    assert [(source.name, len(source.tracks)) for source in sources] == [("c1", 1), ("c2", 2)]
    other = folder(tmp_path / "more", "t1/0.jpg")
    assert names([root, other]) == ["all-c1", "all-c2", "more"]


def test_pattern(tmp_path: Path) -> None:
    root = folder(tmp_path / "all", "a-7-x.jpg", "a-7-y.jpg", "b-7-x.jpg", "readme.jpg")
    sources = read_sources([root], "{camera}-{track}-{}.jpg")
    assert [(source.name, list(source.tracks.values())) for source in sources] == [
        ("ca", ["7", "7"]),
        ("cb", ["7"]),
    ]
    assert "1 images do not fit" in sources[0].layout
    with pytest.raises(SanError, match="none of the 4 images"):
        read_sources([root], "{track}_{camera}.jpg")
    with pytest.raises(UsageError, match=r"no field \{track\} or \{person\}"):
        read_sources([root], "{camera}-{}.jpg")


def test_named_cameras(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "a" / "cam", "t/0.jpg"), folder(tmp_path / "b" / "cam", "t/0.jpg")
    assert [source.name for source in read_sources([f"north={one}", f"south={two}"])] == ["north", "south"]
    odd = folder(tmp_path / "x=y", "t/0.jpg")
    assert [source.name for source in read_sources([odd, f"y={two}"])] == ["x=y", "y"]


def test_questions(tmp_path: Path) -> None:
    many = folder(tmp_path / "many", *(f"t/{k}.jpg" for k in range(60)))
    frames = folder(tmp_path / "frames", "t1/0.jpg", "t2/0.jpg", size=(1920, 1080))
    questions = [source.question for source in read_sources([many, frames])]
    assert "one tracklet of 60 crops" in questions[0]
    assert "1920 x 1080 pixels: a whole frame" in questions[1]


def embedded(path: Path, **model: object) -> Path:
    rows = np.eye(3, dtype=np.float32)
    identity = {"sha256": "ab", "embedding_dim": 3, "checkpoint_sha256": "cd", "arch": "x", "mask": "argmax"}
    tracks = np.array(["t1", "t1", "t2"])
    files = np.array(["t1/0.jpg", "t1/1.jpg", "t2/0.jpg"])
    write_embeddings(Embeddings(rows, files, tracks, identity | model), path)
    return path


def test_embeddings_are_cameras(tmp_path: Path) -> None:
    paths = [
        embedded(tmp_path / "cam1.npz", precision="fp32"),
        embedded(tmp_path / "cam2.npz", precision="int8"),
    ]
    sources = read_sources(paths)
    assert [(source.name, source.folder) for source in sources] == [
        ("cam1", tmp_path / "cam1"),
        ("cam2", tmp_path / "cam2"),
    ]
    cameras, model = embed_sources(sources, None, Reading())
    assert [camera.tracks.tolist() for camera in cameras] == [["t1", "t2"]] * 2
    assert cameras[0].crops == (("t1/0.jpg", "t1/1.jpg"), ("t2/0.jpg",))
    assert model["precision"] == "fp32"
    other = replace(sources[1], path=embedded(tmp_path / "other.npz", checkpoint_sha256="ee"))
    with pytest.raises(SanError, match="another network than the rest"):
        embed_sources([sources[0], other], None, Reading())
    with pytest.raises(SanError, match="does not exist"):
        embed_sources(read_sources([paths[0], tmp_path / "none.npz"]), None, Reading())
