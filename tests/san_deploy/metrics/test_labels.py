"""Which gallery crops count, against the rule spelled out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_deploy.metrics import RankingLabels
from tests.san_deploy.metrics import oracle


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), names=st.booleans())
def test_right_and_ignored(seed: int, names: bool) -> None:
    labels = oracle.labels(np.random.default_rng(seed), 6, 30, 4)
    if names:
        labels |= {key: labels[key].astype(str) for key in ("query_camera", "gallery_camera")}
    answers = RankingLabels(**labels)
    assert answers.shape == (6, 30)
    for query in range(6):
        person, camera = labels["query_person"][query], labels["query_camera"][query]
        same = [p == person and p > 0 for p in labels["gallery_person"]]
        own = [c == camera for c in labels["gallery_camera"]]
        right = [g for g in range(30) if same[g] and not own[g]]
        ignored = [g for g in range(30) if (same[g] and own[g]) or labels["gallery_person"][g] == -1]
        assert sorted(answers.positives_of(query).tolist()) == right
        assert sorted(answers.ignored(query).tolist()) == ignored
        assert answers.positives[query] == len(right)
        assert (answers.excluded[query] == 0) == bool(right)


def test_labels_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="person and a camera"):
        RankingLabels(
            query_person=np.array([1, 2]),
            gallery_person=np.array([1]),
            query_camera=np.array([1]),
            gallery_camera=np.array([1]),
        )
