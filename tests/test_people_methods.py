"""The study of how people are made runs, and never judges somebody by a threshold that he is part of."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from tests.san_deploy.matching.test_identities import seen

SPEC = importlib.util.spec_from_file_location(
    "people_methods", Path(__file__).parent.parent / "tools" / "people_methods.py"
)
assert SPEC and SPEC.loader
people_methods = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(people_methods)


def test_each_person_is_judged_twice_and_people_apart_are_found() -> None:
    counts = np.bincount([person for split in people_methods.SPLITS for person in split])
    assert counts[1:].tolist() == [2] * 50
    cameras = seen(people=50, noise=0.2, dim=32)
    labels = {(c.name, t): k + 1 for c in cameras for k, t in enumerate(c.tracks.tolist())}
    found = people_methods.judge(cameras, labels, set(people_methods.SPLITS[0]), (0.3, 0.01), center=False)
    assert set(found) == {"pairs", "average", "greedy"}
    assert all(len(values) == people_methods.DRAWS for values in found.values())
    assert np.mean([value for value, *_ in found["average"]]) > 0.9
