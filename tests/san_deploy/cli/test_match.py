"""`san match` as it is called: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy.artefact import Artefact, Threshold
from tests.conftest import Result

SIZE_HW = (16, 8)
CALIBRATION = Threshold(0.9, 0.01, 0.98, 1000, 90, "coloured rectangles")
OUTPUTS = ["identities.csv", "matches.csv", "matches.json", "report.html", "similarity.npz"]


San = Callable[..., Result]


@dataclass
class ColourBackend:
    """Embeds a crop as its mean colour, less grey: people here are coloured rectangles."""

    threshold: Threshold | None = CALIBRATION
    interrupt: bool = False
    name: str = "colours (CPU)"
    note: str = ""

    @property
    def artefact(self) -> Artefact:
        return Artefact(
            arch="colour",
            settings={},
            embedding_dim=3,
            size_hw=SIZE_HW,
            input="uint8",
            resize="pillow-bicubic-antialias",
            mean_rgb=(0.0, 0.0, 0.0),
            std_rgb=(1.0, 1.0, 1.0),
            mask="none",
            precision="fp32",
            checkpoint_sha256="",
            versions={},
            threshold=self.threshold,
            sha256="c0" * 32,
        )

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        if self.interrupt:
            raise KeyboardInterrupt
        rows = crops.mean(axis=(1, 2)).astype(np.float32) - 100.0  # (N, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ColourBackend:
    result = ColourBackend()
    monkeypatch.setattr("san_deploy.backends.open_backend", lambda model=None, **_: result)
    return result


PEOPLE = {"red": (250, 60, 60), "green": (60, 250, 60), "blue": (60, 60, 250), "yellow": (250, 250, 40)}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two cameras; red, green and blue pass both, yellow only the second. Labels beside them."""
    seen = {"cam1": ["red", "green", "blue"], "cam2": ["blue", "yellow", "red", "green"]}
    lines = ["camera,track,person"]
    for camera, people in seen.items():
        for number, person in enumerate(people):
            folder = tmp_path / camera / f"t{number}"
            folder.mkdir(parents=True)
            for k in range(3):
                shade = tuple(min(255, value + 3 * k) for value in PEOPLE[person])
                Image.new("RGB", (10, 30), shade).save(folder / f"{k}.png")
            lines.append(f"{camera},t{number},{list(PEOPLE).index(person) + 1}")
    (tmp_path / "identities.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def left_over(folder: Path) -> list[str]:
    """Names in `folder` beside the cameras and their labels."""
    return sorted({path.name for path in folder.iterdir()} - {"cam1", "cam2", "identities.csv"})


@pytest.mark.usefixtures("backend")
def test_match(san: San, site: Path) -> None:
    out = site / "out"
    result = san("match", site / "cam1", site / "cam2", "-o", out)
    assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    with (out / "matches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["track_a"], r["track_b"]) for r in rows if r["matched"] == "1"} == {
        ("t0", "t2"),
        ("t1", "t3"),
        ("t2", "t0"),
    }
    assert [(r["camera_a"], r["track_a"]) for r in rows if r["matched"] == "0"] == [("cam2", "t1")]
    lines = result.out.splitlines()
    assert lines[1].split() == ["cam1", "-", "cam2", "3", "+", "4", "3", "0", "0", "+", "1"]
    assert "reached by 1.00% of impostor pairs (coloured rectangles)" in lines[2]
    assert "21 crops in" in lines[3] and "crops/s, 0 unreadable" in lines[3]
    assert lines[-1] == f"report: {out / 'report.html'}"
    told = json.loads((out / "matches.json").read_text())
    assert told["model"]["sha256"] == "c0" * 32
    assert told["parameters"]["backend"] == "colours (CPU)"


@pytest.mark.usefixtures("backend")
def test_json_and_labels(san: San, site: Path) -> None:
    arguments = ("match", site / "cam1", site / "cam2", "--labels", site / "identities.csv")
    result = san(*arguments, "-o", site / "out", "--json")
    told = json.loads(result.out)
    assert told["accuracy"]["rank1"] == told["accuracy"]["precision"] == told["accuracy"]["recall"] == 1.0
    assert (told["accuracy"]["alone"], told["accuracy"]["alone_unmatched"]) == (1, 1)
    assert told["pairs"][0]["matched"] == 3
    assert told["crops"] == 21
    result = san(*arguments, "-o", site / "text")
    assert "3 of 3 matches are right" in result.out and "1 of 1 that the other camera never saw" in result.out
    assert "right person" in (site / "text" / "report.html").read_text()


@pytest.mark.usefixtures("backend")
def test_threshold_and_top(san: San, site: Path) -> None:
    result = san("match", site / "cam1", site / "cam2", "-o", site / "out", "--threshold", "1", "--top", "1")
    assert "threshold 1.0000, given by the user" in result.out
    told = json.loads((site / "out" / "matches.json").read_text())
    assert told["threshold"] == {
        "similarity": 1.0,
        "source": "given by the user",
        "false_match_rate": None,
        "true_match_rate": None,
    }
    assert all(len(row["runners_up_a"]) == 1 for row in told["pairs"][0]["no_match"])


@pytest.mark.usefixtures("backend")
def test_loose_crops_are_tracklets(san: San, site: Path) -> None:
    loose = site / "loose"
    loose.mkdir()
    Image.new("RGB", (10, 30), PEOPLE["green"]).save(loose / "someone.jpg")
    san("match", site / "cam1", loose, "-o", site / "out")
    assert "cam1,t1,loose,someone.jpg," in (site / "out" / "matches.csv").read_text()


@pytest.mark.usefixtures("backend")
def test_unreadable_crops_are_counted(san: San, site: Path) -> None:
    track = site / "cam1" / "t0"
    whole = (track / "0.png").read_bytes()
    (track / "cut.png").write_bytes(whole[: len(whole) // 2])
    (track / "text.jpg").write_text("no image")
    (track / "empty.jpg").touch()
    Image.new("1", (9000, 9000)).save(track / "bomb.png")
    (site / "cam1" / "lost").mkdir()
    (site / "cam1" / "lost" / "0.jpg").write_text("no image")
    # These are read: grey, with alpha, 16 bits.
    Image.new("L", (10, 30), 60).save(track / "grey.png")
    Image.new("RGBA", (10, 30), (250, 60, 60, 9)).save(track / "alpha.png")
    Image.fromarray(np.full((30, 10), 20000, np.uint16)).save(track / "deep.png")
    arguments = ("match", site / "cam1", site / "cam2")
    result = san(*arguments, "-o", site / "out")
    assert "24 crops in" in result.out and "5 unreadable" in result.out
    assert "5 crops could not be read" in result.err
    assert "cam1/lost was left out" in result.err
    told = json.loads((site / "out" / "matches.json").read_text())["cameras"][0]
    assert [item["path"] for item in told["unreadable"]] == [
        "lost/0.jpg",
        "t0/bomb.png",
        "t0/cut.png",
        "t0/empty.jpg",
        "t0/text.jpg",
    ]
    assert told["lost_tracks"] == ["lost"]
    result = san(*arguments, "-o", site / "strict", "--strict", code=1)
    assert "lost/0.jpg" in result.err and len(result.err.splitlines()) == 2
    assert left_over(site) == ["out"]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("cameras", "options", "code", "told"),
    [
        (["cam1"], [], 2, "two cameras"),
        ([], [], 2, "Missing argument"),
        (["cam1", "cam1"], [], 2, "given 2 times"),
        (["cam1", "other/cam1"], [], 2, "2 cameras are called cam1"),
        (["cam1", "missing"], [], 1, "missing does not exist"),
        (["cam1", "none"], [], 1, "none holds no image"),
        (["cam1", "broken"], [], 1, "is readable"),
        (["cam1", "cam2"], ["--threshold", "1.5"], 2, "is not in the range"),
        (["cam1", "cam2"], ["--threshold", "nan"], 2, "is no finite number"),
        (["cam1", "cam2"], ["--batch", "0"], 2, "--batch"),
        (["cam1", "cam2"], ["--labels", "missing.csv"], 1, "cannot read"),
        (["cam1", "cam2"], ["--labels", "unknown.csv"], 1, "names cam1/t77"),
        (["cam1", "cam2"], ["--labels", "elsewhere.csv"], 1, "names none of the cameras"),
    ],
)
def test_bad_input_writes_nothing(
    san: San,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cameras: list[str],
    options: list[str],
    code: int,
    told: str,
) -> None:
    place = site / "bad"
    for name in ("none", "other/cam1", "broken"):
        (place / name).mkdir(parents=True)
    Image.new("RGB", (10, 30)).save(place / "other" / "cam1" / "0.png")
    (place / "broken" / "0.png").write_text("no image")
    for name in ("cam1", "cam2"):
        (place / name).symlink_to(site / name)
    (place / "unknown.csv").write_text("camera,track,person\ncam1,t77,5\n")
    (place / "elsewhere.csv").write_text("camera,track,person\nroof,t0,5\n")
    before = sorted(place.rglob("*"))
    monkeypatch.chdir(place)
    result = san("match", *cameras, *options, "-o", "out", code=code)
    assert told in result.err
    assert result.out == ""
    assert sorted(place.rglob("*")) == before


def test_model_without_threshold(san: San, site: Path, backend: ColourBackend) -> None:
    backend.threshold = None
    result = san("match", site / "cam1", site / "cam2", "-o", site / "out", code=2)
    assert "--threshold" in result.err
    assert left_over(site) == []
    san("match", site / "cam1", site / "cam2", "-o", site / "out", "--threshold", "0.5")


def test_model_that_is_missing(san: San, site: Path) -> None:
    result = san("match", site / "cam1", site / "cam2", "-o", site / "out", "-m", site / "none.onnx", code=1)
    assert "none.onnx does not exist" in result.err
    assert left_over(site) == []


@pytest.mark.usefixtures("backend")
def test_output_is_replaced_only_by_force_and_only_if_ours(san: San, site: Path) -> None:
    arguments = ("match", site / "cam1", site / "cam2", "-o", site / "out")
    san(*arguments)
    before = (site / "out" / "report.html").read_bytes()
    assert "--force" in san(*arguments, code=1).err
    assert (site / "out" / "report.html").read_bytes() == before
    san(*arguments, "--force")
    (site / "out" / "thesis.doc").write_text("mine")
    assert "not ours" in san(*arguments, "--force", code=1).err
    assert (site / "out" / "thesis.doc").exists()
    # Nor does a camera become the output.
    san("match", site / "cam1", site / "cam2", "-o", site / "cam2", "--force", code=1)
    assert left_over(site) == ["out"]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", ["numpy.savez_compressed", "san_deploy.reports.match_report.write_report"])
def test_full_disk_leaves_nothing(san: San, site: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(name, full)
    result = san("match", site / "cam1", site / "cam2", "-o", site / "out", code=1)
    assert result.err == (
        "Running on colours (CPU)\n"
        f"Error: cannot write {site / 'out'}: No space left on device. "
        "Free some space, or choose a folder that can be written.\n"
    )
    assert left_over(site) == []


def test_interrupt_leaves_nothing(san: San, site: Path, backend: ColourBackend) -> None:
    backend.interrupt = True
    result = san("match", site / "cam1", site / "cam2", "-o", site / "out", code=130)
    assert len([line for line in result.err.splitlines() if line]) == 2
    assert left_over(site) == []


def test_real_model(san: San, site: Path, model: Path) -> None:
    arguments = (
        "match",
        site / "cam1",
        site / "cam2",
        "-m",
        model,
        "--threshold",
        "0.2",
        "--full-similarity",
    )
    for name, batch in (("one", 1), ("two", 4)):
        san(*arguments, "-o", site / name, "--batch", batch, "--workers", "2")
    rows = [(site / name / "matches.csv").read_text().splitlines() for name in ("one", "two")]
    assert rows[0] == rows[1]
    with np.load(site / "one" / "similarity.npz", allow_pickle=False) as arrays:
        assert arrays["cam1|cam2"].shape == (3, 4)


def test_model_cut_short(san: San, site: Path, model: Path) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    san("match", site / "cam1", site / "cam2", "-m", model, "-o", site / "out", "--threshold", "0.5", code=1)
    assert "out" not in left_over(site)


@pytest.mark.usefixtures("backend")
def test_output_folder_has_a_name_by_itself(san: San, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    assert "report: matches/report.html" in san("match", "cam1/", "cam2/").out
    assert "report: matches-2/report.html" in san("match", "cam1/", "cam2/").out


@pytest.mark.usefixtures("backend")
def test_people_are_written_and_judged(san: San, site: Path) -> None:
    result = san(
        "match", site / "cam1", site / "cam2", "--labels", site / "identities.csv", "-o", site / "out"
    )
    with (site / "out" / "identities.csv").open(newline="") as file:
        person = {(row["camera"], row["track"]): row["person"] for row in csv.DictReader(file)}
    assert person["cam1", "t0"] == person["cam2", "t2"] and len(set(person.values())) == 4
    assert "people           4  over all cameras, 3 of them with more than one tracklet" in result.out
    assert "whole       100.0%  3 of 3 people" in result.out and "B-cubed F1  100.0%" in result.out


@pytest.mark.usefixtures("backend")
def test_cameras_by_name_and_layout(san: San, site: Path) -> None:
    flat = site / "flat"
    flat.mkdir()
    for track in (site / "cam2").iterdir():
        for crop in track.iterdir():
            crop.rename(flat / f"{track.name}_{crop.name}")
    result = san("match", f"north={site / 'cam1'}", f"south={flat}", "-o", site / "out")
    assert "south: 12 crops, 4 tracklets; file names of tracklet and frame" in result.err
    assert result.out.splitlines()[1].split()[:6] == ["north", "-", "south", "3", "+", "4"]
    refused = san("match", site / "cam1", flat, "--pattern", "{track}_{}.png", "-o", site / "again", code=1)
    assert "none of the 9 images" in refused.err
    other = site / "other"
    shutil.copytree(flat, other)
    read = san("match", flat, other, "--pattern", "{track}_{}.png", "-o", site / "again")
    assert "flat: 12 crops, 4 tracklets; read by --pattern" in read.err


@pytest.mark.usefixtures("backend")
def test_times_and_places_forbid(san: San, site: Path) -> None:
    (site / "cam1" / "tracks.csv").write_text(
        "camera,track,start,end\ncam1,t0,0,1\ncam1,t1,10,11\ncam1,t2,20,21\n"
    )
    (site / "cam2" / "tracks.csv").write_text(
        "camera,track,start,end\ncam2,t0,60,61\ncam2,t1,5,6\ncam2,t2,1,2\ncam2,t3,14,15\n"
    )
    (site / "site.csv").write_text("camera_a,camera_b,overlap,min_s,max_s\ncam1,cam2,no,2,30\n")
    arguments = ("match", site / "cam1", site / "cam2", "--topology", site / "site.csv")
    assert "--clock cam1=SECONDS" in san(*arguments, "-o", site / "none", code=2).err
    clocks = ("--clock", "cam1=0", "--clock", "cam2=0")
    san(*arguments, *clocks, "-o", site / "out")
    with (site / "out" / "matches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Red would have to be elsewhere within a second, blue is 39 seconds later; green has time enough.
    assert [(r["track_a"], r["track_b"]) for r in rows if r["matched"] == "1"] == [("t1", "t3")]
    assert {r["reason"] for r in rows if r["camera_a"] == "cam1" and r["matched"] == "0"} == {"forbidden"}
    # The second camera's clock was fast by ten seconds for red, and slow for nobody.
    moved = san(*arguments, "--clock", "cam1=0", "--clock", "cam2=-12", "-o", site / "moved", "--json")
    assert json.loads(moved.out)["people"]["same_camera"] == "overlap"
    assert "--clock" in san(*arguments, "--clock", "roof=1", "-o", site / "none", code=2).err


@pytest.mark.usefixtures("backend")
def test_corrections_are_kept(san: San, site: Path) -> None:
    marks = {"confirmed": [["cam1", "t0", "cam2", "t1"]], "rejected": [["cam1", "t1", "cam2", "t3"]]}
    (site / "marks.json").write_text(json.dumps(marks | {"schema_version": 1}))
    arguments = ("match", site / "cam1", site / "cam2", "--corrections", site / "marks.json")
    san(*arguments, "-o", site / "out")
    with (site / "out" / "matches.csv").open(newline="") as file:
        matched = {(r["track_a"], r["track_b"]) for r in csv.DictReader(file) if r["matched"] == "1"}
    assert ("t0", "t1") in matched and ("t1", "t3") not in matched
    (site / "marks.json").write_text(json.dumps({"rejected": [["cam1", "t9", "cam2", "t3"]]}))
    assert "names cam1/t9" in san(*arguments, "-o", site / "bad", code=1).err
    (site / "marks.json").write_text("{")
    assert "no file of corrections" in san(*arguments, "-o", site / "bad", code=1).err


def test_embeddings_instead_of_crops(san: San, site: Path, backend: ColourBackend) -> None:
    for name in ("cam1", "cam2"):
        san("embed", site / name, "-o", site / f"{name}.npz")
    backend.interrupt = True  # nothing is embedded again
    san("match", site / "cam1.npz", site / "cam2.npz", "-o", site / "out")
    assert "threshold 0.9" in san("match", site / "cam1.npz", site / "cam2.npz", "-o", site / "two").out
    backend.interrupt = False
    san("match", site / "cam1", site / "cam2", "-o", site / "crops")
    names = ("out", "crops")
    assert len({(site / name / "matches.csv").read_text() for name in names}) == 1
    # The pictures are found in the folder of the same name.
    assert "data:image/jpeg" in (site / "out" / "report.html").read_text()


def people_of(folder: Path) -> dict[tuple[str, str], str]:
    with (folder / "identities.csv").open(newline="") as file:
        return {(row["camera"], row["track"]): row["person"] for row in csv.DictReader(file)}


@pytest.mark.usefixtures("backend")
def test_a_gallery_keeps_the_numbers_of_people(san: San, site: Path) -> None:
    gallery = site / "gallery"
    said = san("match", site / "cam1", "--gallery", gallery, "-o", site / "monday", "--keep-crops", 1)
    assert "known            0  of them to the gallery before; 3 are new" in said.out
    monday = people_of(site / "monday")
    assert set(monday.values()) == {"1", "2", "3"}
    told = json.loads(san("match", site / "cam2", "--gallery", gallery, "-o", site / "tuesday", "--json").out)
    assert told["people"]["known"] == [1, 2, 3] and told["people"]["count"] == 4
    tuesday = people_of(site / "tuesday")
    # blue, yellow, red, green; yellow is new.
    assert tuesday == {
        ("cam2", "t0"): monday["cam1", "t2"],
        ("cam2", "t1"): "4",
        ("cam2", "t2"): monday["cam1", "t0"],
        ("cam2", "t3"): monday["cam1", "t1"],
    }
    page = (site / "tuesday" / "report.html").read_text()
    assert "3 known to the gallery" in page and "Person 4" in page
    # Both again: the same people, and nothing to add.
    san("match", site / "cam2", site / "cam1", "--gallery", gallery, "-o", site / "again")
    assert people_of(site / "again") == monday | tuesday
    info = json.loads(san("gallery", "info", "--gallery", gallery, "--events", "--json").out)
    assert (info["tracks"], info["people"]) == (7, 4)
    assert [event["what"] for event in info["events"]] == ["create", "add", "add"]
    san("gallery", "export", "--gallery", gallery, "-o", site / "exported")
    assert people_of(site / "exported") == monday | tuesday


@pytest.mark.usefixtures("backend")
def test_corrections_change_a_gallery_and_merges_and_splits_by_hand_too(san: San, site: Path) -> None:
    gallery, marks = site / "gallery", site / "marks.json"
    run = ("match", site / "cam1", site / "cam2", "--gallery", gallery)
    san(*run, "-o", site / "first")
    first = people_of(site / "first")
    marks.write_text(
        json.dumps(
            {
                "schema_version": 1,
                "confirmed": [["cam1", "t0", "cam2", "t1"]],
                "rejected": [["cam1", "t0", "cam2", "t2"]],
            }
        )
    )
    san(*run, "-o", site / "second", "--corrections", marks)
    second = people_of(site / "second")
    assert second["cam1", "t0"] == second["cam2", "t1"] == min(first["cam1", "t0"], first["cam2", "t1"])
    assert second["cam2", "t2"] == "5"
    told = json.loads(san("gallery", "info", "--gallery", gallery, "--events", "--json").out)["events"]
    assert [event["what"] for event in told][-2:] == ["split", "merge"]
    assert "Merged 2 tracklets" in san("gallery", "merge", "1", "2", "--gallery", gallery).out
    said = san("gallery", "split", "1", "cam1/t0", "--gallery", gallery)
    assert "New person: 6" in said.err and "Split off 1 tracklets" in said.out
    assert "is no CAMERA/TRACK" in san("gallery", "split", "1", "cam1", "--gallery", gallery, code=2).err


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--unknown", 0.9), 2, "--unknown belongs to --gallery"),
        (("--keep-crops", 1), 2, "--keep-crops belongs to --gallery"),
        (("--gallery", "G", "--center"), 2, "a gallery keeps tracklets as they are"),
        (("--gallery", "G", "--unknown", 2), 2, "2.0 is not in the range -1<=x<=1"),
        (("--gallery", "cam1"), 1, "cam1 is no gallery"),
    ],
)
def test_bad_options_of_a_gallery(
    san: San,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(site)
    said = san("match", "cam1", "cam2", "-o", "out", *options, code=code)
    assert message in said.err and left_over(site) == []


@pytest.mark.usefixtures("backend")
def test_what_is_refused_on_the_way_leaves_the_gallery_as_it_was(
    san: San, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = site / "gallery"
    san("match", site / "cam1", "--gallery", gallery, "-o", site / "first")

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("san_deploy.reports.match_report.write_report", fails)
    san("match", site / "cam2", "--gallery", gallery, "-o", site / "second", code=1)
    monkeypatch.undo()
    info = json.loads(san("gallery", "info", "--gallery", gallery, "--json").out)
    assert info["tracks"] == 3 and not (site / "second").exists()
    # Tracks whose times count from the start of a video are refused before anything is embedded.
    (site / "cam2" / "tracks.csv").write_text("track,start,end\nt0,1,2\n")
    said = san("match", site / "cam2", "--gallery", gallery, "-o", site / "third", code=1)
    assert "has seconds of a video" in said.err
