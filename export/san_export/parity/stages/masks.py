"""Flipped bits: the sharp masks of a target against those of its reference, block by block.

A bit is a step function of pi (eq. 3): it flips where rounding moves pi across 1/2. `Margins` measures how far the
bits are from there and how far rounding moves them, and with it how many flips rounding explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..result import BlockFlips, CropMasks, MaskFigures
from .probes import BlockValues, MaskProbe

#: How many of the worst channels and places are named.
_NAMED = 5
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


def compare_masks(
    reference: MaskProbe,
    target: MaskProbe,
    images: np.ndarray,
    names: Sequence[str],
    cosine: np.ndarray,
    *,
    mask: str,
    batch: int = 4,
    worst: int = 4,
) -> MaskFigures:
    """Run both networks over the crops, batch by batch, and compare every sharp block that both have.

    A bit of an argmax mask is flipped where the two masks differ; a ramp or an expected mask counts as the bits
    M > 1/2.

    Args:
        reference: what is right.
        target: another form of the same network.
        images: `(N, H, W, 3)` uint8 BGR.
        names: N names.
        cosine: `(N,)`, of each crop's row with the reference's: which crops are the worst.
        mask: of the target, as in `Artefact.mask`.
        batch: crops per run, which bounds the memory.
        worst: crops to give pictures of.

    Returns:
        The figures. Blocks that one of the two lacks are named in `missing`.

    Raises:
        SanError: a network does not run.
    """
    sharp = mask == "argmax"
    blocks: list[_Block] = []
    pairs: list[tuple[int, int]] = []
    binary = True
    # NaN, which a broken target gives, is worse than any number.
    ranked = np.argsort(np.where(np.isnan(cosine), -np.inf, cosine), kind="stable")[:worst].tolist()
    shown: dict[int, CropMasks] = {}
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        found, other = reference(part), target(part)
        if not start:
            pairs = _pair_blocks(found, other)
            blocks = [_Block(reference.blocks[index], sharp=sharp) for index, _ in pairs]
        binary &= all(bool(np.isin(values.mask, (0, 1)).all()) for values in other)
        for block, (index, place) in zip(blocks, pairs, strict=True):
            block.add(found[index], other[place], target.redraw(place, found[index].x))
        for crop in ranked:
            if blocks and start <= crop < start + batch:
                row = crop - start
                shown[crop] = CropMasks(
                    names[crop],
                    float(cosine[crop]),
                    images[crop].copy(),
                    tuple(found[index].mask[row].mean(0) for index, _ in pairs),
                    tuple(other[place].mask[row].mean(0) for _, place in pairs),
                    tuple(block.flipped[row].sum(0, dtype=np.int64) for block in blocks),
                )
    in_both = {index for index, _ in pairs}, {place for _, place in pairs}
    return MaskFigures(
        mask,
        tuple(block.figures() for block in blocks),
        tuple(shown[crop] for crop in ranked if crop in shown),
        binary=binary,
        missing=tuple(name for index, name in enumerate(reference.blocks) if index not in in_both[0]),
        added=tuple(name for place, name in enumerate(target.blocks) if place not in in_both[1]),
    )


def _pair_blocks(reference: Sequence[BlockValues], target: Sequence[BlockValues]) -> list[tuple[int, int]]:
    """Blocks in the order of the network, each with the next one of the target whose mask has its size."""
    pairs: list[tuple[int, int]] = []
    for index, values in enumerate(reference):
        for place in range(pairs[-1][1] + 1 if pairs else 0, len(target)):
            if target[place].mask.shape == values.mask.shape:
                pairs.append((index, place))
                break
    return pairs


class _Block:
    """What one block adds up to."""

    def __init__(self, name: str, *, sharp: bool) -> None:
        self.name = name
        self.sharp = sharp
        self.flipped = np.zeros((0, 0, 0, 0), bool)  # of the last batch
        self.counts = np.zeros((0, 0, 0), np.int64)  # (C, h, w)
        self.bits = 0
        self.difference = 0.0
        self.own = 0
        self.margins = Margins()

    def add(self, reference: BlockValues, target: BlockValues, redrawn: np.ndarray) -> None:
        self.flipped = self._flips(reference.mask, target.mask)
        if not self.bits:
            self.counts = np.zeros(self.flipped.shape[1:], np.int64)
        self.counts += self.flipped.sum(0)
        self.bits += self.flipped.size
        self.difference += float(np.abs(target.mask - reference.mask).sum(dtype=np.float64))
        self.own += int(np.count_nonzero(self._flips(reference.mask, redrawn)))
        self.margins.add(reference.x, target.x)

    def figures(self) -> BlockFlips:
        by_channel, by_place = self.counts.sum((1, 2)), self.counts.sum(0)
        margins, counted = self.margins, max(self.margins.bits, 1)
        channels, height, width = self.counts.shape
        return BlockFlips(
            name=self.name,
            channels=channels,
            height=height,
            width=width,
            bits=self.bits,
            flipped=int(self.counts.sum()),
            predicted=margins.predict(),
            own=self.own,
            mean_abs=self.difference / max(self.bits, 1),
            rounding=margins.rounding,
            margins=margins.margins / counted,
            near=(float(margins.near[0] / counted), float(margins.near[1] / counted)),
            by_channel=by_channel,
            by_place=by_place,
            worst_channels=tuple((place, flips) for (place,), flips in _most(by_channel)),
            worst_places=tuple((row, column, flips) for (row, column), flips in _most(by_place)),
        )

    def _flips(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return one != other if self.sharp else (one > 0.5) != (other > 0.5)


def _most(flips: np.ndarray) -> list[tuple[tuple[int, ...], int]]:
    """The places with most flips, the worst first, those without any left out."""
    order = np.argsort(-flips, axis=None, kind="stable")[:_NAMED]
    places = zip(*np.unravel_index(order, flips.shape), strict=True)
    return [(tuple(int(part) for part in place), int(flips[place])) for place in places if flips[place] > 0]


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
        """Flips that the roundings cause if they fall on the bits whatever their margins.

        How large roundings are differs from channel to channel, as spans do, so each is measured in its
        channel's standard deviation (over the places of one crop); so is each margin. The shape of the
        roundings' distribution is then taken to be that of the whole block, whatever it is: heavy tails of
        carried flips are in it. A bit flips where a rounding is larger than the margin and has the right one of
        two signs: expected flips are half the sum over bits of P(rounding > margin). Bits at their channel's
        minimum or maximum are left out of this: they flip where the rounding exceeds 1/2.

        Only X of both sides goes in, never a mask, so a wrong comparison in the target leaves the prediction
        as it is and changes the flips.
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
