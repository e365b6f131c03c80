"""Identity-balanced batches: P people x K crops, the K drawn over cameras.

Every draw derives from (seed, epoch), so a resumed run sees the batches that an unbroken one would have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from san_deploy.datasets import Crop


class IdentitySampler:
    """Batches of indices into `crops`.

    Args:
        crops: the training crops.
        num_ids: P, identities in a batch.
        num_instances: K, crops of each.
        seed: of all draws.
        domain: `(N,)` int, the data set that each crop is from; with `share` each batch takes a fixed part
            of its people from each data set, however unequal their sizes.
        share: part of P for each data set; None draws over all people alike.
    """

    def __init__(
        self,
        crops: Sequence[Crop],
        *,
        num_ids: int,
        num_instances: int,
        seed: int,
        domain: Sequence[int] | None = None,
        share: Sequence[float] | None = None,
    ) -> None:
        self.num_ids, self.num_instances, self.seed = num_ids, num_instances, seed
        domain = [0] * len(crops) if domain is None else domain
        by_person: dict[tuple[int, int], dict[str, list[int]]] = {}
        for index, (crop, where) in enumerate(zip(crops, domain, strict=True)):
            by_person.setdefault((where, crop.person), {}).setdefault(crop.camera, []).append(index)
        self._cameras = by_person
        domains = sorted({where for where, _ in by_person})
        self._pools = [sorted(key for key in by_person if key[0] == where) for where in domains]
        if share is None:
            self._pools, self._take = [sorted(by_person)], [num_ids]
        else:
            if len(share) != len(domains):
                raise ValueError(f"share has {len(share)} parts for {len(domains)} data sets")
            take = [round(num_ids * part / sum(share)) for part in share]
            take[0] += num_ids - sum(take)
            self._take = take
        self.crops = len(crops)

    def steps(self) -> int:
        """Batches after which as many crops were drawn as there are."""
        return max(1, self.crops // (self.num_ids * self.num_instances))

    def epoch(self, epoch: int, steps: int) -> list[list[int]]:
        """`steps` batches of P * K indices for one epoch."""
        rng = np.random.default_rng([self.seed, epoch, 1])
        streams = [_cycle(pool, rng) for pool in self._pools]
        batches = []
        for _ in range(steps):
            batch: list[int] = []
            for stream, take in zip(streams, self._take, strict=True):
                for key in stream(take):
                    batch.extend(self._draw(self._cameras[key], rng))
            batches.append(batch)
        return batches

    def _draw(self, cameras: dict[str, list[int]], rng: np.random.Generator) -> list[int]:
        """K crops of one person: cameras in turn, from a random one on, so that most pairs cross cameras."""
        names = list(cameras)
        order = [names[i] for i in rng.permutation(len(names))]
        picks: list[int] = []
        wanted = {name: 0 for name in names}
        for k in range(self.num_instances):
            wanted[order[k % len(order)]] += 1
        for name, count in wanted.items():
            pool = cameras[name]
            chosen = rng.choice(len(pool), size=count, replace=count > len(pool))
            picks.extend(pool[int(i)] for i in chosen)
        return picks


def _cycle(pool: list[tuple[int, int]], rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Returns `take(n)`: n different people (as far as there are n), all coming up equally often."""
    queue: list[tuple[int, int]] = []

    def take(count: int) -> list[tuple[int, int]]:
        picked: list[tuple[int, int]] = []
        while len(picked) < count:
            if not queue:
                queue.extend(pool[int(i)] for i in rng.permutation(len(pool)))
            candidate = next((key for key in queue if key not in picked), None)
            if candidate is None:
                if len(set(picked)) >= len(pool):
                    candidate = queue[0]  # fewer people than P: some come twice
                else:
                    queue.extend(pool[int(i)] for i in rng.permutation(len(pool)))
                    continue
            queue.remove(candidate)
            picked.append(candidate)
        return picked

    return take
