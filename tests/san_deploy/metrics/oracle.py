"""Market-1501's protocol read literally, with plain loops."""

from __future__ import annotations

import numpy as np


def similarity(query: np.ndarray, gallery: np.ndarray) -> list[list[float]]:
    """Inner products in FP32."""
    query, gallery = query.astype(np.float32), gallery.astype(np.float32)
    return [[float(np.float32(a @ b)) for b in gallery] for a in query]


def market(
    scores: list[list[float]],
    *,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
) -> dict[str, float]:
    """For every query: sort the gallery, drop what does not count, walk down the list.

    Zheng et al., ICCV 2015: gallery crops of the query's person from the query's camera are junk, and so is
    person -1. Of equal similarities the wrong answer stands first. Person 0 is nobody's positive.
    """
    cmc, aps, inps = np.zeros(20), [], []
    left_out = {"strangers": 0, "absent": 0, "same_camera": 0}
    for q, row in enumerate(scores):
        entries = []
        for g, value in enumerate(row):
            if gallery_person[g] == -1:
                continue
            same = query_person[q] == gallery_person[g] and gallery_person[g] != 0
            if same and query_camera[q] == gallery_camera[g]:
                continue
            entries.append((-value, same))
        entries.sort(key=lambda entry: (entry[0], entry[1]))  # False, the wrong answer, before True
        answers = [same for _, same in entries]
        if not any(answers):
            if query_person[q] in (0, -1):
                left_out["strangers"] += 1
            elif query_person[q] not in gallery_person.tolist():
                left_out["absent"] += 1
            else:
                left_out["same_camera"] += 1
            continue
        found, precisions, first, last = 0, [], 0, 0
        for place, same in enumerate(answers, 1):
            if same:
                found += 1
                precisions.append(found / place)
                first = first or place
                last = place
        aps.append(sum(precisions) / len(precisions))
        inps.append(found / last)
        cmc[first - 1 :] += 1
    count = len(aps)
    if not count:
        raise ZeroDivisionError
    return {
        **{f"rank{k}": cmc[k - 1] / count for k in (1, 5, 10, 20)},
        "mean_ap": sum(aps) / count,
        "mean_inp": sum(inps) / count,
        "queries": count,
        "unanswerable": sum(left_out.values()),
        **left_out,
    }


def labels(rng: np.random.Generator, queries: int, entries: int, people: int) -> dict[str, np.ndarray]:
    """Random labels: distractors, junk, people of the queries whom the gallery lacks, and three cameras."""
    return {
        "query_person": rng.integers(-1, people + 2, queries),
        "gallery_person": rng.integers(-1, people + 1, entries),
        "query_camera": rng.integers(1, 4, queries),
        "gallery_camera": rng.integers(1, 4, entries),
    }
