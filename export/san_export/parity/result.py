"""What a parity run found: figures, and apart from them what they had to reach.

Every stage of a run is a `Stage`. Its `figures` are one of the classes below, plain data that the table, the JSON,
the page and the JUnit file are made of; its `checks` are the figures that a gate asks something of.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: The stages, in the order they run: the first three give the verdict, the others look inside to say where.
STAGES = ("artefact", "embeddings", "ranking", "preprocessing", "masks", "layers")
#: Those that look inside: they fail a target only where its embeddings or its ranking fail, too.
INSIDE = frozenset({"preprocessing", "masks", "layers"})


@dataclass(frozen=True)
class Check:
    """One figure and its gate.

    Attributes:
        gate: name of the gate, as `--gate NAME=VALUE` takes it, for example `min_cosine`.
        value: what was measured.
        limit: what it had to reach.
        at_least: whether `value` must be at least `limit`; else at most.
        message: one sentence for people: what was measured, where it was worst.
        decides: whether missing the gate fails the target; else it is a note on a target that passes.
    """

    gate: str
    value: float
    limit: float
    at_least: bool
    message: str
    decides: bool = True

    @property
    def excess(self) -> float:
        """How far the figure is beyond its limit, above 0 where it misses it; infinite for NaN."""
        excess = self.limit - self.value if self.at_least else self.value - self.limit
        return math.inf if math.isnan(excess) else excess

    @property
    def passed(self) -> bool:
        """Written so that NaN fails."""
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: one of `STAGES`.
        figures: what was measured; None where the stage did not run.
        checks: in the order they are shown.
        skipped: why the stage did not run; empty where it did.
        notes: further lines for people: what a figure means here, what was left out.
        seconds: it took.
    """

    name: str
    figures: (
        ArtefactFigures
        | PreprocessingFigures
        | EmbeddingFigures
        | MaskFigures
        | LayerFigures
        | RankingFigures
        | None
    )
    checks: tuple[Check, ...] = ()
    skipped: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def failed(self) -> list[Check]:
        """The checks that miss their gate and decide."""
        return [check for check in self.checks if check.decides and not check.passed]

    @property
    def noted(self) -> list[Check]:
        """The checks that miss their gate while the target's embeddings and ranking hold theirs."""
        return [check for check in self.checks if not check.decides and not check.passed]

    @property
    def passed(self) -> bool:
        """Whether every gate that decides holds; a stage that did not run passes."""
        return not self.failed

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, arrays left out."""
        return {
            "name": self.name,
            "passed": self.passed,
            "skipped": self.skipped,
            "checks": [_value(asdict(check)) | {"passed": check.passed} for check in self.checks],
            "notes": list(self.notes),
            "figures": None if self.figures is None else plain(self.figures),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class ParityRun:
    """One run of `san parity`.

    Attributes:
        reference: what is right, as shown to people (file, runtime, precision, mask).
        target: the model under test, likewise.
        crops: how many were compared.
        source: whose they are.
        stages: in the order of `STAGES`.
    """

    reference: dict[str, Any]
    target: dict[str, Any]
    crops: int
    source: str
    stages: tuple[Stage, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that miss their gate and decide, in order."""
        return [check for stage in self.stages for check in stage.failed]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "reference": self.reference,
            "target": self.target,
            "crops": self.crops,
            "source": self.source,
            "passed": not self.failed,
            "failed": [check.gate for check in self.failed],
            "noted": [check.gate for stage in self.stages for check in stage.noted],
            "stages": {stage.name: stage.as_dict() for stage in self.stages},
        }


@dataclass(frozen=True)
class ArtefactFigures:
    """What the target says of itself, held against what it is and against the reference.

    Attributes:
        facts: `(name, asked or claimed, found, whether they agree)`, all as text.
    """

    facts: tuple[tuple[str, str, str, bool], ...]


@dataclass(frozen=True)
class PreprocessingFigures:
    """The same crops through the training path and through the target's.

    Attributes:
        crops: compared.
        pixels_differ: values of the decoded, resized uint8 crops that differ; must be 0.
        input_max_abs: largest difference of the normalised input, in units of the normalised values.
        input_equal: share of those values that are equal to the bit.
        worst: name of the crop that differs most; empty where none does.
    """

    crops: int
    pixels_differ: int
    input_max_abs: float
    input_equal: float
    worst: str


@dataclass(frozen=True)
class BatchRows:
    """One batch size of the target against the reference.

    Attributes:
        batch: crops per call.
        why: `one`, `odd`, `optimum`, `maximum`, `over the maximum`.
        crops: compared at that batch size.
        min_cosine, p1_cosine, mean_cosine: over the rows.
        max_abs: largest difference of two numbers of unit rows.
    """

    batch: int
    why: str
    crops: int
    min_cosine: float
    p1_cosine: float
    mean_cosine: float
    max_abs: float


@dataclass(frozen=True, eq=False)
class EmbeddingFigures:
    """Rows of embeddings.

    Attributes:
        batches: one for each batch size.
        invariance: least cosine of a crop's row with that crop's row in another batch or among others.
        not_finite: rows with a NaN or an infinity.
        norm_error: largest | |row| - 1 | of the target's rows before anything normalises them.
        equal_rows: share of rows that are equal up to rounding (`check.EQUAL`).
        worst: `(crop's name, cosine)` of the worst rows, the worst first.
        cosine: `(N,)` float64 of each crop at the optimum batch, for the histogram; not in the JSON.
        names: of those crops; not in the JSON.
    """

    batches: tuple[BatchRows, ...]
    invariance: float
    not_finite: int
    norm_error: float
    equal_rows: float
    worst: tuple[tuple[str, float], ...]
    cosine: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class BlockFlips:
    """One sharp block: bits of the reference's masks against the target's.

    Attributes:
        name: of the block, for example `stage1`, or of the value that its mask is drawn from.
        channels, height, width: of its mask.
        bits: compared, over all crops.
        flipped: of them differ.
        predicted: flips that the target's rounding of the margins predicts, see `masks.Margins`.
        own: flips that remain where the target's block is given the reference's features, so that nothing
            is carried from earlier blocks.
        mean_abs: mean | M_target - M_reference |, which for a ramp or an expected mask is all there is.
        rounding: root mean square of pi_target - pi_reference.
        margins: `(20,)` float64, share of the bits with |pi - 1/2| in each twentieth of [0, 1/2].
        near: share of the bits with |pi - 1/2| below 0.001, and below 0.01.
        by_channel: `(C,)` int64 flips; not in the JSON.
        by_place: `(H, W)` int64 flips; not in the JSON.
        worst_channels: `(channel, flips)`, the worst first.
        worst_places: `(row, column, flips)`, likewise.
    """

    name: str
    channels: int
    height: int
    width: int
    bits: int
    flipped: int
    predicted: float
    own: int
    mean_abs: float
    rounding: float
    margins: np.ndarray
    near: tuple[float, float]
    by_channel: np.ndarray
    by_place: np.ndarray
    worst_channels: tuple[tuple[int, int], ...]
    worst_places: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class CropMasks:
    """The masks of one crop, for the page.

    Attributes:
        name: of the crop.
        cosine: of its row with the reference's.
        image: `(H, W, 3)` uint8 BGR.
        reference: one `(h, w)` float32 in 0..1 for each block, mean over its channels.
        target: likewise.
        flips: one `(h, w)` int64 for each block, flipped bits over the channels.
    """

    name: str
    cosine: float
    image: np.ndarray
    reference: tuple[np.ndarray, ...]
    target: tuple[np.ndarray, ...]
    flips: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class MaskCost:
    """What a mask loses by the target's rounding, see `milder_masks`.

    Attributes:
        mask: as in `Artefact.mask`.
        crops: compared.
        min_cosine, mean_cosine: of the rows.
    """

    mask: str
    crops: int
    min_cosine: float
    mean_cosine: float


@dataclass(frozen=True, eq=False)
class MaskFigures:
    """Flipped bits.

    Attributes:
        mask: of the target, as in `Artefact.mask`.
        blocks: in the order of the network.
        crops: the worst crops, the worst first; not in the JSON.
        binary: whether every value of the target's masks is 0 or 1.
        missing: blocks of the reference that the target lacks, or has in another size.
        added: blocks of the target that the reference lacks.
        alternatives: what argmax and ramps in its place lose on these crops; empty where argmax holds its gates.
    """

    mask: str
    blocks: tuple[BlockFlips, ...]
    crops: tuple[CropMasks, ...]
    binary: bool = True
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    alternatives: tuple[MaskCost, ...] = ()


@dataclass(frozen=True)
class LayerError:
    """One layer that both graphs have.

    Attributes:
        name: of the value in the target's graph.
        operator: that makes it in the target, for example `Conv`.
        module: of the network, by the name of the operator's weight, for example `backbone.layer1.0.conv1`; empty
            for operators without one.
        local: relative error (norm of the difference over norm of the reference) where the target's layer is
            given the reference's inputs; NaN where it does not run on them.
        carried: the same where the target runs from the crops on; NaN where it was not measured.
        allowed: what rounding explains of `local`.
    """

    name: str
    operator: str
    module: str
    local: float
    carried: float
    allowed: float

    @property
    def differs(self) -> bool:
        """Whether more than rounding is there; NaN counts."""
        return not self.local <= self.allowed


@dataclass(frozen=True)
class LayerFigures:
    """Where target and reference part.

    Attributes:
        layers: compared, in the order of the graph.
        first: the first that differs by more than rounding explains; None where none does.
        detail: what both graphs say of that layer, where they differ: its operator, a setting, a shape.
        crops: looked at.
        unpaired: values of the target without a counterpart, which were not compared.
    """

    layers: tuple[LayerError, ...]
    first: LayerError | None
    detail: str
    crops: int
    unpaired: int = 0


@dataclass(frozen=True)
class RankingFigures:
    """Whether people are ranked alike.

    Attributes:
        labelled: whether identities were given.
        queries: that count.
        people: that are asked for; 0 without labels.
        reference, target: `{rank1, mean_ap, mean_inp}` in percent; empty without labels.
        interval: of what each of these loses, points: 95 % by bootstrap over people; empty without labels.
        won, lost: queries whose first answer became right, and wrong.
        noise: standard deviation of how far rounding moves a similarity, see `ranking.similarity_noise`.
        top1_agreement: share of the crops whose nearest crop of another tracklet is of the same tracklet on both
            sides, or as near to the reference up to the noise. A crop's own tracklet is left out, and crops of one
            tracklet count as one; where there are next to no tracklets, each crop stands for itself
            (`ranking.compare_ranking`).
        top10_overlap: mean share of the ten nearest that both have, counted likewise.
        ties: crops whose nearest one is another, as near up to the noise.
    """

    labelled: bool
    queries: int
    people: int
    reference: dict[str, float]
    target: dict[str, float]
    interval: dict[str, tuple[float, float]]
    won: int
    lost: int
    noise: float
    top1_agreement: float
    top10_overlap: float
    ties: int


#: Fields that are pictures or arrays for pictures.
_NOT_PLAIN = frozenset({"cosine", "names", "by_channel", "by_place"})


def plain(figures: object) -> dict[str, Any]:
    """A figures class as plain data for JSON; NaN, which JSON has not, becomes None."""
    values = {key: getattr(figures, key) for key in figures.__dataclass_fields__}  # type: ignore[attr-defined]
    if isinstance(figures, EmbeddingFigures | BlockFlips):
        values = {key: value for key, value in values.items() if key not in _NOT_PLAIN}
    if isinstance(figures, MaskFigures):
        values.pop("crops")
    return {key: _value(value) for key, value in values.items()}


def _value(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return plain(value)
    if isinstance(value, np.ndarray):
        return _value(value.tolist())
    if isinstance(value, tuple | list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
