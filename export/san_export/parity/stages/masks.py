"""Flipped bits: the sharp masks of a target against those of its reference, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from san_deploy.errors import SanError

from ..result import BlockFlips, CropMasks, MaskFigures
from .margins import Margins
from .probes import BlockValues, Forcible, MaskProbe

#: How many of the worst channels and places are named.
_NAMED = 5


def compare_masks(
    reference: MaskProbe,
    target: MaskProbe,
    images: np.ndarray,
    names: Sequence[str],
    cosine: np.ndarray,
    *,
    mask: str,
    batch: int = 16,
    worst: int = 4,
) -> MaskFigures:
    """Run both networks over the crops, batch by batch, and compare every sharp block.

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
        The figures, without certificates. No blocks where the network has no sharp attention.

    Raises:
        SanError: the two have different blocks, or do not run.
    """
    if len(reference.blocks) != len(target.blocks):
        raise SanError(
            f"the reference has {len(reference.blocks)} sharp blocks, the target {len(target.blocks)}",
            do="compare two forms of the same network",
        )
    blocks = [_Block(name, sharp=mask == "argmax") for name in reference.blocks]
    # NaN, which a broken target gives, is worse than any number.
    ranked = np.argsort(np.where(np.isnan(cosine), -np.inf, cosine), kind="stable")[:worst].tolist()
    shown: dict[int, CropMasks] = {}
    if blocks:
        for start, found, other in _batches(reference, target, images, batch):
            for index, block in enumerate(blocks):
                block.add(found[index], other[index])
                if isinstance(target, Forcible):
                    block.add_own(found[index].mask, target.forced(index, found[index].x))
            for place in ranked:
                if start <= place < start + batch:
                    flips = [block.flipped[place - start] for block in blocks]
                    shown[place] = CropMasks(
                        names[place],
                        float(cosine[place]),
                        images[place].copy(),
                        tuple(values.mask[place - start].mean(0) for values in found),
                        tuple(values.mask[place - start].mean(0) for values in other),
                        tuple(flip.sum(0, dtype=np.int64) for flip in flips),
                    )
    return MaskFigures(
        mask, tuple(block.figures() for block in blocks), tuple(shown[place] for place in ranked if shown)
    )


def predict(margins: Margins) -> float:
    """Flips that the target's rounding of pi predicts from the reference's margins alone: `Margins.predict`."""
    return margins.predict()


def _batches(
    reference: MaskProbe, target: MaskProbe, images: np.ndarray, batch: int
) -> Iterator[tuple[int, list[BlockValues], list[BlockValues]]]:
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        found, other = reference(part), target(part)
        for name, ours, theirs in zip(reference.blocks, found, other, strict=True):
            if ours.mask.shape != theirs.mask.shape:
                raise SanError(
                    f"block {name} has {ours.mask.shape[1:]} bits in the reference, {theirs.mask.shape[1:]} "
                    "in the target",
                    do="compare two forms of the same network",
                )
        yield start, found, other


class _Block:
    """What one block adds up to."""

    def __init__(self, name: str, *, sharp: bool) -> None:
        self.name = name
        self.sharp = sharp
        self.flipped = np.zeros((0, 0, 0, 0), bool)  # of the last batch
        self.counts = np.zeros((0, 0, 0), np.int64)  # (C, h, w)
        self.bits = 0
        self.difference = 0.0
        self.own = -1
        self.margins = Margins()

    def add(self, reference: BlockValues, target: BlockValues) -> None:
        self.flipped = self._flips(reference.mask, target.mask)
        if not self.bits:
            self.counts = np.zeros(self.flipped.shape[1:], np.int64)
        self.counts += self.flipped.sum(0)
        self.bits += self.flipped.size
        self.difference += float(np.abs(target.mask - reference.mask).sum(dtype=np.float64))
        self.margins.add(reference.x, target.x)

    def add_own(self, reference: np.ndarray, forced: np.ndarray) -> None:
        self.own = max(self.own, 0) + int(np.count_nonzero(self._flips(reference, forced)))

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
            predicted=predict(margins),
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
