"""Who is shown by a view: a person as dressed, one in clothes of other colours, or the halves of two people.

What a persona wears is drawn once and shown by every camera that saw its person. So a few people before a few cameras
become a thousand, each of whom several real cameras saw: what a network needs to tell a person from a camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from san_deploy.datasets import DISTRACTOR, Crop

from .settings import ViewSettings

#: Who somebody is: a data set with a person, or with a camera and a tracklet that nobody named.
_Key = tuple[int, int] | tuple[int, str, str]


@dataclass(frozen=True)
class Persona:
    """Whom views show.

    Attributes:
        name: equal for views of one persona alone.
        partner: whose other half it wears, a number of `Cast`; None where it is of one person.
        above: whether the upper half is the crop's own.
        garments: seed of the garments' colours; None leaves them.
    """

    name: str
    partner: int | None = None
    above: bool = True
    garments: tuple[int, ...] | None = None


class Cast:
    """The personas of a set of crops.

    Args:
        crops: of all people.
        domain: `(N,)` the data set that each is from. Nobody wears clothes of another data set.
        settings: how often halves and garments change, and in how many personas each person's crops are parted.
        seed: of all draws.
    """

    def __init__(
        self, crops: Sequence[Crop], domain: Sequence[int], settings: ViewSettings, seed: int
    ) -> None:
        self._settings, self._seed = settings, seed
        self._camera = [crop.camera for crop in crops]
        keys: dict[_Key, int] = {}
        self._person: list[int] = []
        self._place: list[int] = []
        self._seen: list[dict[str, list[int]]] = []
        of_domain: dict[int, list[int]] = {}
        seen_in_track: dict[tuple[int, str, str], int] = {}
        for number, (crop, where) in enumerate(zip(crops, domain, strict=True)):
            named = crop.person > DISTRACTOR
            key: _Key = (where, crop.person) if named else (where, crop.camera, crop.track)
            if key not in keys:
                keys[key] = len(keys)
                self._seen.append({})
                of_domain.setdefault(where, []).append(keys[key])
            person = keys[key]
            self._person.append(person)
            self._seen[person].setdefault(crop.camera, []).append(number)
            track = (person, crop.camera, crop.track)
            self._place.append(seen_in_track.get(track, 0))
            seen_in_track[track] = self._place[-1] + 1
        # Halves go together where every camera that saw the one saw the other.
        self._partners = {
            person: [
                other
                for other in people
                if other != person and self._seen[person].keys() <= self._seen[other].keys()
            ]
            for people in of_domain.values()
            for person in people
        }

    def persona(self, number: int, crop: int) -> Persona:
        """Whom view `number` of a crop shows; view 0 is the crop as it is."""
        person = self._person[crop]
        plain = Persona(f"{person}")
        if not number:
            return plain
        part = self._place[crop] % self._settings.personas
        rng = np.random.default_rng([self._seed, number, person, part, 6])
        partner, above, garments = None, bool(rng.random() < 0.5), None
        if rng.random() < self._settings.composite and self._partners[person]:
            partner = int(rng.choice(self._partners[person]))
        if rng.random() < self._settings.garment:
            garments = (self._seed, number, person, part, 7)
        if partner is None and garments is None:
            return plain
        return Persona(f"{person}/{number}/{part}", partner, above, garments)

    def crop_of(self, partner: int, crop: int, rng: np.random.Generator) -> int:
        """A crop of somebody else by the camera of this one."""
        return int(rng.choice(self._seen[partner][self._camera[crop]]))
