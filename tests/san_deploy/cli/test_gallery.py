"""`san gallery` and `san search` on the sample crops: three cameras, the same people."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from san_deploy import load_artefact
from san_deploy.cli.search import _as_dict as search_as_dict
from san_deploy.data import STARTER
from tests.san_deploy.data.sample_folder import write_samples
from tests.tiny_models import tiny_model

San = Callable[..., Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cam1/` and `cam2/` of six people, a tiny model, tracks.csv in the first."""
    folder = tmp_path_factory.mktemp("site")
    write_samples(folder / "crops", people=6, cameras=2)
    tiny_model(folder / "tiny.onnx")
    first = sorted(path for path in (folder / "crops").iterdir() if path.is_dir())[0]
    tracks = sorted(path.name for path in first.iterdir())
    lines = ["camera,track,start,end"]
    lines += [f"x,{name},2026-03-01T09:0{n}:00,2026-03-01T09:0{n}:30" for n, name in enumerate(tracks)]
    (first / "tracks.csv").write_text("\n".join(lines) + "\n")
    return folder


def cameras(site: Path) -> list[Path]:
    return sorted(path for path in (site / "crops").iterdir() if path.is_dir())


def test_numbers_and_tracklets_as_they_are_typed(san: San, site: Path, tmp_path: Path) -> None:
    gallery = ("--gallery", tmp_path / "gallery")
    listed = tmp_path / "identities.csv"
    first = cameras(site)[0]
    names = sorted(path.name for path in first.iterdir() if path.is_dir())
    rows = "".join(f"door,{name},1\n" for name in names)
    listed.write_text(f"camera,track,person\n{rows}")
    san("gallery", "add", f"door={first}", *gallery, "-m", site / "tiny.onnx", "--identities", listed)
    for command in (("merge", 1, 2**63), ("merge", 2**63, 1), ("split", 2**63, "door/x")):
        assert "range" in san("gallery", *command, *gallery, code=2).err
    said = san("gallery", "split", 1, f"door/{names[0]}", f"door/{names[0]}", *gallery)
    assert "Split off 1 tracklets" in said.out


def test_from_cameras_to_a_page(san: San, site: Path, tmp_path: Path) -> None:
    first, second = cameras(site)
    model = site / "tiny.onnx"
    gallery = tmp_path / "gallery"
    said = san(
        "gallery", "add", first, f"hall={second}", "--gallery", gallery, "-m", model, "--keep-crops", 2
    )
    assert f"Added 6 of {first.name}, 6 of hall" in said.out
    told = json.loads(san("gallery", "info", "--gallery", gallery, "--json", "--events").out)
    assert told["tracks"] == 12 and told["cameras"] == {first.name: 6, "hall": 6}
    assert [event["what"] for event in told["events"]] == ["create", "add", "add"]
    track = sorted(path for path in first.iterdir() if path.is_dir())[2]
    page = tmp_path / "found.html"
    found = json.loads(
        san("search", track, "--gallery", gallery, "-m", model, "-k", 3, "--json", "--html", page).out
    )
    assert [len(item["hits"]) for item in found["queries"]] == [3]
    best = found["queries"][0]["hits"][0]
    assert (best["camera"], best["track"]) == (first.name, track.name)
    assert best["similarity"] == pytest.approx(1, abs=1e-5)
    text = page.read_text()
    assert text.count("data:image/jpeg") >= 3 and "2026-03-01 09:02:00-09:02:30 UTC" in text
    # Each folder of a camera is a query of its own.
    many = json.loads(san("search", first, "--gallery", gallery, "-m", model, "-k", 1, "--json").out)
    assert [item["hits"][0]["track"] for item in many["queries"]] == [
        item["query"] for item in many["queries"]
    ]
    late = san("search", track, "--gallery", gallery, "-m", model, "--after", "2026-03-01T09:04").out
    assert late.count(f"{first.name}/") == 2 and "hall/" not in late
    other = san("search", next(track.iterdir()), "--gallery", gallery, "-m", model, "--camera", "hall").out
    assert other.count("hall/") == 6 and f"{first.name}/" not in other


def test_embeddings_delete_expire_compact_export(san: San, site: Path, tmp_path: Path) -> None:
    first, second = cameras(site)
    gallery = tmp_path / "gallery"
    san("embed", second, "-o", tmp_path / "hall.npz", "-m", site / "tiny.onnx")
    san("gallery", "add", first, tmp_path / "hall.npz", "--gallery", gallery, "-m", site / "tiny.onnx")
    track = sorted(path.name for path in second.iterdir())[0]
    assert (
        "Deleted 1 tracklets; 11 are left; 1 to compact"
        in san("gallery", "delete", "--gallery", gallery, "--camera", "hall", "--track", track).out
    )
    assert "Removed 1 tracklets; 11 are left" in san("gallery", "compact", "--gallery", gallery).out
    assert (
        "has no tracklet"
        in san("gallery", "delete", "--gallery", gallery, "--camera", "hall", "--track", track, code=1).err
    )
    out = tmp_path / "out"
    assert "Wrote 2 cameras" in san("gallery", "export", "--gallery", gallery, "-o", out).out
    assert sorted(path.name for path in out.iterdir()) == [
        f"{first.name}.npz",
        "hall.npz",
        "identities.csv",
        "tracks.csv",
    ]
    with np.load(out / "hall.npz") as file:
        assert file["embedding"].shape[0] == 5
    with (out / "tracks.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 6 and rows[0]["start"] == "2026-03-01T09:00:00.000+00:00"
    # What was exported makes a gallery again.
    again = tmp_path / "again"
    san("gallery", "add", out / "hall.npz", out / f"{first.name}.npz", "--gallery", again)
    assert json.loads(san("gallery", "info", "--gallery", again, "--json").out)["tracks"] == 11
    # Seen in March 2026: long ago, or not yet.
    told = json.loads(san("gallery", "expire", "--gallery", gallery, "--older-than", "36500d", "--json").out)
    assert told["expired"] == 0


def test_identities_of_san_match(san: San, site: Path, tmp_path: Path) -> None:
    first, _ = cameras(site)
    tracks = sorted(path.name for path in first.iterdir() if path.is_dir())
    path = tmp_path / "identities.csv"
    path.write_text(
        "camera,track,person\n"
        + "".join(f"{first.name},{name},{n // 2 + 1}\n" for n, name in enumerate(tracks))
    )
    gallery = tmp_path / "gallery"
    san("gallery", "add", first, "--gallery", gallery, "-m", site / "tiny.onnx", "--identities", path)
    told = json.loads(san("gallery", "info", "--gallery", gallery, "--json").out)
    assert told["people"] == 3
    assert (
        "person 1"
        in san("search", first / tracks[0], "--gallery", gallery, "-m", site / "tiny.onnx", "-k", 1).out
    )
    add = (
        "gallery",
        "add",
        f"x={first}",
        "--gallery",
        gallery,
        "-m",
        site / "tiny.onnx",
        "--identities",
        path,
    )
    for wrong in ("zero", "0", "-1", "9" * 30):
        path.write_text(f"camera,track,person\na,b,{wrong}\n")
        assert f"line 2: person '{wrong}' is no number above 0" in san(*add, code=1).err


def test_another_network_is_refused(san: San, site: Path, tmp_path: Path) -> None:
    first, second = cameras(site)
    gallery = tmp_path / "gallery"
    san("gallery", "add", first, "--gallery", gallery, "-m", site / "tiny.onnx")
    # The starter is another network.
    for arguments in (("gallery", "add", second), ("search", second)):
        assert "holds embeddings of another network" in san(*arguments, "--gallery", gallery, code=1).err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gallery", "info", "--gallery", "nowhere"), 1, "nowhere is no gallery"),
        (
            ("gallery", "expire", "--gallery", "nowhere", "--older-than", "soon"),
            2,
            "--older-than soon is no age",
        ),
        (("gallery", "compact", "--gallery", "nowhere", "--index", "hnsw"), 2, "--index is for PostgreSQL"),
        (("search", "nobody.jpg", "--gallery", "nowhere"), 1, "nobody.jpg does not exist"),
        (("search", ".", "--gallery", "nowhere", "--after", "noon"), 2, "--after noon is no time"),
    ],
)
def test_bad_options(san: San, arguments: tuple[str, ...], code: int, message: str) -> None:
    assert message in san(*arguments, code=code).err


def flat(camera: Path, folder: Path) -> Path:
    """The crops of a camera side by side: `t03-2.jpg`."""
    folder.mkdir()
    for number, track in enumerate(sorted(path for path in camera.iterdir() if path.is_dir())):
        for place, crop in enumerate(sorted(track.iterdir())):
            (folder / f"person{number:02d}x{place}{crop.suffix}").write_bytes(crop.read_bytes())
    return folder


def test_pattern_is_read_everywhere(san: San, site: Path, tmp_path: Path) -> None:
    model = ("-m", site / "tiny.onnx")
    camera = flat(cameras(site)[0], tmp_path / "door")
    pattern = ("--pattern", "{track}x{}")
    gallery = tmp_path / "gallery"
    said = san("gallery", "add", camera, "--gallery", gallery, *model, *pattern)
    assert "Added 6 of door" in said.out and "6 tracklets; read by --pattern" in said.err
    said = san("search", camera, "--gallery", gallery, *model, *pattern, "-k", 1, "--json")
    found = json.loads(said.out)["queries"]
    assert [item["query"] for item in found] == [item["hits"][0]["track"] for item in found]
    assert len(found) == 6 and "read by --pattern" in said.err
    said = san("embed", camera, "-o", tmp_path / "door.npz", *model, *pattern, "--json")
    assert json.loads(said.out)["tracklets"] == 6 and "read by --pattern" in said.err
    # Without: one person's crops to a search, tracklets of a crop each to the others; a line says so.
    one = json.loads(san("search", camera, "--gallery", gallery, *model, "--json").out)
    assert [item["query"] for item in one["queries"]] == ["door"]
    said = san("embed", camera, "-o", tmp_path / "loose.npz", *model)
    assert "loose crops, each its own tracklet" in said.err


def test_a_folder_of_several_cameras(san: San, site: Path, tmp_path: Path) -> None:
    """Market-1501's names: the cameras in them are cameras to a gallery, and begin the tracklets' names in one file."""
    folder = tmp_path / "market"
    folder.mkdir()
    for number, camera in enumerate(cameras(site), 1):
        for track in sorted(path for path in camera.iterdir() if path.is_dir())[:3]:
            for place, crop in enumerate(sorted(track.iterdir())):
                name = f"{int(track.name[-4:], 36) % 9999:04d}_c{number}s1_{place:06d}_00{crop.suffix}"
                (folder / name).write_bytes(crop.read_bytes())
    model = ("-m", site / "tiny.onnx")
    said = san("gallery", "add", folder, "--gallery", tmp_path / "gallery", *model)
    assert "3 of c1, 3 of c2" in said.out and "as of Market-1501" in said.err
    san("embed", folder, "-o", tmp_path / "market.npz", *model)
    with np.load(tmp_path / "market.npz") as file:
        assert {name.partition("/")[0] for name in file["track"].tolist()} == {"c1", "c2"}


def test_the_json_of_a_search_says_what_the_threshold_stands_for_without_its_curve() -> None:
    threshold = load_artefact(STARTER).threshold
    assert threshold is not None and threshold.curve
    said = search_as_dict([], threshold)["threshold"]
    assert set(said) == {"similarity", "false_match_rate", "true_match_rate", "source"}
