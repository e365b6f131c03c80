"""What a graph makes of pixels before its first product: which colour, less which mean, by which factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ..graph.graph import Graph
from .align import origin, products
from .stages.subgraph import steps

#: Of a channel's variance may be left unexplained; FP16 leaves 1e-7, colours of real crops differ by more.
_LEFT = 1e-4
#: Relative error of normalised pixels that is allowed: FP32, in whatever order.
SLACK_OF_PIXELS = 1e-5
#: The most values of a plane that are fitted.
_MOST = 1 << 16


@dataclass(frozen=True, eq=False)
class PixelForm:
    """What the first product reads.

    Attributes:
        name: of the value.
        value: `(N, 3, H, W)`.
        colours: of its channels, for example `BGR`.
        mean, std: `{colour: value}` of the normalisation, in units of 0..1.
    """

    name: str
    value: np.ndarray
    colours: str
    mean: dict[str, float]
    std: dict[str, float]

    def words(self) -> str:
        """`mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225`, red first."""
        mean, std = (
            ", ".join(f"{values[c]:.4g}" for c in "RGB" if c in values) for values in (self.mean, self.std)
        )
        return f"mean {mean} and std {std}"

    def normalises_like(self, other: PixelForm) -> bool:
        """Whether a colour gets the same values in both, to a thousandth."""
        return all(
            abs(mine[c] - theirs[c]) <= 1e-3 * max(1.0, abs(theirs[c]))
            for mine, theirs in ((self.mean, other.mean), (self.std, other.std))
            for c in theirs
            if c in mine
        )


def pixel_form(
    model: onnx.ModelProto, graph: Graph, feeds: Mapping[str, np.ndarray], images: np.ndarray
) -> PixelForm | None:
    """Fit what the first product reads to the colours of the crops.

    Args:
        model: not changed.
        graph: its `view`.
        feeds: of its inputs, made of `images`.
        images: `(N, H, W, 3)` uint8 BGR.

    Returns:
        None where a channel is no colour times a number plus a number, or the crops are grey.
    """
    first = next(iter(products(graph)), None)
    if first is None:
        return None
    name = origin(graph, first[1].input[0])
    (values,) = steps(model, graph, feeds, [[name]])
    value = values[name].astype(np.float64)
    if value.shape != (len(images), 3, *images.shape[1:3]) or not np.isfinite(value).all():
        return None
    colours, mean, std = "", {}, {}
    for channel in range(3):
        fits = [(*_fit(images[..., place], value[:, channel]), colour) for place, colour in enumerate("BGR")]
        left, factor, offset, colour = min(fits)
        if not left <= _LEFT or factor == 0 or sorted(fits)[1][0] <= _LEFT:
            return None
        colours += colour
        mean[colour], std[colour] = -offset / factor / 255, 1 / factor / 255
    return PixelForm(name, values[name], colours, mean, std) if len(mean) == 3 else None


def another_normalisation(theirs: PixelForm, mine: PixelForm) -> str:
    """Say it."""
    return f"the normalisation is another one: {mine.words()}, the reference has {theirs.words()}"


def _fit(pixels: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Least squares: the share of variance that is left, factor, offset."""
    every = max(1, pixels.size // _MOST)
    x, y = pixels.reshape(-1)[::every].astype(np.float64), values.reshape(-1)[::every]
    spread, total = x.var(), y.var()
    if spread == 0 or total == 0:
        return 1.0, 0.0, 0.0
    factor = float(((x - x.mean()) * (y - y.mean())).mean() / spread)
    offset = float(y.mean() - factor * x.mean())
    return float(np.square(y - factor * x - offset).mean() / total), factor, offset
