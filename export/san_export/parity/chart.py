"""One plot: what is drawn where, in the drawing's own units; chart.svg.j2 draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

#: Errors below this are drawn at the lower edge: FP32 cannot tell them from none.
FLOOR = 1e-10


@dataclass(frozen=True)
class Text:
    """Text at a place, with `anchor` as SVG has it."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    kind: str = "soft"
    slanted: bool = False


@dataclass(frozen=True)
class Bar:
    """A rectangle; `title` is what a pointer over it shows."""

    x: float
    y: float
    width: float
    height: float
    title: str
    kind: str = "own"


@dataclass(frozen=True)
class Dot:
    """A point; `shape` is `dot` of radius `r`, `ring`, `diamond` or `cross`."""

    x: float
    y: float
    title: str
    kind: str = "own"
    shape: str = "dot"
    r: float = 4.5


@dataclass(frozen=True)
class Line:
    """A line through points, as SVG has them."""

    points: str
    kind: str = "own"


@dataclass
class Chart:
    """One plot, all in its own units, all numbers finite.

    Attributes:
        label: what it shows, for those who hear the page.
        width, height: of the drawing.
        left, top, right, bottom: of its field.
    """

    label: str
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    levels: list[Text] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    areas: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    rules: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)

    def rule(self, x: float, kind: str = "bad") -> None:
        """A line from the top to the bottom of the field."""
        self.rules.append(line([(x, self.top), (x, self.bottom)], kind))


def line(points: Iterable[tuple[float, float]], kind: str) -> Line:
    """A line through these points, or the corners of an area."""
    return Line(" ".join(f"{x:.1f},{y:.1f}" for x, y in points), kind)


def decades(values: Iterable[float], least: float = FLOOR) -> tuple[int, int]:
    """Powers of ten around positive values: at least one decade."""
    known = [max(value, least) for value in values if math.isfinite(value) and value > 0]
    low = math.floor(math.log10(min(known, default=1e-8)) + 1e-9)
    return low, max(low + 1, math.ceil(math.log10(max(known, default=1e-7)) - 1e-9))


def power(exponent: int) -> str:
    """A power of ten as an axis has it."""
    if -3 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return f"1e{exponent}"


def log_levels(
    chart: Chart, low: int, high: int, y: Callable[[float], float], name: Callable[[int], str]
) -> None:
    """Add the levels of a logarithmic scale, seven at the most; `y` places a value, `name` names its exponent."""
    step = max(1, math.ceil((high - low) / 6))
    for exponent in range(low, high + 1, step):
        chart.levels.append(Text(chart.left - 7, y(10.0**exponent), name(exponent), "end"))


def shortened(text: str, letters: int, *, end: bool = False) -> str:
    """At most so many letters; with `end` the last ones, which is where layers differ."""
    if len(text) <= letters:
        return text
    return "…" + text[1 - letters :] if end else text[: letters - 1] + "…"
