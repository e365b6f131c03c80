"""What steers distillation, as parts of a recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewSettings:
    """How views are drawn.

    Attributes:
        each: views of each crop. The first of them is the crop as it is.
        area: range of the cut-out's share of the crop's area.
        flip: probability of a horizontal flip.
        composite: probability of another person's lower or upper half, of a crop of the same camera.
        garment: probability that the garments are given other colours, the upper and the lower one apart.
        personas: in how many each person's crops are parted for such a view: all cameras' crops of one part wear
            the same (`personas.Cast`).
    """

    each: int = 6
    area: tuple[float, float] = (0.72, 1.0)
    flip: float = 0.5
    composite: float = 0.25
    garment: float = 0.4
    personas: int = 8


@dataclass(frozen=True)
class DistillSettings:
    """Weights of the terms, and what the target is.

    Attributes:
        row: of 1 - cosine with the target.
        similarity: of the squared error of the batch's cosines.
        neighbours: of the divergence of their softmax at temperature 0.1: who is near whom.
        maps: of the squared error of the teacher's maps, through a layer that training alone has; stages 3 and 4
            learn the last map, stages 2 and 1 the two before it. A part of the maps' variance, mean over stages.
        centre: take each camera's mean row out of the target.
        shared: how far a target is the mean of its persona over its cameras, 0..1, instead of the teacher's answer to
            that very view: what differs between cameras there is no trait of the person.
        whiten: makes small in the target what differs between cameras for one persona (`lesson.targets`): the ridge
            of the covariance as a part of its mean variance; 0 leaves it out, as does a set of one camera.
        together: views of one persona in a batch, if it has so many; of different cameras first.
        share: part of each batch from each data set, in order; empty draws over all views alike.
        batch: views in a batch.
    """

    row: float = 2.0
    similarity: float = 10.0
    neighbours: float = 0.5
    maps: float = 3.5
    centre: bool = True
    shared: float = 0.7
    whiten: float = 1.0
    together: int = 2
    share: tuple[float, ...] = ()
    batch: int = 64


def check(views: ViewSettings, distill: DistillSettings) -> None:
    """Raise ValueError where a value is out of its range."""
    if min(views.each, views.personas, distill.together) < 1 or distill.batch < 2:
        raise ValueError(
            "views.each, views.personas and distill.together are at least 1, distill.batch at least 2"
        )
    if not 0 <= distill.shared <= 1 or distill.whiten < 0:
        raise ValueError("distill.shared is 0 to 1, distill.whiten at least 0")
    if len(views.area) != 2 or not 0 < views.area[0] <= views.area[1] <= 1:
        raise ValueError("views.area is two ascending numbers in (0, 1]")
    if any(not 0 <= part <= 1 for part in (views.flip, views.composite, views.garment)):
        raise ValueError("views.flip, views.composite and views.garment are probabilities")
    weights = (distill.row, distill.similarity, distill.neighbours, distill.maps)
    if min(weights) < 0 or max(weights) <= 0:
        raise ValueError("the weights of distill are at least 0, and not all 0")
    if distill.share and (min(distill.share) < 0 or sum(distill.share) <= 0):
        raise ValueError("distill.share holds parts of a batch, none below 0")
