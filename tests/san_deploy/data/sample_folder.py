"""A small crop folder of the sample crops, for tests that need people with labels."""

from __future__ import annotations

from pathlib import Path

from san_deploy.data.samples import read_samples


def write_samples(folder: Path, *, people: int, cameras: int, split: str = "train") -> Path:
    """Write the sample crops of the first `people` people in the first `cameras` cameras, with identities.csv."""
    rows = {}
    for sample in read_samples():
        camera, track = sample.track.split("/")
        if sample.person <= people and int(camera.removeprefix("cam")) <= cameras:
            path = folder / sample.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.jpeg)
            rows[f"{camera},{track},{sample.person},{split}"] = None
    (folder / "identities.csv").write_text("\n".join(["camera,track,person,split", *rows]) + "\n")
    return folder
