"""The CMC curves as SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Colours of the file; the page has its own, which follow light and dark.
INK = {"ink": "#1b211e", "soft": "#566059", "line": "#e0e3de", "page": "#ffffff"}
_COLOURS = ("#17695a", "#b4552d", "#5b4fa3", "#8a6d1f")
#: The drawing, in its own units: left, top, width and height of the field.
FIELD = (46.0, 12.0, 560.0, 240.0)


def plot(curves: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Where lines and texts of the plot go, for cmc.svg.j2.

    Args:
        curves: name to CMC at rank 1, 2, 3, ..., values in 0..1; at least one, of equal length.
    """
    left, top, width, height = FIELD
    ranks = max(len(curve) for curve in curves.values())
    # Down to the ten per cent below the lowest value: most curves live in the upper part.
    low = math.floor(10 * min(min(curve) for curve in curves.values()) - 1e-9) / 10
    low = min(max(0.0, low), 0.9)

    def x(rank: int) -> float:
        return left + width * ((rank - 1) / max(1, ranks - 1))

    def y(value: float) -> float:
        return top + height * (1.0 - (value - low) / (1.0 - low))

    step = 0.1 if 1.0 - low > 0.25 else 0.05 if 1.0 - low > 0.15 else 0.02
    levels = [1.0 - step * k for k in range(round((1.0 - low) / step) + 1)]
    marks = [rank for rank in (1, 5, 10, 20, 30, 40, 50) if rank <= ranks]
    return {
        "field": {"left": left, "top": top, "right": left + width, "bottom": top + height},
        "height": top + height + 44 + 20 * len(curves),
        "levels": [{"y": y(level), "text": f"{100 * level:.0f} %"} for level in levels],
        "marks": [{"x": x(rank), "text": str(rank)} for rank in marks],
        "curves": [
            {
                "name": name,
                "text": ", ".join(f"rank-{rank} {100 * curve[rank - 1]:.1f} %" for rank in marks[:3]),
                "colour": _COLOURS[number % len(_COLOURS)],
                "points": " ".join(
                    f"{x(rank):.1f},{y(value):.1f}" for rank, value in enumerate(curve[:ranks], 1)
                ),
                "dots": [{"x": x(rank), "y": y(curve[rank - 1])} for rank in marks if rank <= len(curve)],
                "y": top + height + 50 + 20 * number,
            }
            for number, (name, curve) in enumerate(curves.items())
        ],
    }
