"""Made difficulty: what each row of the table does to tracklets whose answers are known."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module("difficulty")
    finally:
        sys.path.remove(str(TOOLS))


def seen_by(tool: ModuleType, people: range, noise: float, seed: int = 0):
    """Everybody before three cameras: a direction of one's own, and noise."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(99).standard_normal((51, 64))
    person = np.repeat(list(people), 3)
    rows = own[person] + noise * rng.standard_normal((len(person), 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return tool.Seen(rows, person, np.array(["cam1", "cam2", "cam3"] * len(people)))


def test_a_perfect_network_finds_no_row_difficult(tool: ModuleType) -> None:
    plain = [seen_by(tool, people, 0.05) for people in tool.SPLITS]
    alike = [set(list(people)[:10]) for people in tool.SPLITS]
    table = tool.rows(plain, plain, alike, 0)
    for name, splits in table.items():
        values = np.array(splits)
        # One stranger in twenty reaches the threshold: who is absent may be taken for one of those who are there.
        least = 70 if "absent" in name or "late" in name else 99.9
        assert values[~np.isnan(values)].min() >= least, name
    noisy = [seen_by(tool, people, 1.5) for people in tool.SPLITS]
    assert np.nanmean(np.array(tool.rows(noisy, noisy, alike, 0)["nothing"])) < 80


def test_rank1_counts_those_whose_person_is_there(tool: ModuleType) -> None:
    rows = np.eye(4, dtype=np.float32)[[0, 1, 0, 2, 3]]
    seen = tool.Seen(rows, np.array([1, 2, 1, 2, 3]), np.array(["a", "a", "b", "b", "b"]))
    # a to b: person 1 right, 2 wrong (row 1 is nearest to the first of equals); b to a: 1 right, 2 wrong, 3 not there.
    assert tool.rank1(seen) == pytest.approx(0.5)


def test_absence_and_casts_are_seeded(tool: ModuleType) -> None:
    seen = seen_by(tool, range(1, 21), 0.1)
    few = tool.absent(seen, 0.3, [0, 1])
    assert len(few.person) == 3 * 14 and np.array_equal(few.person, tool.absent(seen, 0.3, [0, 1]).person)
    assert not np.array_equal(few.person, tool.absent(seen, 0.3, [0, 2]).person)
    image = np.full((6, 4, 3), 120, np.uint8)
    cast = tool.casts(["cam1", "cam2"], 0)
    assert np.array_equal(cast(image, "cam1"), tool.casts(["cam1", "cam2"], 0)(image, "cam1"))
    assert not np.array_equal(cast(image, "cam1"), cast(image, "cam2"))


def test_the_clothes_of_look_alikes(tool: ModuleType) -> None:
    red, blue = np.zeros((60, 30, 3), np.uint8), np.zeros((60, 30, 3), np.uint8)
    red[..., 2], blue[..., 0] = 200, 200
    mixed = np.concatenate([red[:30], blue[30:]])
    same, other = (float(np.minimum(tool.clothes(red), tool.clothes(image)).sum()) for image in (red, blue))
    assert other == 0 < same
    assert 0 < float(np.minimum(tool.clothes(red), tool.clothes(mixed)).sum()) < same
