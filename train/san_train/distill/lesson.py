"""What a student is told of each view, and the terms of the loss that say how far it is from that.

The target is the teachers' row less the mean of its camera, and mostly the mean of its persona over all cameras: what
a camera adds, to everybody or to one person's clothes, is no trait of anybody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from san_deploy.datasets import Crop
from san_deploy.errors import SanError

from ..models import Outputs
from .settings import DistillSettings
from .views import TaughtViews

#: TaughtViews that the scale of the maps is taken from.
_SAMPLE = 1500
#: Which of a student's stages, from the first, learns which of the teacher's maps, the last map first.
_STAGES = ((3, 0), (2, 0), (1, 1), (0, 2))


class Lesson(nn.Module):
    """Targets of views, and the layers between a student's maps and the teacher's.

    Args:
        views: of the training crops alone.
        crops: those.
        domain: `(N,)` the data set that each crop is from.
        settings: see `DistillSettings`.
        channels: of the student's stages, in order; empty for a network that shows no maps.
        embedding_dim: of the student.
    """

    turn: Tensor

    def __init__(
        self,
        views: TaughtViews,
        crops: Sequence[Crop],
        domain: Sequence[int],
        settings: DistillSettings,
        *,
        channels: Sequence[int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.views, self.settings = views, settings
        where = np.array([domain[crop] for crop in views.crop], np.int64)
        groups = np.array([f"{domain[crop]}/{crops[crop].camera}" for crop in views.crop])
        # What axes the target has is free: a network that comes with axes of its own keeps them, see `turn_onto`.
        self.register_buffer("turn", torch.eye(embedding_dim))
        self._camera = np.unique(groups, return_inverse=True)[1].reshape(-1)
        self._by_persona = np.argsort(views.persona, kind="stable")
        sorted_personas = views.persona[self._by_persona]
        self._from = np.searchsorted(sorted_personas, views.persona, side="left")
        self._to = np.searchsorted(sorted_personas, views.persona, side="right")
        self._pools = [np.flatnonzero(where == number) for number in range(max(domain) + 1)]
        if settings.share and len(settings.share) != len(self._pools):
            raise SanError(f"distill.share has {len(settings.share)} parts for {len(self._pools)} data sets")
        asked = settings.share or [1.0] * len(self._pools)
        for number, (part, pool) in enumerate(zip(asked, self._pools, strict=True), 1):
            if part and not len(pool):
                raise SanError(
                    f"{views.folder} holds no view of data set {number}",
                    do="have them made again (--teacher FILE), or leave that data out",
                )
        share = np.array(settings.share or [len(pool) for pool in self._pools], np.float64)
        self._share = share / share.sum()
        self.target = targets(
            views,
            groups,
            embedding_dim,
            centred=groups if settings.centre else where.astype(str),
            weight=self._share[where] / np.bincount(where)[where],
            shared=settings.shared,
            whiten=settings.whiten,
        )
        self._pairs = [
            (stage, level) for stage, level in _STAGES if stage < len(channels) and level < len(views.maps)
        ]
        if not settings.maps:
            self._pairs = []
        self.adapters = nn.ModuleDict(
            {
                f"stage{stage + 1}": nn.Conv2d(channels[stage], views.maps[level].shape[1], 1)
                for stage, level in self._pairs
            }
        )
        for adapter in self.adapters.values():
            # From nothing: they are learned before they teach, so that a network that was there is not shaken.
            nn.init.zeros_(adapter.weight)  # type: ignore[arg-type]
            nn.init.zeros_(adapter.bias)  # type: ignore[arg-type]
        chosen = np.sort(np.random.default_rng(0).permutation(views.index)[:_SAMPLE])
        self._scale: list[tuple[np.ndarray, float]] = []
        for level in range(len(views.maps)):
            sample = np.asarray(views.maps[level][chosen], np.float32)
            self._scale.append((sample.mean((0, 2, 3), keepdims=True)[0], float(sample.std()) or 1.0))

    def turn_onto(self, rows: np.ndarray, views: np.ndarray) -> None:
        """Turn the target to the axes of a network that has learned already (orthogonal Procrustes problem).

        Angles between targets stay. Without this a network that goes on with other crops would first forget its axes.

        Args:
            rows: `(N, D)` float32, what the network says of N views.
            views: `(N,)` their numbers.
        """
        left, _, right = np.linalg.svd(self.target[views].T.astype(np.float64) @ rows)
        self.turn.copy_(torch.from_numpy((left @ right).astype(np.float32)))

    def plain(self, count: int) -> np.ndarray:
        """`(count,)` at most: numbers of views that are crops as they are, evenly over all."""
        first = np.flatnonzero(self.views.first)
        return first[:: max(1, len(first) // count)][:count]

    def steps(self) -> int:
        """Batches after which as many views were drawn as there are."""
        return max(1, len(self.views) // self.settings.batch)

    def plan(self, epoch: int, steps: int, seed: int) -> list[list[int]]:
        """`steps` batches of numbers of views for one epoch, derived from (seed, epoch)."""
        rng = np.random.default_rng([seed, epoch, 11])
        batches = []
        for _ in range(steps):
            counts = rng.multinomial(self.settings.batch, self._share)
            picked = [
                self._drawn(pool, int(count), rng)
                for pool, count in zip(self._pools, counts, strict=True)
                if count
            ]
            batches.append(rng.permutation(np.concatenate(picked)).tolist())
        return batches

    def _drawn(self, pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """`(count,)` views of a pool, `together` of each persona where it has so many."""
        together = min(self.settings.together, count)
        first = rng.choice(pool, -(-count // together), replace=count > len(pool))
        groups = [[view, *self._companions(view, together - 1, rng)] for view in first.tolist()]
        return np.array([view for place in zip(*groups, strict=True) for view in place], np.int64)[:count]

    def _companions(self, view: int, count: int, rng: np.random.Generator) -> list[int]:
        """Views of the same persona, of other cameras first; views again where there are too few."""
        same = self._by_persona[self._from[view] : self._to[view]]
        order = rng.permutation(same[same != view])
        far = self._camera[order] != self._camera[view]
        found = [*order[far].tolist(), *order[~far].tolist()] or [view]
        return [found[number % len(found)] for number in range(count)]

    def terms(self, out: Outputs, batch: Sequence[int]) -> dict[str, Tensor]:
        """The weighted terms of the loss for one batch, each a scalar with a gradient."""
        settings = self.settings
        heads = [F.normalize(head.identity.float(), dim=1) for head in out.heads]
        row = torch.cat(heads, 1) / len(heads) ** 0.5
        wanted = torch.from_numpy(self.target[list(batch)]).to(row.device) @ self.turn
        terms: dict[str, Tensor] = {}
        if settings.row:
            terms["row"] = settings.row * (1 - (row * wanted).sum(1)).mean()
        mine, theirs = row @ row.T, wanted @ wanted.T
        if settings.similarity:
            terms["similarity"] = settings.similarity * (mine - theirs).square().mean()
        if settings.neighbours and len(batch) > 1:
            terms["neighbours"] = settings.neighbours * neighbours(mine, theirs)
        if self._pairs:
            terms["maps"] = settings.maps * self._maps(out.maps, batch)
        return terms

    def _maps(self, maps: Sequence[Tensor], batch: Sequence[int]) -> Tensor:
        places = self.views.index[list(batch)]
        losses = []
        for stage, level in self._pairs:
            mean, deviation = self._scale[level]
            stored = (np.asarray(self.views.maps[level][places], np.float32) - mean) / np.float32(deviation)
            wanted = torch.from_numpy(stored).to(maps[stage].device)
            given = self.adapters[f"stage{stage + 1}"](maps[stage].float())
            size = min(given.shape[2], wanted.shape[2]), min(given.shape[3], wanted.shape[3])
            given, wanted = F.adaptive_avg_pool2d(given, size), F.adaptive_avg_pool2d(wanted, size)
            losses.append(F.mse_loss(given, wanted) / wanted.var().clamp_min(0.02))
        return torch.stack(losses).mean()


def targets(
    views: TaughtViews,
    cameras: np.ndarray,
    dim: int,
    *,
    centred: np.ndarray,
    weight: np.ndarray,
    shared: float,
    whiten: float,
) -> np.ndarray:
    """What a student's unit rows are to be: the teachers' rows without what cameras put into them, in `dim` numbers.

    1. Each teacher's unit rows lose the mean of their group (a camera), taken over crops as they are; teachers count
       alike.
    2. Directions in which one persona differs from camera to camera are made small: within-class covariance
       normalisation (Hatch and Stolcke, ICASSP 2006), a class being a persona and a sample a camera's mean.
    3. Each row goes the part `shared` of the way to the mean of its persona, in which each camera counts alike.
    4. The main axes of all views are kept.

    All is of these views alone, which hold nobody who is held out.

    Args:
        views: of the training crops.
        cameras: `(N,)` by which camera each is.
        dim: of the result.
        centred: `(N,)` what is centred together.
        weight: `(N,)` how much each counts in steps 2 and 4: many drawn people are not to outvote a few real ones.
        shared: 0..1.
        whiten: the covariance's ridge, as a part of its mean variance; 0 leaves step 2 out.

    Returns:
        `(N, dim)` float32 unit rows.
    """
    parts = []
    for rows in views.rows:
        less = np.zeros_like(rows)
        for group in np.unique(centred):
            mine = centred == group
            # Composites and other garments are drawn evenly over people; still, the camera is what it is.
            plain = mine & views.first
            less[mine] = rows[mine] - rows[plain if plain.any() else mine].mean(0)
        parts.append(less / max(float(np.sqrt(np.square(less).sum(1).mean())), 1e-12))
    rows = np.concatenate(parts, 1)
    means, deviations, view = _over_cameras(rows, views.persona, cameras)
    if whiten and len(view):
        turn = _whitening(deviations, weight[view], whiten)
        rows, means = rows @ turn, means @ turn
    rows = (1 - np.float32(shared)) * rows + np.float32(shared) * means
    _, axes = np.linalg.eigh((rows.T * weight) @ rows)
    kept = (rows @ axes[:, ::-1][:, :dim]).astype(np.float32)
    if kept.shape[1] < dim:
        kept = np.pad(kept, ((0, 0), (0, dim - kept.shape[1])))
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-6)


def _over_cameras(
    rows: np.ndarray, persona: np.ndarray, cameras: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What one persona is to several cameras.

    Returns:
        `(N, D)`, for each row the mean of its persona's cameras' means; `(M, D)`, how the mean of a camera differs from
        that, for personas that several cameras saw; `(M,)`, a row of each of those.
    """
    number = np.unique(cameras, return_inverse=True)[1].reshape(-1)
    seen, first, of_row = np.unique(
        persona * (number.max() + 1) + number, return_index=True, return_inverse=True
    )
    of_row = of_row.reshape(-1)
    by_camera = _means(rows, of_row, len(seen))
    names, of_seen = np.unique(seen // (number.max() + 1), return_inverse=True)
    of_seen = of_seen.reshape(-1)
    by_persona = _means(by_camera, of_seen, len(names))
    several = np.bincount(of_seen)[of_seen] > 1
    return by_persona[of_seen[of_row]], (by_camera - by_persona[of_seen])[several], first[several]


def _whitening(deviations: np.ndarray, weight: np.ndarray, ridge: float) -> np.ndarray:
    """`(D, D)` float32: inverse root of the weighted covariance of `(M, D)` deviations with a ridge on it."""
    covariance = (deviations.T * (weight / weight.sum())) @ deviations
    values, axes = np.linalg.eigh(covariance)
    values = values.clip(0) + max(ridge * values.clip(0).mean(), 1e-12)
    return ((axes / np.sqrt(values)) @ axes.T).astype(np.float32)


def _means(rows: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """`(count, D)` float32 means of the rows of each group."""
    total = np.zeros((count, rows.shape[1]), np.float32)
    np.add.at(total, group, rows)
    return total / np.bincount(group, minlength=count)[:, None].astype(np.float32)


def neighbours(mine: Tensor, theirs: Tensor, temperature: float = 0.1) -> Tensor:
    """Divergence of two `(N, N)` tables of cosines as distributions over the others of the batch, a scalar >= 0."""
    itself = torch.eye(len(mine), dtype=torch.bool, device=mine.device)
    student = F.log_softmax((mine / temperature).masked_fill(itself, -1e4), 1)
    teacher = F.softmax((theirs / temperature).masked_fill(itself, -1e4), 1)
    return F.kl_div(student, teacher, reduction="batchmean")
