"""`san export`: turn a checkpoint into an ONNX file that the edge runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..export.checkpoint import Exported


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to write, *.onnx; its description goes to *.onnx.json.",
)
@click.option(
    "--mask",
    metavar="argmax|expected|ramp:EPS",
    help="How features are gated. [default: argmax, the sharp mask]",
)
@click.option(
    "--input",
    "input_form",
    type=click.Choice(["uint8", "float"]),
    default="uint8",
    show_default=True,
    help="uint8: N x H x W x 3, BGR, as OpenCV delivers. float: N x 3 x H x W, RGB, 0..255.",
)
@click.option(
    "--crops",
    type=click.Path(path_type=Path),
    help="A folder of crops to check the file on. [default: drawn people]",
)
@click.option(
    "--min-cosine",
    type=click.FloatRange(-1.0, 1.0),
    help="Least cosine of an embedding with PyTorch's. "
    "[default: 0.999 for argmax, 0.9999 for ramp, else 0.99999]",
)
@click.option(
    "--opset", type=click.IntRange(18, 22), default=18, show_default=True, help="ONNX operator set."
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@options.as_json
def command(
    *,
    checkpoint: Path,
    output: Path,
    mask: str | None,
    input_form: str,
    crops: Path | None,
    min_cosine: float | None,
    opset: int,
    force: bool,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT, written by san train, into an ONNX file that the edge runs.

    Before the file gets its name, ONNX Runtime is compared with PyTorch, crop by crop and at several batch
    sizes. Where they differ, nothing is written and the exit code is 3.
    """
    if min_cosine is not None and math.isnan(min_cosine):
        raise click.BadParameter("nan is no cosine", param_hint="--min-cosine")

    from ..export.checkpoint import export_checkpoint

    exported = export_checkpoint(
        checkpoint,
        output,
        mask=mask,
        input_form=input_form,
        crops=crops,
        min_cosine=min_cosine,
        opset=opset,
        force=force,
        report=lambda line: click.echo(line, err=True),
    )
    if as_json:
        click.echo(json.dumps(_plain(exported), indent=2, sort_keys=True))
    else:
        click.echo(_text(exported, checkpoint))


def _plain(exported: Exported) -> dict[str, Any]:
    return {
        "model": str(exported.path),
        "bytes": exported.file_bytes,
        "parameters": exported.parameters,
        "opset": exported.opset,
        "gate": exported.gate,
        "artefact": exported.artefact.as_dict(),
    }


def _text(exported: Exported, checkpoint: Path) -> str:
    artefact, parity = exported.artefact, exported.parity
    height, width = artefact.size_hw
    shape = f"N x {height} x {width} x 3 uint8 BGR"
    if artefact.input == "float":
        shape = f"N x 3 x {height} x {width} float32 RGB 0..255"
    size = f"{exported.file_bytes / 1e6:.1f} MB, opset {exported.opset}, SHA-256 {artefact.sha256[:12]}"
    weights = f"{exported.parameters / 1e6:.2f} M parameters"
    rows = [
        ("exported", f"{checkpoint}: {artefact.arch}, {weights}, mask {artefact.mask}"),
        ("to", f"{exported.path}: {size}"),
        ("", f"crops {shape} to embeddings N x {artefact.embedding_dim} of norm 1"),
        (
            "checked",
            f"ONNX Runtime against PyTorch on {parity.crops} {parity.source}, gate {exported.gate:g}",
        ),
    ]
    for figures in parity.batches:
        cosines = f"row cosine at least {figures.min_cosine:.7f}, mean {figures.mean_cosine:.7f}"
        rows.append(("", f"batch {figures.batch:>2}: {cosines}, difference at most {figures.max_abs:.1e}"))
    rows.append(("", f"a crop in another batch: row cosine at least {parity.invariance:.7f}"))
    threshold = ""
    if artefact.threshold is None:
        # san match refuses to guess; the command that is printed must run as it stands.
        threshold = " --threshold 0.5"
        rows.append(("", "no threshold was calibrated for this checkpoint; 0.5 below is a guess"))
    rows.append(("next", f"san embed CROPS -o crops.npz -m {exported.path}"))
    rows.append(("", f"san match CAM1 CAM2 -o report -m {exported.path}{threshold}"))
    return "\n".join(f"{name:<10}{text}" for name, text in rows)
