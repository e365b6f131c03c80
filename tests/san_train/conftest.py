"""A small labelled crop folder that the training tests make themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_crop_folder(
    root: Path,
    *,
    people: int = 6,
    cameras: int = 2,
    each: int = 2,
    split: Callable[[int], str] = lambda person: "train",
    seed: int = 0,
) -> Path:
    """Flat-coloured 'people': two tones that identify them, noise that does not."""
    rng = np.random.default_rng(seed)
    tones = rng.integers(0, 256, (people, 2, 3))
    lines = ["camera,track,person,split"]
    for camera in range(1, cameras + 1):
        for person in range(1, people + 1):
            track = f"t{(person * 7 + camera) % 1000:03d}"
            folder = root / f"cam{camera}" / track
            folder.mkdir(parents=True)
            lines.append(f"cam{camera},{track},{person},{split(person)}")
            for index in range(each):
                crop = (
                    np.repeat(np.repeat(tones[person - 1][:, None], 35, 0), 30, 1)
                    + rng.normal(0, 12, (70, 30, 3))
                    + 10 * camera
                )
                Image.fromarray(np.clip(crop, 0, 255).astype(np.uint8)).save(folder / f"{index:04d}.png")
    (root / "identities.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def crop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people, two cameras, persons 5 and 6 in the split val."""
    return write_crop_folder(
        tmp_path_factory.mktemp("crops") / "data", split=lambda person: "val" if person > 4 else "train"
    )
