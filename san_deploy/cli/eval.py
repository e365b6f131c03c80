"""`san eval`: a model on a labelled data set, by the field's protocols."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import options

if TYPE_CHECKING:
    from ..datasets import Options
    from ..evaluation import EvalConfig
    from ..evaluation.result import EvaluationResult
    from ..reports.evaluation_page import DrawMasks

_Command = TypeVar("_Command", bound=Callable[..., Any])
#: The false match rate that a threshold is suggested for, and pairs that it is counted on at most.
_SUGGESTED_FMR, _SUGGESTED_PAIRS = 0.01, 1_000_000


def _apply(command: _Command, *decorators: Callable[[_Command], _Command]) -> _Command:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _data(command: _Command) -> _Command:
    """How the data set is read, and what of it is evaluated: fields of `datasets.Options`, and the split."""
    return _apply(
        command,
        click.option(
            "--split", help="What to evaluate, or `all`.  [default: query against gallery, or `test`]"
        ),
        options.data_set,
        click.option("--distractors", is_flag=True, help="Add Market-1501's 500k distractors."),
    )


def _method(command: _Command) -> _Command:
    """How it is evaluated: `evaluation.EvalConfig`."""
    return _apply(
        command,
        click.option(
            "--tta",
            default="none",
            show_default=True,
            metavar="none|flip|ten-crop",
            help="Views of each crop whose embeddings are summed.",
        ),
        click.option(
            "--tracklets", is_flag=True, help="Pool each tracklet's crops as well, as san match does."
        ),
        click.option(
            "--center", is_flag=True, help="Take each camera's mean off its crops' embeddings first."
        ),
        click.option("--rerank", is_flag=True, help="Re-rank by k-reciprocal neighbours."),
        click.option("--k1", type=int, help="Of --rerank.  [default: 20]"),
        click.option("--k2", type=int, help="Of --rerank.  [default: 6]"),
        click.option("--lambda", "weight", type=options.Number(0, 1), help="Of --rerank.  [default: 0.3]"),
        click.option("--query-expansion", is_flag=True, help="Draw queries towards their nearest answers."),
        click.option("--neighbours", type=int, help="Of --query-expansion.  [default: 10]"),
        click.option("--alpha", type=options.Number(0), help="Of --query-expansion.  [default: 3]"),
        click.option(
            "--single-shot", is_flag=True, help="CUHK03's single-gallery-shot figures for any data set."
        ),
        click.option("--draws", type=click.IntRange(0, 10000), help="Of those galleries.  [default: 20]"),
        click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of the draws.  [default: 0]"),
        options.removed("--rank-device", do="leave it out: similarities are computed on the CPU"),
    )


@click.command(
    "eval", short_help="Evaluate a model on a labelled data set: CMC, mAP, mINP.", cls=options.GroupedCommand
)
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@options.model
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="A checkpoint of san train; needs PyTorch."
)
@click.option(
    "--mask", metavar="argmax|expected|ramp:EPS", help="Of a checkpoint's network.  [default: its own]"
)
@options.running
@_data
@_method
@options.reading
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help="Folder to write: eval.json, the page eval.html, the plot cmc.svg.",
)
@click.option(
    "--lists",
    type=click.IntRange(0, 100),
    help="Worst rank lists on the page, and as many of the best.  [default: 8]",
)
@click.option("--save-embeddings", is_flag=True, help="Write embeddings.npz into the folder as well.")
@click.option("--force", is_flag=True, help="Replace an earlier output folder.")
@options.as_json
def command(
    *,
    data: Path,
    model: Path | None,
    checkpoint: Path | None,
    mask: str | None,
    backend: str,
    device: str,
    batch: int,
    workers: int | None,
    strict: bool,
    split: str | None,
    out: Path | None,
    lists: int | None,
    save_embeddings: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Evaluate a model on DATA: CMC rank-1/5/10/20, mAP and mINP, as papers print them.

    DATA is Market-1501, DukeMTMC-reID, CUHK03, MSMT17, WARD, a crop folder with identities.csv, or any folder
    whose file names say who is on them (--pattern). docs/evaluation.md has their folder trees and protocols.
    """
    from ..backends import STARTER, open_backend
    from ..datasets import evaluation_set, read_dataset
    from ..errors import UsageError
    from ..evaluation import evaluate_set
    from ..evaluation.output import OUTPUTS, PAGE, as_dict, as_text
    from ..evaluation.run import check, check_choices, wants_single_shot
    from ..io.atomic import atomic_folder

    if model and checkpoint:
        raise UsageError("-m and --checkpoint both name the model", do="give one of them")
    for name, asked in (("save-embeddings", save_embeddings), ("lists", lists is not None)):
        if asked and not out:
            raise UsageError(f"--{name} needs a folder", do="give one: -o FOLDER")
    if checkpoint and checkpoint.suffix != ".safetensors":
        raise UsageError(f"{checkpoint} is no checkpoint (.safetensors)", do=f"give it as -m {checkpoint}")
    read_options, choices = _options(given), _choices(given)
    check_choices(choices)
    # Everything that can be refused is refused before the first crop is embedded, the folder included; what is
    # wrong with the command line and the model before the data set is read.
    with atomic_folder(out, force=force, ours=OUTPUTS) if out else nullcontext() as folder:
        runtime = open_backend(checkpoint or model, backend=backend, device=device, mask=mask)
        dataset = read_dataset(data, read_options)
        click.echo(dataset.summary(), err=True)
        chosen = evaluation_set(dataset, split)
        click.echo(chosen.summary(), err=True)
        check(chosen, choices)
        unused = [name for name in ("draws", "seed") if given[name] is not None]
        if unused and not wants_single_shot(chosen, choices):
            raise UsageError(
                f"--{unused[0]} is not for {chosen.name}",
                do="--single-shot gives such figures for it, without --rerank and --query-expansion",
            )
        options.say(runtime)
        result = evaluate_set(chosen, runtime, choices, batch=batch, workers=workers, strict=strict)
        summary = as_dict(
            result,
            runtime,
            read_options,
            model=checkpoint or model or STARTER,
            split=split,
            batch=batch,
            splits=dataset.rows(),
        )
        if folder:
            from ..reports.evaluation_files import write_evaluation

            write_evaluation(
                folder,
                result,
                summary,
                read_options,
                lists=8 if lists is None else lists,
                embeddings=save_embeddings,
                draw_masks=_draw_masks(checkpoint or model or STARTER, runtime.artefact.mask),
            )
    if as_json:
        click.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        click.echo(as_text(result, read_options))
        if line := _suggested_threshold(result, data):
            click.echo(line)
        if out:
            click.echo(f"page      {out / PAGE}")


def _suggested_threshold(result: EvaluationResult, data: Path) -> str:
    """The threshold that these people give, and the command that writes it; empty where tracklets say nothing."""
    import numpy as np

    from ..datasets import labels
    from ..errors import SanError
    from ..evaluation.run import has_tracklets
    from ..matching.threshold import choose_threshold, tracklet_similarities

    if not has_tracklets(result.chosen) or not result.choices.plain:
        return ""
    rows = {
        crop.path: (crop, row)
        for crops, places in (
            (result.chosen.query, result.query_rows),
            (result.chosen.gallery, result.gallery_rows),
        )
        for crop, row in zip(crops, places.tolist(), strict=True)
    }
    crops = [crop for crop, _ in rows.values()]
    named = labels(crops)
    try:
        genuine, impostor = tracklet_similarities(
            result.embedded.embedding[np.array([row for _, row in rows.values()])],
            person=named.person,
            camera=named.camera,
            track=named.track,
            max_pairs=_SUGGESTED_PAIRS,
        )
        rate = max(_SUGGESTED_FMR, 1.0 / max(1, len(impostor)))
        threshold = choose_threshold(genuine, impostor, source=data.name, false_match_rate=rate)
    except SanError:
        return ""  # too few people to speak of such a rate
    center = " --center" if result.choices.center else ""
    return (
        f"threshold {threshold.similarity:.4f} lets {threshold.false_match_rate:.2%} of impostor and "
        f"{threshold.true_match_rate:.1%} of genuine tracklet pairs of these people pass; with intervals: "
        f"san threshold {data}{center} --labels FILE"
    )


def _draw_masks(model: Path, mask: str) -> DrawMasks | None:
    """What shows a checkpoint's masks, which PyTorch has run already; None for an exported file."""
    if model.suffix != ".safetensors":
        return None
    from san_train.masks import draw_masks

    return lambda crops: draw_masks(model, crops, mask=mask)


def _options(given: dict[str, Any]) -> Options:
    return options.data_options(given, distractors=given["distractors"])


def _choices(given: dict[str, Any]) -> EvalConfig:
    from ..errors import UsageError
    from ..evaluation import TTA, EvalConfig, Expansion, Rerank

    def values(switch: str, **names: str) -> dict[str, Any] | None:
        """Values that were given of something that is switched on; None where it is off."""
        found = {name: given[option] for name, option in names.items() if given[option] is not None}
        if found and not given[switch]:
            spelt = {"weight": "lambda"}
            option = names[next(iter(found))]
            raise UsageError(
                f"--{spelt.get(option, option)} belongs to --{switch.replace('_', '-')}", do="give both"
            )
        return found if given[switch] else None

    rerank = values("rerank", k1="k1", k2="k2", weight="weight")
    expansion = values("query_expansion", count="neighbours", alpha="alpha")
    if given["seed"] is not None and given["draws"] == 0:
        raise UsageError("--seed is of the draws, and there are none", do="give --draws, or no --seed")
    choices = EvalConfig(
        views=TTA(given["tta"]),
        tracklets=given["tracklets"],
        rerank=None if rerank is None else Rerank(**rerank),
        expansion=None if expansion is None else Expansion(**expansion),
        single_shot=given["single_shot"],
        draws=20 if given["draws"] is None else given["draws"],
        seed=given["seed"] or 0,
        center=given["center"],
    )
    if given["single_shot"] and not choices.plain:
        raise UsageError(
            "--single-shot does not go with --rerank or --query-expansion",
            why="they look at the whole gallery, of which a draw has one crop per person",
        )
    return choices
