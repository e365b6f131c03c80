"""A parity run: its stages one after another, each timed, none stopped by what is wrong with the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace

import numpy as np

from san_deploy.errors import GateError, SanError
from san_deploy.io.cpu import give_back
from san_deploy.io.progress import bar

from . import text
from .gates import GATES_OF, Gates
from .models import ModelPair
from .result import INSIDE, BlockFlips, Check, MaskCost, MaskFigures, ParityRun, Stage
from .sample import Sample
from .stages.artefact import check_artefact
from .stages.embeddings import EmbeddedPair, crops_run, embed_pair
from .stages.preprocessing import compare_preprocessing, crops_seen
from .stages.ranking import compare_ranking

#: Crops whose masks are compared: at most, and at least where fewer have so many bits. Shares of bits need no more.
_MASKED, _FEWEST, _BITS = 128, 16, 2**24
#: Crops on which layers are compared, and on which other masks are tried where argmax misses its gates. The worst are
#: among all of these.
_LAYERED, _MILDER = 8, 32
#: Of each of these, how many are the worst.
_WORST_SHARE = 0.25
#: Flips of a block that chance may add to those that rounding predicts: so many standard deviations, and a few.
_DEVIATIONS, _FEW = 4.0, 10.0
_NO_MASK = ("none", "soft")
Bar = Callable[[int, str, str], AbstractContextManager[Callable[[int], object]]]


def run_parity(
    pair: ModelPair,
    sample: Sample,
    gates: Gates,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
    progress: Bar = bar,
) -> ParityRun:
    """Run every stage.

    The verdict rests on what the target says of itself, on its embeddings and on its ranking. The stages that look
    inside compare what can be paired; what they find fails the target only where its embeddings or its ranking fail,
    or where the user set their gate.

    Args:
        pair: that fit each other.
        sample: crops of their size.
        gates: what to reach.
        seed: of the crops that some stages take of the sample.
        report: takes a line when a stage is done, and what is to be said loudly.
        progress: makes a bar of a total, a label and a unit.

    Raises:
        SanError: the reference does not run.
    """
    run = _Run(pair, sample, gates, seed, progress)
    for note in pair.notes:
        report(note)
    stages: list[Stage] = []
    # As late as may be: its memory is wanted before. Where the target has no graph, it may stand in for it.
    looks_inside = run.layers if pair.target.model is not None else run.masks
    for stage in (run.artefact, run.embeddings, run.ranking, run.preprocessing, run.masks, run.layers):
        if stage == looks_inside:
            run.export(report)
        start = time.perf_counter()
        done = stage()
        done = replace(_settled(done, gates, run.broken), seconds=time.perf_counter() - start)
        stages.append(done)
        run.broken |= done.name in ("embeddings", "ranking") and not done.passed
        report(text.progress_line(done))
    return ParityRun(
        reference=pair.reference.as_dict(),
        target=pair.target.as_dict(),
        crops=len(sample),
        source=sample.source,
        stages=tuple(stages),
    )


def gate_error(run: ParityRun) -> GateError | None:
    """The error that names the gates that failed, each where it is worst; None where none did."""
    if not run.failed:
        return None
    worst: dict[str, Check] = {}
    for check in run.failed:
        worst[check.gate] = max(worst.get(check.gate, check), check, key=lambda known: known.excess)
    missed = ", ".join(
        f"{check.gate} {check.value:.6g} (at {'least' if check.at_least else 'most'} {check.limit:.6g})"
        for check in worst.values()
    )
    return GateError(
        f"{run.target['file']} does not give what {run.reference['file']} gives: {missed}",
        why=text.finding(run),
    )


@dataclass(eq=False)
class _Run:
    """What the stages share."""

    pair: ModelPair
    sample: Sample
    gates: Gates
    seed: int
    bar: Bar
    embedded: EmbeddedPair | None = None
    broken: bool = False

    def artefact(self) -> Stage:
        if self.pair.target.outputs is not None:
            return Stage("artefact", None, skipped="rows of another program say nothing of themselves")
        stage = check_artefact(self.pair, self.gates)
        return replace(stage, notes=(*stage.notes, *self.sample.notes))

    def embeddings(self) -> Stage:
        with self.bar(crops_run(self.pair, len(self.sample)), "embedding", "crop") as progress:
            self.embedded = embed_pair(self.pair, self.sample, self.gates, seed=self.seed, progress=progress)
        for model in (self.pair.reference, self.pair.target):
            model.close()
        give_back()
        return self.embedded.stage

    def ranking(self) -> Stage:
        known = self._done()
        return compare_ranking(
            known.reference, known.target, self.sample.tracks, self.sample.labels, self.gates
        )

    def preprocessing(self) -> Stage:
        if self.pair.target.outputs is not None:
            return Stage("preprocessing", None, skipped="what another program feeds its network is not seen")
        with self.bar(crops_seen(len(self.sample)), "preprocessing", "crop") as progress:
            try:
                return compare_preprocessing(
                    self.pair, self.sample, self.gates, seed=self.seed, progress=progress
                )
            except SanError as error:
                return _not_comparable("preprocessing", error)

    def export(self, report: Callable[[str], None]) -> None:
        """Make a checkpoint's graph, which the stages inside look into, so that none is timed with it.

        Where that fails, those stages say so.
        """
        if not self.pair.reference.checkpoint:
            return
        with suppress(SanError):
            if self.pair.has_graphs:
                report("exporting the reference's graph, to compare masks and layers")
                _ = self.pair.reference_graph

    def masks(self) -> Stage:
        mask = self.pair.target.artefact.mask
        if mask in _NO_MASK:
            return Stage("masks", None, skipped=f"the target's network has no sharp mask ({mask})")
        if missing := self._no_graph():
            return Stage("masks", None, skipped=missing)
        try:
            return self._masks(self._done(), mask)
        except SanError as error:
            return _not_comparable("masks", error)

    def _masks(self, known: EmbeddedPair, mask: str) -> Stage:
        from .stages.masks import compare_masks
        from .stages.probes import onnx_probe

        target = onnx_probe(self.pair.target_graph, self.pair.target.artefact)
        rows = self._some(known, min(_MASKED, max(_FEWEST, _BITS // max(target.bits, 1))))
        names = [self.sample.names[row] for row in rows]
        figures = compare_masks(
            self.pair.mask_probe(), target, self.sample.images(rows), names, known.cosine[rows], mask=mask
        )
        if self.broken and mask == self.pair.reference.artefact.mask == "argmax":
            del target
            figures = replace(figures, alternatives=self._milder_masks(self._some(known, _MILDER)))
        notes = [*self.pair.graph_notes, f"On {len(rows)} of the crops, the worst among them."]
        if not figures.blocks:
            notes.insert(0, "Not comparable here: no sharp mask was found that both have.")
        return Stage("masks", figures, tuple(_mask_checks(figures, self.gates)), notes=tuple(notes))

    def _milder_masks(self, rows: np.ndarray) -> tuple[MaskCost, ...]:
        from .stages.milder_masks import graph_rows, measure_masks, torch_rows

        pair = self.pair
        give_back()
        if pair.reference.checkpoint:
            reference = torch_rows(pair.network)
        else:
            reference = graph_rows(pair.reference_graph, pair.reference_graph_artefact)
        target = graph_rows(pair.target_graph, pair.target.artefact)
        return measure_masks(reference, target, self.sample.images(rows))

    def layers(self) -> Stage:
        from .stages.layers import GraphRun, compare_layers

        if missing := self._no_graph():
            return Stage("layers", None, skipped=missing)
        pair = self.pair
        images = self.sample.images(self._some(self._done(), _LAYERED))
        try:
            figures = compare_layers(
                GraphRun.of(pair.reference_graph, pair.reference_graph_artefact, images),
                GraphRun.of(pair.target_graph, pair.target.artefact, images),
                same_masks=pair.reference.artefact.mask == pair.target.artefact.mask,
            )
        except SanError as error:
            return _not_comparable("layers", error)
        count = sum(layer.differs for layer in figures.layers)
        message = f"{count} of {len(figures.layers)} layers differ by more than rounding explains"
        if figures.first is not None:
            message += f", the first is {text.layer(figures.first)}"
        notes = list(pair.graph_notes)
        if figures.unpaired:
            notes.append(
                f"Not comparable here: {text.count(figures.unpaired, 'value')} of the target without a counterpart of "
                "the same name and place in the reference."
            )
        return Stage("layers", figures, self.gates.check("layers", count, message), notes=tuple(notes))

    def _no_graph(self) -> str:
        """Why nothing shows what the target computes; empty where its graph is here."""
        if self.pair.target.outputs is not None:
            return "what another program computes is not seen"
        try:
            _ = self.pair.target_graph
        except SanError as error:
            return str(error).rstrip(".")
        return ""

    def _done(self) -> EmbeddedPair:
        assert self.embedded is not None
        return self.embedded

    def _some(self, known: EmbeddedPair, count: int) -> np.ndarray:
        """Rows of at most `count` crops: the worst, then others by seed."""
        worst = known.worst[: max(1, int(count * _WORST_SHARE))]
        rest = np.setdiff1d(np.arange(len(self.sample)), worst)
        others = np.random.default_rng([self.seed, 3]).permutation(rest)
        return np.concatenate([worst, others])[:count]


def _not_comparable(stage: str, error: SanError) -> Stage:
    """A stage that looks inside and sees nothing that it could pair."""
    return Stage(stage, None, skipped=f"not comparable here: {error}".rstrip("."))


def _settled(stage: Stage, gates: Gates, broken: bool) -> Stage:
    """Say which checks decide, and fail each gate that the user set and the stage did not measure: that is no pass."""
    checks = stage.checks
    if stage.name in INSIDE and not broken:
        checks = tuple(replace(check, decides=check.gate in gates.asked) for check in checks)
    missing = (gates.wanted & GATES_OF[stage.name]) - {check.gate for check in checks}
    message = f"asked for and not measured: {stage.skipped or 'there is nothing here to measure it on'}"
    more = [check for name in sorted(missing) for check in gates.check(name, np.nan, message)]
    return replace(stage, checks=(*checks, *more))


def _mask_checks(figures: MaskFigures, gates: Gates) -> Iterable[Check]:
    if figures.missing or figures.added:
        absent = [f"{name} is missing" for name in figures.missing]
        absent += [f"{name} is not in the reference" for name in figures.added]
        yield from gates.check("flipped", np.nan, f"of the target's sharp masks {', '.join(absent)}")
    blocks = figures.blocks
    if not blocks:
        return
    most = max(blocks, key=text.flipped_share)
    message = f"{most.flipped} of {most.bits} bits of {most.name} are flipped, the most of all blocks"
    yield from gates.check("flipped", text.flipped_share(most), message)
    if figures.mask != "argmax":
        # A bit of a smooth mask is no bit: nothing predicts it.
        return

    def ratio(block: BlockFlips) -> float:
        # A few flips are chance: a ratio to next to nothing would say nothing.
        chance = _DEVIATIONS * np.sqrt(max(block.predicted, 0.0)) + _FEW
        return float(max(block.flipped - chance, 0.0) / max(block.predicted, 1.0))

    most = max(blocks, key=ratio)
    message = (
        f"{most.flipped} flips in {most.name}, where rounding predicts {most.predicted:.1f}, chance left out"
    )
    yield from gates.check("unexplained_flips", ratio(most), message)
