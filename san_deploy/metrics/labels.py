"""Which gallery crops are positives of a query, and which do not count."""

from __future__ import annotations

import numpy as np

from ..errors import SanError

#: Person number of a gallery crop of somebody who is never a query (Market-1501 calls it 0).
DISTRACTOR = 0
#: Person number of a crop that counts neither as right nor as wrong (a bad box). Data set readers drop these.
JUNK = -1


class RankingLabels:
    """Market-1501's rule (Zheng et al., ICCV 2015).

    - Gallery crops of the query's person by the query's own camera do not count. A query's own crop may stand
      in the gallery: it has its own person and camera, so it does not count.
    - Junk (person -1) counts for nobody; distractors (person 0) are negatives for everybody, also for
      another 0. Neither is a query that counts.
    - Where no cameras are known, give each crop a camera of its own: then only the crop itself is left out.

    Args:
        query_person: `(Q,)` int.
        gallery_person: `(G,)` int.
        query_camera: `(Q,)` of any comparable type.
        gallery_camera: `(G,)` of the same type.

    Attributes:
        query_person: persons of the queries, as given.
        gallery_person: persons of the gallery, as given.
        junk: `(J,)` int64, gallery crops that count for no query.
        positives: `(Q,)` int64, positives of each query.
        excluded: `(Q,)` int8, why a query has no positive: `NOT_A_PERSON`, `ABSENT` or `SAME_CAMERA`; 0 where
            it has one.
    """

    #: The query is itself a distractor or junk.
    NOT_A_PERSON = 1
    #: The gallery does not hold the query's person.
    ABSENT = 2
    #: Only the query's own camera saw that person.
    SAME_CAMERA = 3

    def __init__(
        self,
        *,
        query_person: np.ndarray,
        gallery_person: np.ndarray,
        query_camera: np.ndarray,
        gallery_camera: np.ndarray,
    ) -> None:
        self.query_person = np.asarray(query_person)
        self.gallery_person = np.asarray(gallery_person)
        if len(query_person) != len(query_camera) or len(gallery_person) != len(gallery_camera):
            raise ValueError("every crop needs a person and a camera")
        cameras, camera = np.unique(np.concatenate([query_camera, gallery_camera]), return_inverse=True)
        _, person = np.unique(np.concatenate([self.query_person, self.gallery_person]), return_inverse=True)
        count, queries = max(1, len(cameras)), len(self.query_person)
        # The gallery sorted by person, then by camera: the crops that a query needs are neighbours.
        place = person * count + camera
        self._order = np.argsort(place[queries:], kind="stable")
        places = place[queries:][self._order]
        first = person[:queries] * count
        self._bounds = np.stack(
            [
                places.searchsorted(first, "left"),
                places.searchsorted(place[:queries], "left"),
                places.searchsorted(place[:queries], "right"),
                places.searchsorted(first + count, "left"),
            ],
            axis=1,
        )
        no_person = (self.query_person == DISTRACTOR) | (self.query_person == JUNK)
        self._bounds[no_person] = 0
        low, same_low, same_high, high = self._bounds.T
        self.junk = np.flatnonzero(self.gallery_person == JUNK)
        self.positives = (high - low) - (same_high - same_low)
        self.excluded = np.select(
            [self.positives > 0, no_person, high == low],
            [0, self.NOT_A_PERSON, self.ABSENT],
            self.SAME_CAMERA,
        ).astype(np.int8)

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""
        return len(self.query_person), len(self.gallery_person)

    def positives_of(self, query: int) -> np.ndarray:
        """`(P,)` int64: gallery crops that are positives."""
        low, same_low, same_high, high = self._bounds[query]
        return np.concatenate([self._order[low:same_low], self._order[same_high:high]])

    def ignored(self, query: int) -> np.ndarray:
        """`(I,)` int64: gallery crops that do not count, junk included."""
        _, same_low, same_high, _ = self._bounds[query]
        return np.concatenate([self._order[same_low:same_high], self.junk])

    def require(self) -> None:
        """Refuse labels by which no query has a positive; SanError says why."""
        if self.positives.any():
            return
        if (self.excluded == self.SAME_CAMERA).any():
            why = "nobody is seen by two cameras"
            do = "where cameras are not known, give each crop a camera of its own"
        elif (self.excluded == self.ABSENT).any():
            why = "queries and gallery have no person in common"
            do = "check that the same number means the same person in both"
        else:
            why = f"there are {len(self.positives)} queries, none of a numbered person"
            do = "number people from 1"
        raise SanError("no query has a right answer in the gallery", why=why, do=do)
