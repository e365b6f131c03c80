"""The page of a threshold: false and true match rate, precision and recall, and a slider; one file, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..matching.threshold_study import ThresholdStudy
from .html import environment, model_facts
from .html import write_page as write_html

#: The fields of both plots, in their own units.
_WIDTH, _HEIGHT, _LEFT, _TOP = 420.0, 230.0, 44.0, 12.0


def write_page(path: Path, study: ThresholdStudy, model: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        path: the .html file to write, of an `atomic_file`.
        study: the threshold and its curves.
        model: `Artefact.as_dict()` of the network.

    Raises:
        OSError: no space, no permission.
    """
    curve = study.threshold.curve
    data = {
        "similarity": list(study.similarity),
        "rates": [[row[1], row[2]] for row in curve],
        "sets": [
            {"absent": item.absent, "precision": item.precision, "recall": item.recall, "f1": item.f1}
            for item in study.open_sets
        ],
        "chosen": study.threshold.similarity,
    }
    context = {
        "study": study,
        "threshold": study.threshold,
        "facts": model_facts(model),
        "low": study.similarity[0],
        "high": study.similarity[-1],
        "field": {"left": _LEFT, "top": _TOP, "right": _LEFT + _WIDTH, "bottom": _TOP + _HEIGHT},
        "sets": [
            {"absent": item.absent, "points": _line(item.recall, item.precision), "best": item.best}
            for item in study.open_sets
        ],
        "false": _line(_scaled(study.similarity), [row[1] for row in curve]),
        "true": _line(_scaled(study.similarity), [row[2] for row in curve]),
        # In a script: no sequence of it may end the element.
        "data": Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
    }
    write_html(path, environment().get_template("threshold_page.html.j2"), context)


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = values[0], values[-1]
    return [(value - low) / max(1e-9, high - low) for value in values]


def _line(x: Sequence[float], y: Sequence[float]) -> str:
    """Points of a line, both axes 0..1."""
    return " ".join(
        f"{_LEFT + _WIDTH * a:.1f},{_TOP + _HEIGHT * (1.0 - b):.1f}" for a, b in zip(x, y, strict=False)
    )
