"""The whole road as a newcomer walks it: the built wheel in a fresh environment, the commands of docs/start.md as they
stand there, from two videos with a tracker's boxes to a gallery and a checked FP16 file.

The videos are made here of the sample crops that ship with the package, so who is who is known.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2

from san_deploy.data.samples import read_samples

from .test_package import build, checkout  # noqa: F401

ROOT = Path(__file__).parents[1]
SECTION = "## The whole road"
#: Who passes the lobby and who the gate; 30 and 29 pass only one of them.
LOBBY, GATE = (1, 2, 3, 4, 5, 30), (1, 2, 3, 4, 5, 29)
SIZE_WH = (640, 360)
STEP = 12


def blocks() -> list[str]:
    """The commands of the section, in order."""
    section = (ROOT / "docs/start.md").read_text("utf-8").partition(SECTION)[2].partition("\n## ")[0]
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", section, re.S)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("san ")]


def walk(folder: Path, name: str, camera: str, people: tuple[int, ...]) -> dict[int, int]:
    """`name`.mp4 and `name`.csv: people cross the picture, two at a time; gives who each track number is."""
    rng = np.random.default_rng(len(name))
    behind = cv2.resize(rng.integers(60, 190, (18, 32, 3), np.uint8), SIZE_WH, interpolation=cv2.INTER_CUBIC)
    crops = {
        person: [
            sample.read()
            for sample in read_samples()
            if sample.person == person and sample.track.startswith(camera)
        ]
        for person in people
    }
    assert all(len(found) >= 4 for found in crops.values()), {
        person: len(found) for person, found in crops.items()
    }
    tracks = {int(number): person for number, person in enumerate(rng.permutation(people), 1)}
    writer = cv2.VideoWriter(str(folder / f"{name}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, SIZE_WH)
    rows, frame_index = ["frame_index,tracker_id,x_min,y_min,x_max,y_max,confidence"], 0
    for number in range(0, len(tracks), 2):
        for step in range(40):
            frame = behind.copy()
            for lane, track in enumerate(list(tracks)[number : number + 2]):
                found = crops[tracks[track]]
                crop = cv2.resize(found[step // 3 % len(found)], (70, 160), interpolation=cv2.INTER_AREA)
                left, top = 10 + STEP * step if lane == 0 else 550 - STEP * step, 15 + 170 * lane
                frame[top : top + 160, left : left + 70] = crop
                rows.append(f"{frame_index},{track},{left},{top},{left + 70},{top + 160},0.9")
            writer.write(frame)
            frame_index += 1
    writer.release()
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tracks


@pytest.fixture(scope="module")
def san_of_the_wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """`san` in an environment that has the wheel, what its extras bring, and nothing of this checkout."""
    wheel = build(checkout, "build_wheel")
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run(
        [*install, f"{wheel}[cpu,video,convert]"], capture_output=True, text=True, check=False
    )
    if done.returncode and re.search(
        "No matching distribution|Could not find a version|ConnectionError", done.stderr
    ):
        pytest.skip(f"no package index at hand: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python.with_name("san")


def test_from_two_videos_to_a_gallery_and_a_checked_fp16_file(san_of_the_wheel: Path, tmp_path: Path) -> None:
    who = {
        "lobby": walk(tmp_path, "lobby", "cam1", LOBBY),
        "gate": walk(tmp_path, "gate", "cam2", GATE),
    }
    said: dict[str, str] = {}
    for line in blocks():
        words = shlex.split(line)
        if words[1] == "search":
            words.append("--json")
        done = subprocess.run(
            [san_of_the_wheel, *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said[" ".join(words[:2])] = done.stdout
    persons: dict[str, dict[int, str]] = {"lobby": {}, "gate": {}}
    with (tmp_path / "people/identities.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            track = int(re.sub(r"\D", "", row["track"]))
            persons[row["camera"]][who[row["camera"]][track]] = row["person"]
    # Everybody is found once before each camera, who passed both is one person, and who passed one is nobody else.
    assert {name: set(found) for name, found in persons.items()} == {"lobby": set(LOBBY), "gate": set(GATE)}
    right = sum(persons["lobby"][person] == persons["gate"][person] for person in set(LOBBY) & set(GATE))
    assert right == len(set(LOBBY) & set(GATE))
    assert persons["gate"][29] not in persons["lobby"].values()
    # The search finds the person of the crops that were asked for, and says that it is the same.
    best = json.loads(said["san search"])["queries"][0]["hits"][0]
    asked = who["gate"][1]
    assert asked in LOBBY, "the fixture's draw: gate/t0001 is somebody who passed the lobby, too"
    assert who["lobby"][int(re.sub(r"\D", "", best["track"]))] == asked and best["matches"]
    assert "FAIL" not in said["san parity"] and "PASS" in said["san parity"]
    assert "within the gate of the file" in said["san info"]
    checks = json.loads((tmp_path / "reid-fp16.onnx.json").read_text("utf-8"))["checks"]
    assert all(value >= checks["fp16"]["gate"]["p1_cosine"] for value in checks["fp16"]["p1_cosine"].values())
