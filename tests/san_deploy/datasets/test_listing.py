"""Listing files: nothing outside the folder, no circles, the same order everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from san_deploy.datasets import read_dataset
from san_deploy.datasets.listing import Tree, first_image
from san_deploy.errors import SanError
from tests.san_deploy.datasets.layouts import crop_folder, market_folders, touch


def test_what_is_listed(tmp_path: Path) -> None:
    root = touch(
        tmp_path, ["b.jpg", "B.PNG", "a.webp", "a.txt", ".c.jpg", "sub/z.jpg", "sub/.d/e.jpg", "s.jpg/x.jpg"]
    )
    assert Tree(root).images() == ["B.PNG", "a.webp", "b.jpg"]
    assert Tree(root).images_below() == ["B.PNG", "a.webp", "b.jpg", "s.jpg/x.jpg", "sub/z.jpg"]
    assert (first_image(root), first_image(root / "none"), first_image(root / "sub" / ".d")) == (
        "B.PNG",
        "",
        "e.jpg",
    )
    with pytest.raises(SanError, match="cannot read folder"):
        Tree(root).images("none")


def test_links_inside_are_followed_once(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", ["a/1.jpg"])
    (root / "b").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "2.jpg").symlink_to("a/1.jpg")
    assert Tree(root).images_below() == ["2.jpg", "a/1.jpg", "b/1.jpg"]


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "data", ["a/1.jpg"])
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert Tree(tmp_path / "link").images_below() == ["a/1.jpg"]


def test_links_to_another_disk_are_followed(tmp_path: Path) -> None:
    """A large set often lies elsewhere, and its folders are links."""
    outside = touch(tmp_path / "disk", ["0002_c1s1_000451_03.jpg"])
    market = market_folders(tmp_path / "market", query=[])
    (market / "query").symlink_to(outside)
    assert [crop.person for crop in read_dataset(market).splits["query"]] == [2]
    folder = crop_folder(tmp_path / "crops", ["cam1,t001,7,test"])
    (folder / "cam1" / "t001" / "0009.jpg").symlink_to(outside / "0002_c1s1_000451_03.jpg")
    assert "0009.jpg" in {crop.path.name for crop in read_dataset(folder).splits["test"]}


def test_no_image_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    assert read_dataset(market_folders(tmp_path)).splits["train"]
