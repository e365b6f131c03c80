"""How far the bits of a sharp mask are from the threshold, and how many of them a rounding of X should flip."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Bins of `Margins.margins`, over [0, 1/2].
BINS = 20
#: What counts as near the threshold, in units of pi.
NEAR = (0.001, 0.01)
#: Bins of the ratios: `_FINE` to an octave, from 2 ** _LOWEST on. Margins are at most 1/2 and the standard deviation
#: of pi is hardly below FP32's rounding, so that nothing but ties lies below or above.
_FINE = 4
_LOWEST = -24
_RATIOS = 48 * _FINE
#: Values looked at together: eight bytes each, some ten arrays.
_HELD = 1 << 20


@dataclass
class Margins:
    """Margins and roundings of one block, collected batch by batch in bounded memory.

    Margin of a bit: |pi - 1/2| of the reference. Rounding of a bit: pi of the target less pi of the reference.
    Both are in the unit of eq. 3, the span of the bit's own channel, in float64: FP32 has no digits left for
    the difference of two FP32 networks. A channel that is constant on one side has no pi, and counts for nothing.

    Attributes:
        bits: with a margin.
        margins: `(BINS,)` int64 of them by margin.
        near: of them below each of `NEAR`.
        compared: bits with a margin on both sides.
        squares: sum of the squared roundings of those.
    """

    bits: int = 0
    margins: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    near: np.ndarray = field(default_factory=lambda: np.zeros(len(NEAR), np.int64))
    compared: int = 0
    squares: float = 0.0
    _pinned: int = 0
    _scaled_margins: np.ndarray = field(default_factory=lambda: np.zeros(_RATIOS, np.int64))
    _scaled_roundings: np.ndarray = field(default_factory=lambda: np.zeros(_RATIOS, np.int64))
    _exact: int = 0

    def add(self, reference: np.ndarray, target: np.ndarray) -> None:
        """Take in X of both sides, `(n, C, h, w)` each."""
        # (channels of crops, places)
        rows = reference.reshape(-1, reference.shape[2] * reference.shape[3])
        other = target.reshape(rows.shape)
        step = max(1, _HELD // rows.shape[1])
        for start in range(0, len(rows), step):
            self._add(rows[start : start + step], other[start : start + step])

    @property
    def rounding(self) -> float:
        """Root mean square of the roundings; 0 where there are none."""
        return float(np.sqrt(self.squares / self.compared)) if self.compared else 0.0

    def _add(self, reference: np.ndarray, target: np.ndarray) -> None:
        pi, alive = probability(reference)
        margin = np.abs(pi[alive] - 0.5)
        self.bits += margin.size
        self.margins += np.bincount(
            np.minimum((margin.ravel() * (2 * BINS)).astype(np.int64), BINS - 1), minlength=BINS
        )
        self.near += [np.count_nonzero(margin < limit) for limit in NEAR]
        other, both = probability(target)
        both &= alive
        pi, rounding = pi[both], other[both] - pi[both]
        self.compared += rounding.size
        self.squares += float(np.square(rounding).sum())
        self._scale(pi, rounding)

    def _scale(self, pi: np.ndarray, rounding: np.ndarray) -> None:
        # At its channel's minimum or maximum a bit's margin is 1/2 whatever the channel, so that nothing has to
        # be assumed of it. Behind a ReLU these are a good part of all bits, and most of them never move.
        pinned = (pi == 0) | (pi == 1)
        self._pinned += int(np.count_nonzero(pinned & (np.abs(rounding) > 0.5)))
        free = ~pinned
        count = free.sum(1)
        square = np.where(free, np.square(rounding), 0.0).sum(1)
        deviation = np.sqrt(square / np.maximum(count, 1))
        moved = deviation > 0
        free, deviation = free[moved], deviation[moved, None]
        size = np.abs(rounding[moved])
        self._exact += int(np.count_nonzero(free & (size == 0)))
        self._scaled_roundings += _histogram((size / deviation)[free & (size > 0)])
        self._scaled_margins += _histogram((np.abs(pi[moved] - 0.5) / deviation)[free])

    def predict(self) -> float:
        """Flips that the roundings cause if they fall on the bits without regard to the margins.

        How large roundings are differs from channel to channel, as spans do, so each is measured in its
        channel's standard deviation (over the places of one crop); so is each margin. The shape of the
        roundings' distribution is then taken to be that of the whole block, whatever it is: heavy tails of
        carried flips are in it. A bit flips where a rounding is larger than the margin and has the right one of
        two signs: expected flips are half the sum over bits of P(rounding > margin). Bits at their channel's
        minimum or maximum are left out of this: they flip where the rounding exceeds 1/2.

        Only X of both sides goes in, never a mask, so a wrong comparison in the target leaves the prediction
        as it is and moves what happened.
        """
        total = self._scaled_roundings.sum() + self._exact
        if not total:
            return float(self._pinned)
        above = self._scaled_roundings[::-1].cumsum()[::-1] - self._scaled_roundings
        larger = (above + 0.5 * self._scaled_roundings) / total
        return float(self._pinned + 0.5 * (self._scaled_margins * larger).sum())


def probability(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 3 in float64: `(rows, places)` of channels to pi, and `(rows,)` whether a channel is not constant.

    pi of a constant channel is 0, as the network has it.
    """
    x = x.astype(np.float64)
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    span = high - low
    return (x - low) / np.where(span > 0, span, 1.0), span[:, 0] > 0


def _histogram(ratio: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # a tie has the margin 0 and belongs into the lowest bin
        place = np.floor((np.log2(ratio) - _LOWEST) * _FINE)
    return np.bincount(np.clip(place, 0, _RATIOS - 1).astype(np.int64), minlength=_RATIOS)
