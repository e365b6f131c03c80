"""`san import`: an embedding network that others trained becomes an artefact of ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..io.interrupts import held_interrupts
from . import options

if TYPE_CHECKING:
    from san_export.importing.convention import Convention
    from san_export.importing.run import Imported
    from san_export.importing.trial import Trial


class _Size(click.ParamType):
    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", str(value))
        if match is None:
            self.fail(f"'{value}' is no size; give height and width, for example 256x128", param, ctx)
        return int(match[1]), int(match[2])


class _Three(click.ParamType):
    name = "A,B,C"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        try:
            one, two, three = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is not three numbers, for example 0.485,0.456,0.406", param, ctx)
        return one, two, three


@click.command("import", cls=options.GroupedCommand)
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "-o", "out", metavar="FILE.onnx", type=click.Path(path_type=Path), help="The artefact to write."
)
@click.option(
    "--preset",
    metavar="NAME",
    default="",
    help="Whose convention it follows: torchreid, fastreid, transreid, tao, openvino-bgr or boxmot.",
)
@click.option("--color", metavar="rgb|bgr", help="Order of its channels.")
@click.option(
    "--scale", type=click.IntRange(1, 255), metavar="255|1", help="What pixels are divided by first."
)
@click.option("--mean", type=_Three(), help="Subtracted after that, in the order of --color.")
@click.option("--std", type=_Three(), help="Divided by after that.")
@click.option("--resize", metavar="NAME", help="How its crops are resized.")
@click.option("--size", type=_Size(), help="Height x width, where the file leaves them open.")
@click.option(
    "--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of its input's axes, where it is not plain."
)
@click.option("--output", "name", metavar="NAME", default="", help="Which output is the embedding.")
@click.option(
    "--input", "input_form", type=click.Choice(["uint8", "float"]), default="uint8", help="Of the artefact."
)
@click.option(
    "--normalise/--no-normalise",
    default=None,
    help="Add the L2 norm, or refuse rows that need it.  [default: where rows are not of length 1]",
)
@click.option("--crops", metavar="DIR", type=click.Path(path_type=Path), help="Crops to check on.")
@click.option(
    "--reference",
    metavar="ROWS.npy",
    type=click.Path(path_type=Path),
    help="What your own program gives for --crops, in sorted order.",
)
@click.option(
    "--try",
    "trial",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Rank these labelled crops under every plausible convention, and write nothing.",
)
@click.option(
    "--arch",
    default="",
    help="Of PyTorch weights: osnet, ha-cnn, rga-sc, rga-s or rga-c.  [default: what their names say]",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@options.as_json
def command(
    *, model: Path, out: Path | None, as_json: bool, trial: Path | None, force: bool, **given: Any
) -> None:
    """Wrap MODEL, a network from a crop to an embedding, so that every command here takes it.

    An .onnx file is any network, and so is the .xml file of an IR of OpenVINO. PyTorch weights (.pth, .pt, .tar,
    .safetensors, or a folder of Roboflow's reid) are of a network that we have: -o FILE.safetensors makes a checkpoint,
    -o FILE.onnx exports it as well.

    An ONNX network's input is (pixel / scale - mean) / std. The artefact takes uint8 BGR crops, gives unit rows, and
    is compared with the original before it gets its name.
    """
    from ..errors import UsageError
    from ..io.atomic import refuse_existing
    from ..io.progress import bar

    if trial is None and out is None:
        raise UsageError(
            "nothing to do", do="name the file to write: -o mine.onnx, or labelled crops: --try DIR"
        )
    if trial is not None and out is not None:
        raise UsageError(
            "--try writes nothing", do="leave -o out, and give the convention that it finds afterwards"
        )
    from san_export.importing.kinds import is_weights

    if out is not None:
        endings = (".onnx", ".safetensors") if is_weights(model) else (".onnx",)
        if out.suffix.lower() not in endings:
            raise UsageError(f"{out} does not end in {' or '.join(endings)}")
        refuse_existing(out, force=force)
    if is_weights(model):
        if out is None:
            raise UsageError(
                "--try is for ONNX files", do="import the weights, then: san eval DIR -m FILE.onnx"
            )
        click.echo(_import_weights(model, out, given, force=force, as_json=as_json))
        return
    if given["arch"]:
        raise UsageError("--arch is for PyTorch weights", do="leave it out: an ONNX file says what it is")
    if trial is None:
        convention = _convention(given)
    from san_export.importing.convention import plausible
    from san_export.importing.foreign import read_foreign
    from san_export.importing.run import ImportOptions, import_model
    from san_export.importing.trial import try_conventions

    if trial is not None:
        foreign = read_foreign(
            model, size_hw=given["size"], layout=given["layout"] or "", output=given["name"]
        )
        with bar(len(plausible()), "trying", "convention", quiet=as_json) as advance:
            found = try_conventions(foreign, trial, advance=advance)
        click.echo(_trial_json(found) if as_json else _trial_text(found, model))
        return
    assert out is not None
    chosen = ImportOptions(
        source=model,
        convention=convention,
        size_hw=given["size"],
        layout=given["layout"] or "",
        output=given["name"],
        input_form=given["input_form"],
        normalise=given["normalise"],
        crops=given["crops"],
        reference=given["reference"],
    )
    result = import_model(chosen, out, force=force, report=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"model": str(out), **result.as_dict()}, indent=2, sort_keys=True))
    else:
        click.echo(_text(result, out))


def _import_weights(model: Path, out: Path, given: dict[str, Any], *, force: bool, as_json: bool) -> str:
    """What was written of PyTorch weights, as text or JSON."""
    with held_interrupts():
        from san_export.importing.weights import import_file

    from ..errors import UsageError

    ours = ("preset", "color", "scale", "mean", "std", "resize", "layout", "name", "normalise", "reference")
    if extra := [name for name in ours if given[name]]:
        option = {"name": "output"}.get(extra[0], extra[0])
        raise UsageError(
            f"--{option} is for ONNX files", do="leave it out: the network's own convention holds"
        )
    artefact = import_file(
        model,
        out,
        arch=given["arch"],
        size_hw=given["size"],
        input_form=given["input_form"],
        crops=given["crops"],
        force=force,
        report=lambda line: click.echo(line, err=True),
    )
    if as_json:
        return json.dumps({"model": str(out), "artefact": artefact.as_dict()}, indent=2, sort_keys=True)
    from . import text

    following = f"san export {out}" if out.suffix == ".safetensors" else f"san threshold CROPS -m {out}"
    return text.columns(
        [
            ("model", f"{out}, {text.megabytes(out.stat().st_size)}"),
            ("is", text.identity(artefact)),
            *(("checked", line) for line in text.checks(artefact.checks)),
            ("next", following),
        ]
    )


def _convention(given: dict[str, Any]) -> Convention:
    """The preset with what was given in its place; refused where nothing says what the network expects."""
    from dataclasses import replace

    from san_export.importing.convention import PRESETS, Convention

    from ..errors import UsageError

    fields = ("color", "scale", "mean", "std", "resize")
    own = {name: given[name] for name in fields if given[name] is not None}
    if given["preset"]:
        if given["preset"] not in PRESETS:
            raise UsageError(f"--preset {given['preset']} is unknown", do=f"give one of {', '.join(PRESETS)}")
        return replace(PRESETS[given["preset"]], **own)
    if lacking := [f"--{name}" for name in fields[:4] if given[name] is None]:
        raise UsageError(
            f"what the network expects is not said: {', '.join(lacking)}",
            why="with another convention it embeds without an error, and matches badly",
            do=f"give them, or --preset ({', '.join(PRESETS)}), or find out on labelled crops: --try DIR",
        )
    return Convention(**own)


def _text(result: Imported, output: Path) -> str:
    from . import text

    artefact = result.artefact
    rows = [
        ("model", f"{output}, {text.megabytes(output.stat().st_size)}"),
        (
            "is",
            f"{artefact.settings['file']}, {artefact.size_hw[0]} x {artefact.size_hw[1]}, "
            f"{artefact.embedding_dim} numbers",
        ),
        *(
            ("checked", line)
            for line in text.checks({k: v for k, v in artefact.checks.items() if k != "owner"})
        ),
    ]
    if result.against_reference is not None:
        figures = ", ".join(f"{name} {value:.6f}" for name, value in result.against_reference.items())
        rows.append(("owner", f"against your rows: {figures}"))
    rows += [("", note) for note in result.notes]
    if result.problems:
        more = f", and {len(result.problems) - 1} more" if len(result.problems) > 1 else ""
        rows.append(("TensorRT", f"10.3 would not run it as it is: {result.problems[0]}{more}"))
    rows.append(("next", f"san threshold CROPS -m {output}, since nobody calibrated its threshold"))
    return text.columns(rows)


def _trial_text(found: list[Trial], model: Path) -> str:
    lines = [f"{'rank-1':>7} {'mAP':>7}  convention"]
    for item in found:
        if item.mean_ap is None:
            lines.append(f"{'NaN':>7} {'':>7}  {item.convention}")
        else:
            lines.append(f"{item.rank1:>7.1%} {item.mean_ap:>7.1%}  {item.convention}")
    if found[0].mean_ap is None:
        lines.append("Every convention gives NaN: the file is broken.")
        return "\n".join(lines)
    lines.append(f"The first is likeliest: san import {model} -o FILE.onnx {found[0].convention}")
    if len(found) > 1 and found[0].mean_ap <= (found[1].mean_ap or 0) + 0.01:
        lines.append("It is no more than a point better than the next: ask whoever trained the network.")
    return "\n".join(lines)


def _trial_json(found: list[Trial]) -> str:
    return json.dumps([item.as_dict() for item in found], indent=2, sort_keys=True, allow_nan=False)
