"""A ladder in words: what the table, the page and the JUnit file say alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from san_deploy.io.printable import printable

from .result import (
    ArtefactFigures,
    BatchRows,
    BlockFlips,
    Check,
    DivergenceFigures,
    EmbeddingFigures,
    Ladder,
    LayerError,
    MaskFigures,
    PreprocessingFigures,
    RankingFigures,
    Stage,
)

#: Digits of a figure, and the most that are spent to tell it from its limit.
_DIGITS, _MOST_DIGITS = 4, 10
#: What helps where a rung fails, beside another gate.
_HELP = {
    "artefact": "san info TARGET says what the file is; export it again from the reference",
    "preprocessing": "decode and resize on both sides with san_deploy.images.read_image and "
    "san_deploy.preprocess.resize_crop",
    "divergence": "mend what is different there and export again",
}
#: A mask of whose bits few are neither 0 nor 1.
_RAMP = "ramp:0.0625"


@dataclass(frozen=True)
class Verdict:
    """What to tell somebody who reads one line.

    Attributes:
        word: `PASS`, `FAIL`, or `NOTHING CHECKED` where no rung had a gate.
        sentence: of which files, and how many gates.
    """

    word: str
    sentence: str


def verdict(ladder: Ladder) -> Verdict:
    """Of the whole ladder."""
    target, reference = names(ladder)
    checks, failed = sum(len(stage.checks) for stage in ladder.stages), len(ladder.failed)
    if not checks:
        return Verdict("NOTHING CHECKED", f"{target} was not held against {reference}: no gate was asked")
    if failed:
        return Verdict(
            "FAIL", f"{target} differs from {reference}: {failed} of {count(checks, 'gate')} missed"
        )
    return Verdict("PASS", f"{target} agrees with {reference}: {count(checks, 'gate')} held")


def state(stage: Stage) -> str:
    """`skipped`, `PASS` or `FAIL`. A rung that has checks was run, whatever else it says."""
    if stage.skipped and not stage.checks:
        return "skipped"
    return "PASS" if stage.passed else "FAIL"


def clean(item: object) -> str:
    """Text that terminals, XML and pages take: what cannot be printed stands as an escape, such as `\\x1b`."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in printable(item)
    )


def names(ladder: Ladder) -> tuple[str, str]:
    """What target and reference are called: their files without folders, where that tells them apart."""
    target, reference = _file(ladder.target, "the target"), _file(ladder.reference, "the reference")
    short = Path(target).name, Path(reference).name
    return short if all(short) and short[0] != short[1] else (target, reference)


def _file(side: Mapping[str, Any], otherwise: str) -> str:
    return clean(side.get("file") or otherwise)


def manner(side: Mapping[str, Any]) -> str:
    """How a side was run, for example `ONNX Runtime, FP16, argmax`."""
    return ", ".join(clean(value) for key, value in side.items() if key != "file" and value not in ("", None))


def compared(ladder: Ladder) -> str:
    """What was compared, in one sentence."""
    sides = []
    for side, otherwise in ((ladder.target, "target"), (ladder.reference, "reference")):
        told = manner(side)
        sides.append(_file(side, otherwise) + (f" ({told})" if told else ""))
    return f"{sides[0]} with {sides[1]} on {sample(ladder)}"


def sample(ladder: Ladder) -> str:
    """How many crops of whom."""
    source = clean(ladder.source)
    # Sources that name their crops already, such as `drawn crops, seed 0`, are not told twice.
    what = number(ladder.crops) + (f" {source}" if "crops" in source else f" crops of {source}")
    return what if source else count(ladder.crops, "crop")


def count(items: int, what: str, many: str = "") -> str:
    """`1 crop`, `1 000 crops`; `many` where an s is not enough."""
    return f"{number(items)} {what if items == 1 else many or what + 's'}"


def number(items: int) -> str:
    """A whole number in groups of three."""
    return f"{items:,}".replace(",", " ")


def figure(value: float, *beside: float) -> str:
    """A figure with as many digits as tell it from the figures `beside` it, and from 1 where it is not 1."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    for digits in range(_DIGITS, _MOST_DIGITS + 1):
        text = f"{value:.{digits}g}"
        if all(value == other or text != f"{other:.{digits}g}" for other in (*beside, 1.0)):
            break
    return text


def share(value: float) -> str:
    """A share in percent; what is not 0 is not shown as 0, and what is not 100 % not as 100 %."""
    if not math.isfinite(value):
        return figure(value)
    percent = 100 * value
    if percent in {0, 100}:
        return f"{percent:.0f} %"
    if abs(percent) < 0.0001:
        return f"{percent:.1e} %"
    # What is left to 100 % needs its digits just as well.
    rest = min(abs(percent), abs(100 - percent))
    digits = next((d for d in range(1, 7) if rest >= 10 ** (1 - d)), 7)
    return f"{percent:.{digits}f} %"


def points(value: float) -> str:
    """A figure that is in percent already."""
    return f"{value:.2f}" if math.isfinite(value) else figure(value)


def small(value: float) -> str:
    """An error, two digits and an exponent."""
    if not math.isfinite(value):
        return figure(value)
    return f"{value:.1e}" if value else "0"


def cosine(value: float) -> str:
    """A cosine; the seventh digit is the last one that FP32 has."""
    return f"{value:.7f}" if math.isfinite(value) else figure(value)


def asked(check: Check) -> str:
    """What a gate asks for, for example `at least 0.999`."""
    return f"at {'least' if check.at_least else 'most'} {figure(check.limit, check.value)}"


def measured(check: Check) -> str:
    """What was measured beside what was asked for, for example `min_cosine 0.9871, at least 0.999`."""
    return f"{clean(check.gate)} {figure(check.value, check.limit)}, {asked(check)}"


def setting(check: Check) -> str:
    """How the gate is set, as it is typed."""
    return f"--gate {clean(check.gate)}={check.limit:.10g}"


def remedy(stage: Stage, target: Mapping[str, Any]) -> str:
    """What to do about a rung that fails.

    Args:
        stage: the rung.
        target: `Ladder.target`, whose mask and precision say what is left to choose.
    """
    figures = stage.figures
    if isinstance(figures, DivergenceFigures) and figures.first is not None:
        return f"mend {layer(figures.first)} and export again"
    if stage.name not in ("embeddings", "masks", "ranking"):
        return _HELP.get(stage.name, "export again")
    # Without a sharp mask, that rung is left out.
    masked = stage.name == "embeddings" and target.get("mask") not in ("none", "soft")
    tell = "the masks and the first divergence say" if masked else "the first divergence says"
    told = f"{tell} where the difference begins"
    milder = _milder(target)
    return f"{told}; if that is rounding, export {milder}" if milder else told


def _milder(target: Mapping[str, Any]) -> str:
    """How to export so that rounding does less than in the target; empty where nothing is left to choose."""
    kind, _, width = str(target.get("mask", "")).partition(":")
    precision = str(target.get("precision", "")).upper()
    ways = []
    if kind == "argmax":
        ways.append(f"with --mask {_RAMP}, whose masks move instead of flipping")
    elif kind == "ramp" and (wider := _wider(width)):
        ways.append(f"with a wider ramp, such as --mask {wider}")
    if precision == "INT8":
        ways.append("calibrated on more crops of your own cameras (--calib DIR)")
    if precision != "FP32":
        ways.append("in a higher precision")
    return ", ".join(ways[:-1]) + (" or " if len(ways) > 1 else "") + "".join(ways[-1:])


def _wider(width: str) -> str:
    """The ramp of twice the width, which 1 bounds; empty where there is none."""
    try:
        known = float(width)
    except ValueError:
        return ""
    return f"ramp:{min(1.0, 2 * known):g}" if 0 < known < 1 else ""


def layer(item: LayerError) -> str:
    """A layer by the name of its module, where that is known, and of its value."""
    where = f"{clean(item.module)}, " if item.module else ""
    return f"{where}{clean(item.operator)} {clean(item.name)}"


def error(item: LayerError) -> str:
    """How far a layer is off, and how far it may be; its weights where they alone are off."""
    told = f"error {small(item.local)}, rounding explains {small(item.allowed)}"
    if by_weights(item):
        told += f"; a weight is off by {figure(item.weights)} times what its rounding explains"
    return told


def by_weights(item: LayerError) -> bool:
    """Whether a layer differs by its weights alone, which rounding of what it computes would hide."""
    return item.differs and item.local <= item.allowed


def decided(stage: Stage) -> str:
    """The figure that decides a rung: of the first gate that fails, or what the rung is about."""
    if state(stage) == "skipped":
        return clean(stage.skipped)
    failed = [check for check in stage.checks if not check.passed]
    if failed:
        more = f", and {count(len(failed) - 1, 'more gate')}" if len(failed) > 1 else ""
        return measured(failed[0]) + more
    return gist(stage) or "; ".join(map(measured, stage.checks))


def gist(stage: Stage) -> str:
    """What a rung found, in half a line; empty where it has no figures."""
    figures = stage.figures
    if isinstance(figures, ArtefactFigures):
        agree = sum(fact[3] for fact in figures.facts)
        return f"{agree} of {count(len(figures.facts), 'fact')} agree"
    if isinstance(figures, PreprocessingFigures):
        return (
            f"{count(figures.pixels_differ, 'pixel value')} differ on {count(figures.crops, 'crop')}, "
            f"{share(figures.input_equal)} of the inputs are equal"
        )
    if isinstance(figures, EmbeddingFigures):
        if not figures.batches:
            return "no batch was run"
        lowest, mean = (
            least(getattr(row, key) for row in figures.batches) for key in ("min_cosine", "mean_cosine")
        )
        return f"row cosine at least {cosine(lowest)}, mean {cosine(mean)}"
    if isinstance(figures, MaskFigures):
        return _flips(figures)
    if isinstance(figures, DivergenceFigures):
        if figures.first is not None:
            return f"first at {layer(figures.first)}: {error(figures.first)}"
        if not figures.layers:
            return "the graphs have no layer in common"
        return f"none of {count(len(figures.layers), 'layer')} differs by more than rounding"
    if isinstance(figures, RankingFigures):
        return _ranking(figures)
    return ""


def least(values: Iterable[float]) -> float:
    """The least, or NaN where one is: nothing is worse."""
    return min(values, key=lambda value: -math.inf if math.isnan(value) else value)


def batches(figures: EmbeddingFigures) -> list[tuple[str, ...]]:
    """A row of figures for each batch size: the size and why, crops, least, 1st percentile and mean cosine,
    largest difference.
    """
    return [_batch(row) for row in figures.batches]


def _batch(row: BatchRows) -> tuple[str, ...]:
    return (
        f"{row.batch} ({clean(row.why)})",
        number(row.crops),
        cosine(row.min_cosine),
        cosine(row.p1_cosine),
        cosine(row.mean_cosine),
        small(row.max_abs),
    )


def _flips(figures: MaskFigures) -> str:
    if not figures.blocks:
        return "no sharp block"
    bits, flipped = (
        sum(block.bits for block in figures.blocks),
        sum(block.flipped for block in figures.blocks),
    )
    told = f"{share(flipped / bits if bits else math.nan)} of {number(bits)} bits flipped"
    if flipped and len(figures.blocks) > 1:
        most = max(figures.blocks, key=flipped_share)
        told += f", most in {clean(most.name)}: {share(flipped_share(most))}"
    return told


def flipped_share(block: BlockFlips) -> float:
    """Of its bits."""
    return block.flipped / block.bits if block.bits else 0.0


def own_share(block: BlockFlips) -> float:
    """Flips that are not carried from earlier blocks, of its bits; NaN where that was not measured."""
    return block.own / block.bits if block.own >= 0 and block.bits else math.nan


def predicted_share(block: BlockFlips) -> float:
    """Flips that rounding predicts, of its bits."""
    return block.predicted / block.bits if block.bits else 0.0


#: Keys of a ranking's figures, and what people call them.
SCORES = (("rank1", "rank-1"), ("mean_ap", "mAP"), ("mean_inp", "mINP"))


def _ranking(figures: RankingFigures) -> str:
    if figures.labelled:
        told = [
            f"{title} {points(figures.reference[key])} -> {points(figures.target[key])} %"
            for key, title in SCORES
            if key in figures.reference and key in figures.target
        ]
        if told:
            return ", ".join(told)
    return neighbours(figures)


def neighbours(figures: RankingFigures) -> str:
    """Whether a crop's nearest of other tracklets are the same."""
    return (
        f"the nearest crop of another tracklet is of the same tracklet on both sides for "
        f"{share(figures.top1_agreement)}; of the ten nearest {share(figures.top10_overlap)} are shared, crops of "
        "one tracklet taken as one"
    )
