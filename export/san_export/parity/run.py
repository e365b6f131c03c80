"""The ladder: its rungs one after another, each timed, none stopped by what is wrong with the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from san_deploy.errors import GateError, SanError
from san_deploy.io.progress import bar

from .gates import GATES_OF, Gates
from .models import Sides
from .result import Check, DivergenceFigures, Ladder, MaskFigures, Stage
from .sample import Sample
from .stages.artefact import check_artefact
from .stages.embeddings import Embedded, crops_run, embed_both
from .stages.preprocessing import compare_preprocessing, crops_seen
from .stages.ranking import compare_ranking

#: Crops whose masks are compared, and of which a certificate is asked; the worst are among them.
_MASKED, _CERTIFIED = 128, 32
#: Crops on which layers are compared; the worst are among them.
_LAYERED = 8
#: Of each of these, how many are the worst.
_WORST_SHARE = 0.25
#: Flips of a block that chance may add to those that rounding predicts: so many standard deviations, and a few.
_DEVIATIONS, _FEW = 4.0, 10.0
_NO_MASK = ("none", "soft")
Bar = Callable[[int, str, str], AbstractContextManager[Callable[[int], object]]]


def run_ladder(
    sides: Sides,
    sample: Sample,
    gates: Gates,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
    progress: Bar = bar,
) -> Ladder:
    """Run every rung.

    Args:
        sides: that fit each other.
        sample: crops of their size.
        gates: what to reach.
        seed: of the crops that some rungs take of the sample.
        report: takes a line when a rung is done, and what is to be said loudly.
        progress: makes a bar of a total, a label and a unit.

    Raises:
        SanError: the reference does not run.
    """
    run = _Run(sides, sample, gates, seed, progress)
    for note in sides.notes:
        report(note)
    stages = []
    for rung in (run.artefact, run.preprocessing, run.embeddings, run.masks, run.divergence, run.ranking):
        if rung == run.masks:
            run.export(report)
        start = time.perf_counter()
        stage = rung()
        stage = replace(_with_wanted(stage, gates), seconds=time.perf_counter() - start)
        stages.append(stage)
        report(_told(stage))
    return Ladder(
        reference=sides.reference.told(),
        target=sides.target.told(),
        crops=len(sample),
        source=sample.source,
        stages=tuple(stages),
    )


def verdict(ladder: Ladder) -> GateError | None:
    """The error that names the gates that failed, each where it is worst; None where none did."""
    if not ladder.failed:
        return None
    worst: dict[str, Check] = {}
    for check in ladder.failed:
        worst[check.gate] = max(worst.get(check.gate, check), check, key=lambda known: known.excess)
    told = ", ".join(
        f"{check.gate} {check.value:.6g} (at {'least' if check.at_least else 'most'} {check.limit:.6g})"
        for check in worst.values()
    )
    stage = next((s for s in ladder.stages if isinstance(s.figures, DivergenceFigures)), None)
    figures = stage.figures if stage is not None else None
    why = figures.told if isinstance(figures, DivergenceFigures) else ""
    return GateError(
        f"{ladder.target['file']} does not give what {ladder.reference['file']} gives: {told}", why=why
    )


@dataclass(eq=False)
class _Run:
    """What the rungs share."""

    sides: Sides
    sample: Sample
    gates: Gates
    seed: int
    bar: Bar
    embedded: Embedded | None = None

    def artefact(self) -> Stage:
        stage = check_artefact(self.sides, self.gates)
        return replace(stage, notes=(*stage.notes, *self.sample.notes))

    def preprocessing(self) -> Stage:
        with self.bar(crops_seen(len(self.sample)), "preprocessing", "crop") as progress:
            try:
                return compare_preprocessing(
                    self.sides, self.sample, self.gates, seed=self.seed, progress=progress
                )
            except SanError as error:
                told = f"what the networks are given cannot be compared: {error}"
                return Stage("preprocessing", None, self.gates.check("preprocess_equal", np.nan, told))

    def embeddings(self) -> Stage:
        total = crops_run(self.sides.target, len(self.sample))
        with self.bar(total, "embedding", "crop") as progress:
            self.embedded = embed_both(
                self.sides.reference,
                self.sides.target,
                self.sample,
                self.gates,
                seed=self.seed,
                progress=progress,
            )
        return self.embedded.stage

    def export(self, report: Callable[[str], None]) -> None:
        """Make a checkpoint's graph, which two rungs look into, so that neither is timed with it.

        Where that fails, those rungs say so.
        """
        if not self.sides.reference.checkpoint:
            return
        with suppress(SanError):
            if self.sides.has_graphs:
                report("exporting the reference's graph, to compare masks and layers")
                _ = self.sides.reference_graph

    def masks(self) -> Stage:
        mask = self.sides.target.artefact.mask
        if mask in _NO_MASK:
            return Stage("masks", None, skipped=f"the target's network has no sharp mask ({mask})")
        if missing := self._no_graph():
            return Stage("masks", None, skipped=missing)
        try:
            return self._masks(self._done(), mask)
        except SanError as error:
            return self._broken("masks", "flipped", error)

    def _masks(self, known: Embedded, mask: str) -> Stage:
        from .certificate import certify
        from .stages.masks import compare_masks
        from .stages.probes import onnx_probe

        target = onnx_probe(self.sides.target_graph, self.sides.target.artefact)
        rows = self._some(known, _MASKED)
        images = self.sample.images(rows)
        names = [self.sample.names[row] for row in rows]
        figures = compare_masks(self.sides.mask_probe(), target, images, names, known.cosine[rows], mask=mask)
        notes = [*self.sides.graph_notes]
        try:
            certified = certify(
                self.sides.reference_graph,
                images[:_CERTIFIED],
                self.sides.reference_graph_artefact,
                precision=self.sides.target.artefact.precision,
            )
        except SanError as error:
            certified = ()
            notes.append(f"No certificate: {error}")
        figures = replace(figures, certified=certified)
        notes.append(f"On {len(rows)} of the crops, the worst among them.")
        return Stage("masks", figures, tuple(_mask_checks(figures, self.gates)), notes=tuple(notes))

    def divergence(self) -> Stage:
        from .stages.layers import find_divergence

        if missing := self._no_graph():
            return Stage("divergence", None, skipped=missing)
        rows = self._some(self._done(), _LAYERED)
        try:
            figures = find_divergence(
                self.sides.reference_graph,
                self.sides.target_graph,
                self.sample.images(rows),
                reference_artefact=self.sides.reference_graph_artefact,
                target_artefact=self.sides.target.artefact,
            )
        except SanError as error:
            return self._broken("divergence", "divergence", error)
        count = sum(layer.differs for layer in figures.layers)
        told = f"{count} of {len(figures.layers)} layers differ by more than rounding explains"
        if figures.first is not None:
            # What is different need not be a layer that both have.
            count = max(count, 1)
            where = figures.first.module or figures.first.name
            told += f", the first is {where}" + (f": {figures.told}" if figures.told else "")
        return Stage(
            "divergence",
            figures,
            self.gates.check("divergence", count, told),
            notes=tuple(self.sides.graph_notes),
        )

    def ranking(self) -> Stage:
        known = self._done()
        return compare_ranking(
            known.reference, known.target, self.sample.tracks, self.sample.labels, self.gates
        )

    def _no_graph(self) -> str:
        """Why nothing shows what the target computes; empty where its graph is here."""
        try:
            _ = self.sides.target_graph
        except SanError as error:
            return str(error).rstrip(".")
        return ""

    def _broken(self, rung: str, gate: str, error: SanError) -> Stage:
        """A rung whose graphs are here and cannot be compared: a failure, unless its gate is off."""
        checks = self.gates.check(gate, np.nan, f"the graphs cannot be compared: {error}")
        return Stage(rung, None, checks, skipped="" if checks else str(error).rstrip("."))

    def _done(self) -> Embedded:
        assert self.embedded is not None
        return self.embedded

    def _some(self, known: Embedded, count: int) -> np.ndarray:
        """Rows of at most `count` crops: the worst, then others by seed."""
        worst = known.worst[: max(1, int(count * _WORST_SHARE))]
        rest = np.setdiff1d(np.arange(len(self.sample)), worst)
        others = np.random.default_rng([self.seed, 3]).permutation(rest)
        return np.concatenate([worst, others])[:count]


def _with_wanted(stage: Stage, gates: Gates) -> Stage:
    """With a failure for each gate that the user asked for and the rung did not measure: that is no pass."""
    missing = (gates.wanted & GATES_OF[stage.name]) - {check.gate for check in stage.checks}
    told = f"asked for and not measured: {stage.skipped or 'there is nothing here to measure it on'}"
    checks = [check for name in sorted(missing) for check in gates.check(name, np.nan, told)]
    return replace(stage, checks=(*stage.checks, *checks))


def _mask_checks(figures: MaskFigures, gates: Gates) -> Iterable[Check]:
    blocks = figures.blocks
    if not blocks:
        return
    share = max(blocks, key=lambda block: block.flipped / max(block.bits, 1))
    told = f"{share.flipped} of {share.bits} bits of {share.name} are flipped, the most of all blocks"
    yield from gates.check("flipped", share.flipped / max(share.bits, 1), told)
    if figures.mask != "argmax":
        # A bit of a smooth mask is no bit: nothing predicts it.
        return

    def ratio(block: Any) -> float:
        # A few flips are chance: a ratio to next to nothing would say nothing.
        chance = _DEVIATIONS * np.sqrt(max(block.predicted, 0.0)) + _FEW
        return float(max(block.flipped - chance, 0.0) / max(block.predicted, 1.0))

    most = max(blocks, key=ratio)
    told = (
        f"{most.flipped} flips in {most.name}, where rounding predicts {most.predicted:.1f}, chance left out"
    )
    yield from gates.check("unexplained_flips", ratio(most), told)


def _told(stage: Stage) -> str:
    took = f"{stage.seconds:.1f} s"
    if stage.skipped and not stage.checks:
        return f"{stage.name}: skipped, {stage.skipped.rstrip('.')}"
    failed = dict.fromkeys(check.gate for check in stage.checks if not check.passed)
    return f"{stage.name}: " + (f"FAILED {', '.join(failed)}" if failed else "passed") + f", {took}"
