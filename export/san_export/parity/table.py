"""A ladder as lines for people in a terminal: the verdict first, the figures below it, what to do at the end."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from . import text as words
from .result import (
    ArtefactFigures,
    Certified,
    DivergenceFigures,
    EmbeddingFigures,
    Ladder,
    MaskFigures,
    PreprocessingFigures,
    RankingFigures,
    Stage,
)

#: Columns of a line, at most; where words and figures start.
WIDTH = 100
_LABEL, _STATE = 15, 9
#: The longest name of a block, and how many layers, crops and facts are told.
_NAME, _LAYERS, _WORST, _FACTS = 20, 5, 3, 12


def lines(ladder: Ladder) -> list[str]:
    """What `san parity` prints: the first two lines are the verdict.

    Returns:
        Lines of at most `WIDTH` columns, without newlines; names that cannot be printed stand as escapes.
    """
    verdict = words.verdict(ladder)
    word = verdict.word if len(verdict.word) < _LABEL else "NO GATE"
    told = [_one_line(word, verdict.sentence), " " * _LABEL + _cut(_why(ladder))]
    told += ["", *_rows("compared", words.compared(ladder)), ""]
    for stage in ladder.stages:
        told += _rung(stage)
    return told + _missed(ladder)


def _why(ladder: Ladder) -> str:
    """The second line: what was missed, or what was left out."""
    if ladder.failed:
        told = "missed: " + "; ".join(map(words.measured, ladder.failed))
        # Which gates is worth more than by how much: that is told below.
        gates = dict.fromkeys(words.clean(check.gate) for check in ladder.failed)
        return told if len(told) <= WIDTH - _LABEL else f"missed: {', '.join(gates)}"
    skipped = [stage.name for stage in ladder.stages if words.state(stage) == "skipped"]
    if skipped:
        return "not run: " + ", ".join(skipped)
    return "every rung ran"


def _rung(stage: Stage) -> list[str]:
    state = words.state(stage)
    title = f"{stage.name:<{_LABEL}}{state:<{_STATE}}"
    told = _wrapped(words.decided(stage), title, " " * (_LABEL + _STATE))
    below = []
    if state == "FAIL" and (gist := words.gist(stage)):
        below += _rows("", gist)
    return (
        told + below + _details(stage) + [row for note in stage.notes for row in _rows("", words.clean(note))]
    )


def _details(stage: Stage) -> list[str]:
    figures = stage.figures
    if isinstance(figures, ArtefactFigures):
        return _facts(figures)
    if isinstance(figures, PreprocessingFigures):
        if not figures.input_max_abs and not figures.worst:
            return []
        worst = f", most in {words.clean(figures.worst)}" if figures.worst else ""
        return _rows("", f"inputs differ by at most {words.small(figures.input_max_abs)}{worst}")
    if isinstance(figures, EmbeddingFigures):
        return _embeddings(figures)
    if isinstance(figures, MaskFigures):
        return _masks(figures)
    if isinstance(figures, DivergenceFigures):
        return _divergence(figures)
    if isinstance(figures, RankingFigures):
        return _ranking(figures)
    return []


def _facts(figures: ArtefactFigures) -> list[str]:
    """What does not agree alone: the rest is in the page and in the JSON."""
    odd = [fact for fact in figures.facts if not fact[3]]
    told = [
        row
        for title, claimed, found, _ in odd[:_FACTS]
        for row in _rows("", words.clean(f"{title}: {claimed} was asked or claimed, {found} was found"))
    ]
    return told + _more(len(odd) - _FACTS, "fact")


def _embeddings(figures: EmbeddingFigures) -> list[str]:
    titles = ("batch", "crops", "minimum", "1st perc.", "mean", "difference")
    told = _columns(titles, words.batches(figures))
    told += _rows(
        "",
        f"a crop in another batch: row cosine at least {words.cosine(figures.invariance)}; "
        f"{words.share(figures.equal_rows)} of the rows are equal up to rounding; "
        f"norms are off 1 by at most {words.small(figures.norm_error)}",
    )
    if figures.not_finite:
        told += _rows("", f"{words.count(figures.not_finite, 'row')} with a NaN or an infinity")
    if figures.worst:
        worst = ", ".join(
            f"{words.clean(crop)} {words.cosine(value)}" for crop, value in figures.worst[:_WORST]
        )
        told += _rows("", f"worst: {worst}")
    return told


def _masks(figures: MaskFigures) -> list[str]:
    sharp = figures.mask == "argmax"
    rows = []
    for block in figures.blocks:
        own = words.own_share(block)
        rows.append(
            (
                _shortened(words.clean(block.name), _NAME),
                f"{block.channels} x {block.height} x {block.width}",
                words.share(words.flipped_share(block)),
                *(
                    (
                        words.share(words.predicted_share(block)),
                        "" if math.isnan(own) else words.share(own),
                    )
                    if sharp
                    else (words.small(block.mean_abs),)
                ),
                words.share(block.near[0]),
                words.small(block.rounding),
            )
        )
    between = ("predicted", "own") if sharp else ("mean |dM|",)
    told = _columns(("block", "mask", "flipped", *between, "near", "rounding"), rows)
    if rows and sharp:
        told += _rows(
            "",
            "predicted: from margins and rounding; own: given the reference's features; near: within 0.001 of 1/2",
        )
    return told + _certificate(figures.certified)


def _certificate(items: Sequence[Certified]) -> list[str]:
    """Shares of crops whose bits cannot flip, and are not likely to; blocks looked at alike share a sentence."""
    told: dict[tuple[str, int], list[str]] = {}
    for item in items:
        shares = f"{words.clean(item.block)} {words.share(item.proven)} and {words.share(item.likely)}"
        told.setdefault((item.precision, item.crops), []).append(shares)
    return [
        row
        for (precision, crops), blocks in told.items()
        for row in _rows(
            "",
            f"crops in which no bit can flip in {words.clean(precision).upper()}, and none is likely to, of "
            f"{words.number(crops)}: {', '.join(blocks)}",
        )
    ]


def _divergence(figures: DivergenceFigures) -> list[str]:
    told = _rows("", words.clean(figures.told)) if figures.told else []
    apart = [layer for layer in figures.layers if layer.differs and layer != figures.first]
    for layer in apart[:_LAYERS]:
        told += _rows("", f"{words.layer(layer)}: {words.error(layer)}")
    return told + _more(len(apart) - _LAYERS, "layer")


def _ranking(figures: RankingFigures) -> list[str]:
    if not figures.labelled:
        return []
    return _rows(
        "",
        f"of {words.count(figures.queries, 'query', 'queries')}, the first answer became right for "
        f"{words.number(figures.won)} and wrong for {words.number(figures.lost)}; {words.neighbours(figures)}",
    )


def _missed(ladder: Ladder) -> list[str]:
    """Every gate that failed: what was measured, where, and what to do; by rung, which is mended at once."""
    told = []
    for stage in ladder.stages:
        failed = [check for check in stage.checks if not check.passed]
        for check in failed:
            told += _rows("missed", f"{words.measured(check)}: {words.clean(check.told)}")
        if failed:
            told += _rows("do", words.remedy(stage, ladder.target))
    return (
        ["", *told, *_rows("", "another gate is set with --gate NAME=VALUE, none with NAME=off")]
        if told
        else []
    )


def _more(left: int, what: str) -> list[str]:
    return _rows("", f"and {words.count(left, f'more {what}')}, in the JSON") if left > 0 else []


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
