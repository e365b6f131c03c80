"""A parity run in text: what a terminal, the page and the JUnit file say, alike."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from san_deploy.io.printable import printable

from .result import (
    ArtefactFigures,
    BatchRows,
    BlockFlips,
    Check,
    EmbeddingFigures,
    LayerError,
    LayerFigures,
    MaskCost,
    MaskFigures,
    ParityRun,
    PreprocessingFigures,
    RankingFigures,
    Stage,
)

#: Columns of a line, at most; where text and figures start.
WIDTH = 100
_LABEL, _STATE = 15, 9
#: The longest name of a block, and how many layers, crops and facts are shown.
_NAME, _LAYERS, _WORST, _FACTS = 20, 5, 3, 12
#: Digits of a figure, and the most that are spent to tell it from its limit.
_DIGITS, _MOST_DIGITS = 4, 10
#: What helps where a stage fails, beside another gate.
_HELP = {
    "artefact": "san info TARGET says what the file is; export it again from the reference",
    "preprocessing": "decode and resize on both sides with san_deploy.images.read_image and "
    "san_deploy.preprocess.resize_crop",
}
#: A mask of whose bits few are neither 0 nor 1.
_RAMP = "ramp:0.0625"
#: What a mask must gain in its least row cosine to be recommended: more than FP32 rounds.
_BETTER = 1e-6


def lines(run: ParityRun) -> list[str]:
    """What `san parity` prints: verdict and finding first, then the stages, then every gate that was missed.

    Returns:
        Lines of at most `WIDTH` columns, without newlines; names that cannot be printed stand as escapes.
    """
    known = headline(run)
    word = known.word if len(known.word) < _LABEL else "NO GATE"
    shown = [_one_line(word, known.sentence), " " * _LABEL + _cut(_second_line(run))]
    if found := finding(run):
        shown += _rows("finding", found)
    shown += ["", *_rows("compared", compared(run)), ""]
    for stage in run.stages:
        shown += _stage_lines(stage)
    return shown + _missed(run)


def progress_line(stage: Stage) -> str:
    """One line for a stage that is done."""
    if state(stage) == "skipped":
        return f"{stage.name}: skipped, {stage.skipped.rstrip('.')}"
    failed, noted = (dict.fromkeys(check.gate for check in found) for found in (stage.failed, stage.noted))
    word = f"FAILED {', '.join(failed)}" if failed else "differs" if noted else "passed"
    return f"{stage.name}: {word}, {stage.seconds:.1f} s"


def finding(run: ParityRun) -> str:
    """What explains most of a failure: where it is seen first, from the files' own statements inwards.

    Empty where nothing failed.
    """
    if not run.failed:
        return ""
    figures = {stage.name: stage.figures for stage in run.stages}
    facts = figures.get("artefact")
    if isinstance(facts, ArtefactFigures) and (wrong := [fact for fact in facts.facts if not fact[3]]):
        return "what the target says of itself does not hold: " + "; ".join(
            clean(f"{name}: {found}, not {claimed}") for name, claimed, found, _ in wrong[:_WORST]
        )
    masks = run.reference.get("mask"), run.target.get("mask")
    if masks[0] != masks[1] and all(masks):
        return f"the masks differ: {clean(masks[0])} in the reference, {clean(masks[1])} in the target"
    flips = figures.get("masks")
    if isinstance(flips, MaskFigures) and (flips.missing or flips.added):
        absent = [f"{clean(name)} of the reference is missing" for name in flips.missing]
        absent += [f"{clean(name)} is not in the reference" for name in flips.added]
        return "the target has other sharp masks: " + ", ".join(absent)
    if isinstance(flips, MaskFigures) and flips.mask == "argmax" and not flips.binary:
        return "the target says argmax, and its masks have values between 0 and 1"
    seen = figures.get("preprocessing")
    stage = next((item for item in run.stages if item.name == "preprocessing"), None)
    if isinstance(seen, PreprocessingFigures) and stage is not None and stage.failed:
        if seen.pixels_differ:
            return (
                f"the crops differ before the networks see them: {count(seen.pixels_differ, 'pixel value')}"
            )
        told = f"the normalised input differs by up to {small(seen.input_max_abs)}"
        return told + "".join(
            f"; {note[0].lower()}{note[1:-1]}" for note in stage.notes if "red and blue" in note
        )
    layers = figures.get("layers")
    if isinstance(layers, LayerFigures) and layers.first is not None:
        detail = f": {clean(layers.detail)}" if layers.detail else ""
        return f"first at {layer(layers.first)}, {error(layers.first)}{detail}"
    if isinstance(layers, LayerFigures) and layers.layers and not layers.unpaired:
        return f"none of {count(len(layers.layers), 'layer')} differs by more than rounding explains" + (
            f"; {_flips(flips)}" if isinstance(flips, MaskFigures) else ""
        )
    return ""


@dataclass(frozen=True)
class Headline:
    """What somebody reads who reads one line.

    Attributes:
        word: `PASS`, `FAIL`, or `NOTHING CHECKED` where no stage had a gate.
        sentence: of which files, and how many gates.
    """

    word: str
    sentence: str


def headline(run: ParityRun) -> Headline:
    """Of the whole run."""
    target, reference = names(run)
    checks, failed = sum(len(stage.checks) for stage in run.stages), len(run.failed)
    if not checks:
        return Headline("NOTHING CHECKED", f"{target} was not held against {reference}: no gate was asked")
    if failed:
        return Headline(
            "FAIL", f"{target} differs from {reference}: {failed} of {count(checks, 'gate')} missed"
        )
    return Headline("PASS", f"{target} agrees with {reference}: {count(checks, 'gate')} held")


def state(stage: Stage) -> str:
    """`skipped`, `PASS`, `FAIL`, or `differs` where a gate is missed that does not decide.

    A stage that has checks was run, whatever else it says.
    """
    if stage.skipped and not stage.checks:
        return "skipped"
    if not stage.passed:
        return "FAIL"
    return "differs" if stage.noted else "PASS"


def clean(item: object) -> str:
    """Text that terminals, XML and pages take: what cannot be printed stands as an escape, such as `\\x1b`."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in printable(item)
    )


def names(run: ParityRun) -> tuple[str, str]:
    """What target and reference are called: their files without folders, where that tells them apart."""
    target, reference = _file(run.target, "the target"), _file(run.reference, "the reference")
    short = Path(target).name, Path(reference).name
    return short if all(short) and short[0] != short[1] else (target, reference)


def _file(model: Mapping[str, Any], otherwise: str) -> str:
    return clean(model.get("file") or otherwise)


def manner(model: Mapping[str, Any]) -> str:
    """How a model was run, for example `ONNX Runtime, FP16, argmax`."""
    return ", ".join(
        clean(value) for key, value in model.items() if key != "file" and value not in ("", None)
    )


def compared(run: ParityRun) -> str:
    """What was compared, in one sentence."""
    models = []
    for model, otherwise in ((run.target, "target"), (run.reference, "reference")):
        how = manner(model)
        models.append(_file(model, otherwise) + (f" ({how})" if how else ""))
    return f"{models[0]} with {models[1]} on {sample(run)}"


def sample(run: ParityRun) -> str:
    """How many crops of whom."""
    source = clean(run.source)
    # Sources that name their crops already, such as `drawn crops, seed 0`, are not named twice.
    what = number(run.crops) + (f" {source}" if "crops" in source else f" crops of {source}")
    return what if source else count(run.crops, "crop")


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


def remedy(stage: Stage, run: ParityRun) -> str:
    """What to do about a stage that fails."""
    figures = stage.figures
    if run.reference.get("mask") != run.target.get("mask"):
        return "compare models with the same mask, or judge what the other mask costs by its ranking"
    if isinstance(figures, LayerFigures) and figures.first is not None:
        return f"look at {layer(figures.first)} in both files, and export again"
    if stage.name not in ("embeddings", "masks", "ranking"):
        return _HELP.get(stage.name, "export again")
    advice = "the finding says where the difference begins"
    milder = _milder(run.target, _alternatives(run))
    return f"{advice}; if that is rounding, export {milder}" if milder else advice


def _alternatives(run: ParityRun) -> Sequence[MaskCost]:
    return next(
        (stage.figures.alternatives for stage in run.stages if isinstance(stage.figures, MaskFigures)), ()
    )


def _milder(target: Mapping[str, Any], alternatives: Sequence[MaskCost]) -> str:
    """How to export so that rounding does less than in the target; empty where nothing is left to choose."""
    kind, _, width = str(target.get("mask", "")).partition(":")
    precision = str(target.get("precision", "")).upper()
    ways = []
    if kind == "argmax" and alternatives:
        own, *others = alternatives
        best = max(others, key=lambda item: item.min_cosine)
        if best.min_cosine > own.min_cosine + _BETTER:
            ways.append(
                f"with --mask {best.mask}, on {count(best.crops, 'crop')} of these least row cosine "
                f"{cosine(best.min_cosine)} where argmax has {cosine(own.min_cosine)}"
            )
    elif kind == "argmax":
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
    """How far a layer is off, and how far it may be."""
    return f"error {small(item.local)}, rounding explains {small(item.allowed)}"


def decided(stage: Stage) -> str:
    """The figure that decides a stage: of the first gate that fails, or what the stage is about."""
    if state(stage) == "skipped":
        return clean(stage.skipped)
    if failed := stage.failed:
        more = f", and {count(len(failed) - 1, 'more gate')}" if len(failed) > 1 else ""
        return measured(failed[0]) + more
    return gist(stage) or "; ".join(map(measured, stage.checks))


def gist(stage: Stage) -> str:
    """What a stage found, in half a line; empty where it has no figures."""
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
    if isinstance(figures, LayerFigures):
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
    found = f"{share(flipped / bits if bits else math.nan)} of {number(bits)} bits flipped"
    if flipped and len(figures.blocks) > 1:
        most = max(figures.blocks, key=flipped_share)
        found += f", most in {clean(most.name)}: {share(flipped_share(most))}"
    return found


def flipped_share(block: BlockFlips) -> float:
    """Of its bits."""
    return block.flipped / block.bits if block.bits else 0.0


def own_share(block: BlockFlips) -> float:
    """Flips that are not carried from earlier blocks, of its bits."""
    return block.own / block.bits if block.bits else 0.0


def predicted_share(block: BlockFlips) -> float:
    """Flips that rounding predicts, of its bits."""
    return block.predicted / block.bits if block.bits else 0.0


#: Keys of a ranking's figures, and what people call them.
SCORES = (("rank1", "rank-1"), ("mean_ap", "mAP"), ("mean_inp", "mINP"))


def _ranking(figures: RankingFigures) -> str:
    if figures.labelled:
        scores = [
            f"{title} {points(figures.reference[key])} -> {points(figures.target[key])} %"
            for key, title in SCORES
            if key in figures.reference and key in figures.target
        ]
        if scores:
            return ", ".join(scores)
    return neighbours(figures)


def neighbours(figures: RankingFigures) -> str:
    """Whether a crop's nearest of other tracklets are the same."""
    return (
        f"the nearest crop of another tracklet is of the same tracklet on both sides for "
        f"{share(figures.top1_agreement)}; of the ten nearest {share(figures.top10_overlap)} are shared, crops of "
        "one tracklet taken as one"
    )


def _second_line(run: ParityRun) -> str:
    """What was missed, or what was left out."""
    if run.failed:
        missed = "missed: " + "; ".join(map(measured, run.failed))
        # Which gates is worth more than by how much: that stands below.
        gates = dict.fromkeys(clean(check.gate) for check in run.failed)
        return missed if len(missed) <= WIDTH - _LABEL else f"missed: {', '.join(gates)}"
    differing = [stage.name for stage in run.stages if stage.noted]
    if differing:
        return f"the embeddings agree; inside, {' and '.join(differing)} differ"
    skipped = [stage.name for stage in run.stages if state(stage) == "skipped"]
    return "not run: " + ", ".join(skipped) if skipped else "every stage ran"


def _stage_lines(stage: Stage) -> list[str]:
    known = state(stage)
    shown = _wrapped(decided(stage), f"{stage.name:<{_LABEL}}{known:<{_STATE}}", " " * (_LABEL + _STATE))
    if known == "FAIL" and (found := gist(stage)):
        shown += _rows("", found)
    if stage.noted:
        shown += _rows("", "; ".join(map(measured, stage.noted)) + ", which does not decide")
    return shown + _details(stage) + [row for note in stage.notes for row in _rows("", clean(note))]


def _details(stage: Stage) -> list[str]:
    figures = stage.figures
    if isinstance(figures, ArtefactFigures):
        return _facts(figures)
    if isinstance(figures, PreprocessingFigures):
        if not figures.input_max_abs and not figures.worst:
            return []
        worst = f", most in {clean(figures.worst)}" if figures.worst else ""
        return _rows("", f"inputs differ by at most {small(figures.input_max_abs)}{worst}")
    if isinstance(figures, EmbeddingFigures):
        return _embeddings(figures)
    if isinstance(figures, MaskFigures):
        return _masks(figures)
    if isinstance(figures, LayerFigures):
        return _layers(figures)
    if isinstance(figures, RankingFigures):
        return _ranked(figures)
    return []


def _facts(figures: ArtefactFigures) -> list[str]:
    """What does not agree alone: the rest is in the page and in the JSON."""
    odd = [fact for fact in figures.facts if not fact[3]]
    shown = [
        row
        for title, claimed, found, _ in odd[:_FACTS]
        for row in _rows("", clean(f"{title}: {claimed} was asked or claimed, {found} was found"))
    ]
    return shown + _more(len(odd) - _FACTS, "fact")


def _embeddings(figures: EmbeddingFigures) -> list[str]:
    titles = ("batch", "crops", "minimum", "1st perc.", "mean", "difference")
    shown = _columns(titles, batches(figures))
    shown += _rows(
        "",
        f"a crop in another batch: row cosine at least {cosine(figures.invariance)}; "
        f"{share(figures.equal_rows)} of the rows are equal up to rounding; "
        f"norms are off 1 by at most {small(figures.norm_error)}",
    )
    if figures.not_finite:
        shown += _rows("", f"{count(figures.not_finite, 'row')} with a NaN or an infinity")
    if figures.worst:
        worst = ", ".join(f"{clean(crop)} {cosine(value)}" for crop, value in figures.worst[:_WORST])
        shown += _rows("", f"worst: {worst}")
    return shown


def _masks(figures: MaskFigures) -> list[str]:
    sharp = figures.mask == "argmax"
    rows = []
    for block in figures.blocks:
        rows.append(
            (
                _shortened(clean(block.name), _NAME),
                f"{block.channels} x {block.height} x {block.width}",
                share(flipped_share(block)),
                *(
                    (share(predicted_share(block)), share(own_share(block)))
                    if sharp
                    else (small(block.mean_abs),)
                ),
                share(block.near[0]),
                small(block.rounding),
            )
        )
    between = ("predicted", "own") if sharp else ("mean |dM|",)
    shown = _columns(("block", "mask", "flipped", *between, "near", "rounding"), rows)
    if rows and sharp:
        shown += _rows(
            "",
            "predicted: from margins and rounding; own: given the reference's features; near: within 0.001 of 1/2",
        )
    return shown


def _layers(figures: LayerFigures) -> list[str]:
    shown = _rows("", clean(figures.detail)) if figures.detail else []
    apart = [layer for layer in figures.layers if layer.differs and layer != figures.first]
    for item in apart[:_LAYERS]:
        shown += _rows("", f"{layer(item)}: {error(item)}")
    return shown + _more(len(apart) - _LAYERS, "layer")


def _ranked(figures: RankingFigures) -> list[str]:
    if not figures.labelled:
        return []
    return _rows(
        "",
        f"of {count(figures.queries, 'query', 'queries')}, the first answer became right for "
        f"{number(figures.won)} and wrong for {number(figures.lost)}; {neighbours(figures)}",
    )


def _missed(run: ParityRun) -> list[str]:
    """Every gate that failed: what was measured, where, and what to do; by stage."""
    shown = []
    for stage in run.stages:
        for check in stage.failed:
            shown += _rows("missed", f"{measured(check)}: {clean(check.message)}")
        if stage.failed:
            shown += _rows("do", remedy(stage, run))
    if not shown:
        return []
    found = finding(run)
    return [
        "",
        *shown,
        *_rows("", "another gate is set with --gate NAME=VALUE, none with NAME=off"),
        *(_rows("finding", found) if found else []),
    ]


def _more(left: int, what: str) -> list[str]:
    return _rows("", f"and {count(left, f'more {what}')}, in the JSON") if left > 0 else []


def _rows(label: str, text: str) -> list[str]:
    indent = " " * _LABEL
    return _wrapped(text, f"{label:<{_LABEL}}", indent)


def _wrapped(text: str, first: str, indent: str) -> list[str]:
    wrapped = textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    )
    # Before a word that is longer than a line, a space stays at the end.
    return [line.rstrip() for line in wrapped or [first]]


def _cut(text: str) -> str:
    return textwrap.shorten(text, WIDTH - _LABEL, placeholder=" …", break_on_hyphens=False)


def _one_line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{_shortened(text, WIDTH - _LABEL)}"


def _shortened(text: str, width: int) -> str:
    """The end is what tells layers, files and crops apart; the start is what tells sentences."""
    if len(text) <= width:
        return text
    start = (width - 1) // 2
    return f"{text[:start]}…{text[len(text) - (width - 1 - start) :]}"


def _columns(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column to the left, figures to the right."""
    table = [titles, *rows]
    if len(table) == 1:
        return []
    widths = [max(len(row[place]) for row in table) for place in range(len(titles))]
    return [
        " " * _LABEL
        + f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in table
    ]
