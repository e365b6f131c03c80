"""The page's plots: where their lines, bars and texts go; chart.svg.j2 draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import text as words
from .result import BlockFlips, Check, EmbeddingFigures, LayerError, LayerFigures

#: Errors below this are drawn at the lower edge: FP32 cannot tell them from none.
FLOOR = 1e-10
#: Bins to a power of ten.
_PER_DECADE = 4
#: Below a logarithmic scale: the lane of what is nothing at all.
_LANE = 28.0
#: Height of the name of a gate.
_GATE_ROW = 18.0
#: Labels below the plot of layers; letters of those, of the first that differs and of a block.
_LAYER_LABELS, _LABEL_LETTERS, _FIRST_LETTERS, _BLOCK_LETTERS = 14, 22, 60, 16
#: More layers than these have smaller dots.
_FEW_LAYERS = 80
#: Slanted labels nearer than this cover each other.
_APART = 24.0


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


def cosines(figures: EmbeddingFigures, gates: Sequence[Check]) -> Chart | None:
    """Histogram of 1 - cosine, both axes logarithmic, so that one bad row among thousands is seen.

    Args:
        figures: whose `cosine` is drawn; rows with NaN are left out, the page counts them.
        gates: on a cosine that has to be at least something; each is a line.

    Returns:
        None where no row has a cosine.
    """
    away = 1.0 - figures.cosine[np.isfinite(figures.cosine)].astype(np.float64)
    if not away.size:
        return None
    # A gate that is asked of every batch size is one line.
    limits = list(
        dict.fromkeys(
            (check.gate, 1.0 - check.limit) for check in gates if check.at_least and check.limit < 1
        )
    )
    # FP32 rows cannot be nearer than this; what is equal to the bit falls in the first bin.
    low, high = decades([*away, *(limit for _, limit in limits)], 1e-8)
    top = 16.0 + _GATE_ROW * len(limits)
    chart = Chart(
        "Histogram of 1 minus the cosine of a crop's two embeddings", 620, top + 222, 52, top, 606, top + 180
    )
    edges = np.logspace(low, high, (high - low) * _PER_DECADE + 1)
    counts = np.histogram(np.clip(away, edges[0], edges[-1]), edges)[0]
    most = max(1, math.ceil(math.log10(max(2, counts.max()))))

    def x(value: float) -> float:
        place = (math.log10(min(max(value, edges[0]), edges[-1])) - low) / (high - low)
        return chart.left + (chart.right - chart.left) * place

    def y(count: float) -> float:
        # One crop has a bar, too: the scale starts at half a crop.
        rise = (math.log10(count) + 0.3) / (most + 0.3)
        return chart.bottom - (chart.bottom - chart.top) * rise

    for exponent in range(most + 1):
        chart.levels.append(Text(chart.left - 7, y(10.0**exponent), words.number(10**exponent), "end"))
    # The other gates are on all rows together.
    of_rows = min((limit for name, limit in limits if name == "min_cosine"), default=math.inf)
    for count, start, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            title = f"{words.count(count, 'crop')} with 1 - cosine of {start:.1e} to {end:.1e}"
            chart.bars.append(
                Bar(
                    x(start) + 0.5,
                    y(count),
                    x(end) - x(start) - 1.0,
                    chart.bottom - y(count),
                    title,
                    "bad" if start >= of_rows * (1 - 1e-9) else "own",
                )
            )
    for exponent in range(low, high + 1):
        chart.texts.append(Text(x(10.0**exponent), chart.bottom + 18, power(exponent)))
    chart.texts.append(Text(chart.right, chart.bottom + 38, "1 - cosine", "end"))
    chart.texts.append(Text(chart.left, chart.bottom + 38, "crops, logarithmic", "start"))
    _gate_rules(chart, limits, x)
    return chart


def _gate_rules(chart: Chart, limits: Sequence[tuple[str, float]], x: Callable[[float], float]) -> None:
    """Lines of gates, each up to its name, which has a row of its own above the field."""
    # Names stand on the side that has room, and in an order in which no line runs through one.
    left = min((x(limit) for _, limit in limits), default=0.0) > chart.left + 0.3 * (chart.right - chart.left)
    for row, (name, limit) in enumerate(sorted(limits, key=lambda item: item[1], reverse=not left)):
        place, text = x(limit), shortened(words.clean(name), 24)
        height = chart.top - 8 - _GATE_ROW * row
        chart.rules.append(line([(place, height - 9), (place, chart.bottom)], "bad"))
        chart.texts.append(Text(place + (-5 if left else 5), height, text, "end" if left else "start", "bad"))


def margins(block: BlockFlips) -> Chart | None:
    """Histogram of |pi - 1/2| of one block, the rounding of pi as a line; None where there is none."""
    shares = np.nan_to_num(np.asarray(block.margins, np.float64), posinf=0.0, neginf=0.0)
    if not shares.size or shares.max(initial=0.0) <= 0:
        return None
    name = words.clean(block.name)
    chart = Chart(
        f"Margins of {name}: share of the bits by |pi - 1/2|",
        300,
        168,
        left=42,
        top=16,
        right=290,
        bottom=128,
    )
    most = float(shares.max())
    step = (chart.right - chart.left) / shares.size
    for number, value in enumerate(shares.tolist()):
        rise = (chart.bottom - chart.top) * value / most
        low, high = 0.5 * number / shares.size, 0.5 * (number + 1) / shares.size
        title = f"{words.share(value)} of the bits with |pi - 1/2| of {low:g} to {high:g}"
        chart.bars.append(
            Bar(chart.left + step * number + 0.5, chart.bottom - rise, step - 1.0, rise, title, "own")
        )
    for value in (0.0, most / 2, most):
        height = chart.bottom - (chart.bottom - chart.top) * value / most
        chart.levels.append(Text(chart.left - 6, height, words.share(value), "end"))
    for place in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        chart.texts.append(
            Text(chart.left + (chart.right - chart.left) * place / 0.5, chart.bottom + 16, f"{place:g}")
        )
    chart.texts.append(Text(chart.right, chart.bottom + 33, "|pi - 1/2|", "end"))
    if math.isfinite(block.rounding) and block.rounding >= 0:
        # A pixel and a half at the least: FP16 rounds in the fourth decimal.
        x = chart.left + max(1.5, (chart.right - chart.left) * min(block.rounding, 0.5) / 0.5)
        chart.rule(x)
        right = x < (chart.left + chart.right) / 2
        chart.texts.append(
            Text(
                x if right else x - 4,
                chart.top - 5,
                f"rounding {words.small(block.rounding)}",
                "start" if right else "end",
                "bad",
            )
        )
    return chart


def flips(blocks: Sequence[BlockFlips]) -> Chart | None:
    """Shares of flipped bits by block, on a logarithmic scale: happened, predicted and the block's own.

    None where no block has flipped or was predicted to.
    """
    shares = [
        (words.flipped_share(block), words.predicted_share(block), words.own_share(block)) for block in blocks
    ]
    if not any(value > 0 for row in shares for value in row):
        return None
    low, high = decades(value for row in shares for value in row)
    step = 544.0 / len(blocks)
    slanted = len(blocks) > 6 or any(len(words.clean(block.name)) * 6.5 > step for block in blocks)
    label = "Share of flipped bits by block: happened, predicted, own"
    chart = Chart(label, 620, 286 if slanted else 216, left=62, top=12, right=606, bottom=190)

    def y(value: float) -> float | None:
        if not math.isfinite(value):
            return None
        if value <= 0:
            return chart.bottom - 8
        place = (math.log10(max(value, FLOOR)) - low) / (high - low)
        return chart.bottom - _LANE - (chart.bottom - _LANE - chart.top) * place

    chart.levels.append(Text(chart.left - 7, chart.bottom - 8, "none", "end"))
    log_levels(chart, low, high, lambda value: y(value) or 0.0, _percent_power)
    for number, (block, (happened, predicted, own)) in enumerate(zip(blocks, shares, strict=True)):
        middle = chart.left + step * (number + 0.5)
        apart = min(26.0, step / 4)
        ends = [height for height in (y(happened), y(predicted)) if height is not None]
        if len(ends) == 2:
            chart.lines.append(line([(middle, ends[0]), (middle - apart, ends[1])], "faint"))
        name = words.clean(block.name)
        for shift, value, kind, shape, what in (
            (0.0, happened, "bad", "dot", "flipped"),
            (-apart, predicted, "own", "ring", "predicted"),
            (apart, own, "other", "diamond", "of its own"),
        ):
            height = y(value)
            if height is not None:
                chart.dots.append(
                    Dot(middle + shift, height, f"{name}: {words.share(value)} {what}", kind, shape)
                )
        place, anchor = (middle + 5, "end") if slanted else (middle, "middle")
        text = shortened(name, _BLOCK_LETTERS, end=True) if slanted else name
        chart.texts.append(Text(place, chart.bottom + 18, text, anchor, "ink", slanted))
    return chart


def _percent_power(exponent: int) -> str:
    return f"{10.0 ** (exponent + 2):g} %" if exponent >= -6 else f"1e{exponent + 2} %"


def errors(figures: LayerFigures) -> Chart | None:
    """Errors of the layers in the order of the graph, on a logarithmic scale, beside what rounding explains.

    Names of a few layers alone fit below it; each point has its own for a pointer. None where the graphs have no
    layer in common.
    """
    layers = figures.layers
    if not layers:
        return None
    low, high = decades(value for layer in layers for value in (layer.local, layer.carried, layer.allowed))
    low = max(low, high - 9)
    chart = Chart("Relative error by layer, logarithmic", 980, 392, left=104, top=30, right=966, bottom=278)
    step = (chart.right - chart.left) / len(layers)

    def x(number: int) -> float:
        return chart.left + step * (number + 0.5)

    def y(value: float) -> float:
        if value <= 0:
            return chart.bottom - 8
        place = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return chart.bottom - _LANE - (chart.bottom - _LANE - chart.top) * min(1.0, place)

    chart.levels.append(Text(chart.left - 7, chart.bottom - 8, "none", "end"))
    log_levels(chart, low, high, y, power)
    _allowance(chart, layers, step, y)
    for points in _runs([(x(number), layer.carried) for number, layer in enumerate(layers)]):
        chart.lines.append(line([(place, y(value)) for place, value in points], "other"))
    for number, layer in enumerate(layers):
        title = f"{words.layer(layer)}: {words.error(layer)}"
        if math.isfinite(layer.carried):
            title += f", carried {words.small(layer.carried)}"
        known = math.isfinite(layer.local)
        chart.dots.append(
            Dot(
                x(number),
                y(layer.local) if known else chart.top + 6,
                title,
                "bad" if layer.differs else "own",
                "dot" if known else "cross",
                4.5 if len(layers) <= _FEW_LAYERS else 3.0,
            )
        )
    first = next((k for k, layer in enumerate(layers) if layer == figures.first), None)
    for number in _labelled(len(layers), first, step):
        name = layers[number].module or layers[number].name
        kind = "bad" if number == first else "soft"
        chart.texts.append(
            Text(
                x(number) + 4,
                chart.bottom + 14,
                shortened(words.clean(name), _LABEL_LETTERS, end=True),
                "end",
                kind,
                True,
            )
        )
    if first is not None:
        chart.rule(x(first))
        name = layers[first].module or layers[first].name
        anchor = "start" if x(first) < (chart.left + chart.right) / 2 else "end"
        text = f"first: {shortened(words.clean(name), _FIRST_LETTERS, end=True)}"
        chart.texts.append(Text(x(first), chart.top - 10, text, anchor, "bad"))
    return chart


def _allowance(chart: Chart, layers: Sequence[LayerError], step: float, y: Callable[[float], float]) -> None:
    """What rounding explains: the area below steps, one for each layer."""
    edges: list[tuple[float, float]] = []
    for number, layer in enumerate(layers):
        height = y(layer.allowed) if math.isfinite(layer.allowed) else chart.bottom
        edges += [(chart.left + step * number, height), (chart.left + step * (number + 1), height)]
    chart.lines.append(line(edges, "allowed"))
    chart.areas.append(line([(chart.left, chart.bottom), *edges, (chart.right, chart.bottom)], "allowed"))


def _runs(points: Iterable[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Points in a row that have a value; a point alone is no line."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, value in points:
        if math.isfinite(value):
            runs[-1].append((x, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _labelled(count: int, first: int | None, step: float) -> list[int]:
    """Layers whose names are written: evenly spread, none that would cover the first that differs."""
    spread = np.unique(np.linspace(0, count - 1, min(count, _LAYER_LABELS)).round().astype(int)).tolist()
    if first is None:
        return spread
    return sorted([k for k in spread if abs(k - first) * step > _APART] + [first])
