"""The study of how people are made runs, and never judges somebody by a threshold that he is part of."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.san_deploy.matching.test_identities import seen

SPEC = importlib.util.spec_from_file_location(
    "people_methods", Path(__file__).parent.parent / "tools" / "people_methods.py"
)
assert SPEC and SPEC.loader
people_methods = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = people_methods
SPEC.loader.exec_module(people_methods)


def test_each_person_is_judged_twice_and_people_apart_are_found() -> None:
    counts = np.bincount([person for split in people_methods.SPLITS for person in split])
    assert counts[1:].tolist() == [2] * 50
    cameras = seen(people=50, noise=0.2, dim=32)
    labels = {(c.name, t): k + 1 for c in cameras for k, t in enumerate(c.tracks.tolist())}
    split = people_methods.splits_of([cameras], labels, center=False)[0]
    assert split.people == set(range(1, 21)) and len(split.impostors) == 3 * 30 * 29
    found = people_methods.judge(split, labels, (0.3, 0.01), center=False)
    assert set(found) == {"pairs", "average", "greedy"}
    assert all(len(values) == people_methods.DRAWS for values in found.values())
    assert np.mean([value for value, *_ in found["average"]]) > 0.9


def test_a_threshold_of_five_networks_is_of_people_whom_they_and_the_judged_are_not() -> None:
    cameras = seen(people=50, noise=0.2, dim=32)
    labels = {(c.name, t): k + 1 for c in cameras for k, t in enumerate(c.tracks.tolist())}
    # Network k sees the people of split k in a space of their own, everybody else as one and the same.
    networks = []
    for split in people_methods.SPLITS:
        held = np.isin(np.arange(1, 51), list(split))
        same = np.ones_like(cameras[0].embedding) / np.sqrt(32, dtype=np.float32)
        networks.append([replace(c, embedding=np.where(held[:, None], c.embedding, same)) for c in cameras])
    for number, split in enumerate(people_methods.splits_of(networks, labels, center=False)):
        assert split.cameras is networks[number]
        # Two neighbours share ten people with it, two share none: 2 x 10 and 2 x 20 people, of three pairs of cameras.
        assert len(split.impostors) == 3 * (2 * 10 * 9 + 2 * 20 * 19)
        assert split.impostors.max() < 0.9
