"""`san export`: turn a checkpoint into an ONNX file and an engine that the edge runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from . import text as words

if TYPE_CHECKING:
    from san_export.pipeline import Exported
    from san_export.verify import Parity

    from ..artefact import Artefact


class _Profile(click.ParamType):
    name = "MIN,OPT,MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        try:
            least, best, most = (int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"'{value}' is not of the form MIN,OPT,MAX, for example 1,16,64", param, ctx)
        if not 1 <= least <= best <= most <= 4096:
            self.fail(f"'{value}' does not rise from at least 1 to at most 4096", param, ctx)
        return least, best, most


def _targets(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    targets = tuple(part.strip() for part in text.split(","))
    if not all(targets):
        raise click.BadParameter(f"'{text}' is not of the form sm86,sm89", param_hint="--target")
    return targets


def _device(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not of the form cuda:1", param_hint="--device")
    return int(match[1] or 0)


_HEADINGS = {
    "Graph (of a checkpoint)": ("mask", "input_form", "opset"),
    "INT8": ("calib", "calib_count", "max_drop", "seed"),
    "Server (of a model file that was exported)": ("triton", "name", "triton_kind", "deepstream"),
    "Engine": (
        "engine",
        "runtime",
        "device",
        "batch",
        "targets",
        "workspace",
        "timing_cache",
        "tf32",
        "hardware_compatibility",
        "version_compatible",
    ),
}


@click.command("export", cls=options.GroupedCommand, sections=_HEADINGS)
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write, *.onnx or *.engine; descriptions go to *.json beside them.  "
    "[default: beside SOURCE, named after it]",
)
@click.option("--fp16", is_flag=True, help="Half precision; masks and norms are computed in FP32.")
@click.option(
    "--int8",
    is_flag=True,
    help="8-bit integers; needs --calib. Mask branches stay in FP32, or, with --fp16 too, in FP16.",
)
@click.option(
    "--crops",
    type=click.Path(path_type=Path),
    help="A folder of crops to check the file on.  [default: the sample crops; of --calib with --int8]",
)
@click.option(
    "--min-cosine",
    type=options.Number(-1.0, 1.0),
    help="Least cosine of an embedding with the reference's.  [default: by precision and mask]",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@options.as_json
@click.option(
    "--mask",
    metavar="argmax|expected|ramp:EPS",
    help="How features are gated, of a checkpoint or an FP32 ONNX file.  [default: argmax; an ONNX file's own]",
)
@click.option(
    "--input",
    "input_form",
    type=click.Choice(["uint8", "float"]),
    help="uint8: N x H x W x 3, BGR, as OpenCV delivers. float: N x 3 x H x W, RGB, 0..255.  [default: uint8]",
)
@click.option("--opset", type=click.IntRange(18, 22), help="ONNX operator set.  [default: 18]")
@click.option(
    "--calib",
    type=click.Path(path_type=Path),
    help="A folder of crops from your own cameras. With an identities.csv its test people are left out.",
)
@click.option(
    "--calib-num", "calib_count", type=click.IntRange(32, 100_000), help="Crops of it to use.  [default: 512]"
)
@click.option(
    "--max-drop",
    type=options.Number(0.0, 1.0),
    help="Largest loss of rank-1 and mAP (0.005: half a point) on the labelled crops of --calib; "
    "the worst layers are given back until it holds.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Chooses the crops.  [default: 0]")
@click.option(
    "--engine/--no-engine",
    default=None,
    help="Build a TensorRT engine, or stop at the ONNX file.  [default: where TensorRT is installed]",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "cpu"]),
    default="auto",
    show_default=True,
    help="What the file is for; cpu: ONNX Runtime's own form of INT8.",
)
@click.option(
    "--device", metavar="cuda:N", help="GPU to build the engine for and run it on.  [default: cuda:0]"
)
@click.option("--batch", type=_Profile(), help="Crops per run of the engine.  [default: 1,16,64]")
@click.option(
    "--target",
    "targets",
    metavar="SM[,SM...]",
    help="Build with TensorRT-RTX for these GPUs, without one: sm86,sm89,sm120.",
)
@click.option("--workspace", type=click.IntRange(1), metavar="MIB", help="Memory that a layer may use.")
@click.option(
    "--timing-cache", type=click.Path(path_type=Path), help="File that makes the next build faster."
)
@click.option(
    "--tf32/--no-tf32", default=None, help="Allow TF32 in FP32 convolutions.  [default: not, for accuracy]"
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["none", "same-sm", "ampere+"]),
    help="GPUs that the engine runs on beside this one.  [default: none]",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    default=None,
    help="For later TensorRT versions, too; the engine then carries code for the host.",
)
@click.option(
    "--triton",
    metavar="REPO",
    type=click.Path(path_type=Path),
    help="Put SOURCE into a Triton model repository.",
)
@click.option("--name", default="reid", show_default=True, help="What Triton calls it.")
@click.option(
    "--triton-kind",
    type=click.Choice(["native", "jpeg"]),
    default="native",
    show_default=True,
    help="native: prepared crops in, Triton's own backends. jpeg: image files in, Python backend.",
)
@click.option(
    "--deepstream",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write configurations for DeepStream's nvtracker and nvinfer, of a file with --input float.",
)
def command(
    *,
    source: Path | None,
    output: Path | None,
    fp16: bool,
    int8: bool,
    crops: Path | None,
    min_cosine: float | None,
    force: bool,
    as_json: bool,
    mask: str | None,
    input_form: str | None,
    opset: int | None,
    calib: Path | None,
    calib_count: int | None,
    max_drop: float | None,
    seed: int | None,
    engine: bool | None,
    runtime: str,
    device: str | None,
    batch: tuple[int, int, int] | None,
    targets: str | None,
    workspace: int | None,
    timing_cache: Path | None,
    tf32: bool | None,
    hardware_compatibility: str | None,
    version_compatible: bool | None,
    triton: Path | None,
    name: str,
    triton_kind: str,
    deepstream: Path | None,
) -> None:
    """Turn SOURCE into an ONNX file and, where TensorRT is installed, into an engine that the edge runs.

    SOURCE is a checkpoint of san train, or an ONNX file of san export, which needs no PyTorch: engines are
    built on the device that runs them. Without SOURCE, the starter model is exported into this folder.

    Before a file gets its name it is compared with what it was made from, crop by crop and at several batch
    sizes, and its precision is counted. Where either is not what was asked for, the exit code is 3.
    """
    if triton is not None or deepstream is not None:
        changes = (output, fp16 or None, int8 or None, mask, input_form, opset, calib, engine, batch, targets)
        if any(value is not None for value in changes):
            raise click.UsageError(
                "--triton and --deepstream take a file as it is: export it first, then give it"
            )
        _serve(source, triton, deepstream, name=name, kind=triton_kind, force=force)
        return

    from san_export.pipeline import export
    from san_export.request import EngineOptions, ExportRequest
    from san_export.verify import Gate

    from ..io.progress import bar

    exported = export(
        ExportRequest(
            source=source,
            out=output,
            precision="int8" if int8 else "fp16" if fp16 else None,
            rest="fp16" if int8 and fp16 else "fp32",
            mask=mask,
            input_form=input_form,
            opset=opset,
            crops=crops,
            gate=None if min_cosine is None else Gate(min_cosine),
            runtime=runtime,
            engine=engine,
            options=EngineOptions(
                batch=batch,
                workspace_mib=workspace,
                timing_cache=timing_cache,
                tf32=tf32,
                hardware_compatibility=hardware_compatibility,
                version_compatible=version_compatible,
                targets=_targets(targets),
                device=_device(device),
            ),
            calib=calib,
            calib_count=calib_count,
            max_drop=max_drop,
            seed=seed,
            force=force,
        ),
        report=lambda line: click.echo(line, err=True),
        progress=bar,
    )
    if as_json:
        click.echo(json.dumps(exported.as_dict(), indent=2, sort_keys=True))
    else:
        click.echo(_text(exported, "the starter model" if source is None else str(source)))
    if exported.missing:
        click.echo(exported.missing, err=True)


def _text(exported: Exported, source: str) -> str:
    artefact = exported.artefact
    what = f"{source}: {artefact.arch}, mask {artefact.mask}, {artefact.precision.upper()}"
    if exported.parameters is not None:
        what += f", {exported.parameters / 1e6:.2f} M parameters"
    rows = [("exported", what)]
    height, width = artefact.size_hw
    shape = f"N x {height} x {width} x 3 uint8 BGR"
    if artefact.input == "float":
        shape = f"N x 3 x {height} x {width} float32 RGB 0..255"
    if exported.written:
        size = f"{exported.onnx.stat().st_size / 1e6:.1f} MB, SHA-256 {artefact.sha256[:12]}"
        rows.append(("to", f"{exported.onnx}: {size}"))
        rows.append(("", f"crops {shape} to embeddings N x {artefact.embedding_dim} of norm 1"))
        rows.append(("precision", _operands(artefact)))
    if exported.graph is not None:
        rows += _checked("checked", "ONNX Runtime against PyTorch, FP32,", exported.graph)
    if exported.converted is not None:
        name = artefact.precision.upper()
        rows += _checked("checked", f"{name} against FP32, both in ONNX Runtime,", exported.converted.parity)
        if exported.converted.rounded:
            rows.append(
                ("", "with every FP16 rounding of a GPU, most of which ONNX Runtime leaves out on a CPU")
            )
        rows.append(("", f"gate: {exported.converted.gate}"))
        if told := exported.converted.accuracy:
            before, after = told["fp32"], told["int8"]
            scores = ", ".join(
                f"{key.replace('rank1', 'rank-1')} {before[key]:.1%} -> {after[key]:.1%}" for key in before
            )
            rows.append(("", f"{scores} on {told['on']}"))
    if exported.engine is not None and exported.engine_path is not None:
        rows += _engine(exported.engine, exported.engine_path)
    # A plan that was built ahead of time does not run here.
    here = exported.engine is not None and exported.engine.engine is not None and exported.engine.engine.gpu
    model = exported.engine_path if here and exported.engine_path else exported.onnx
    threshold = ""
    if artefact.threshold is None:
        # san match refuses to guess; the command that is printed must run as it stands.
        threshold = " --threshold 0.5"
        rows.append(("", f"no threshold was calibrated for the mask {artefact.mask}; 0.5 below is a guess"))
    name = shlex.quote(str(model))
    rows.append(("next", f"san embed CROPS -o crops.npz -m {name}"))
    rows.append(("", f"san match CAM1 CAM2 -o report -m {name}{threshold}"))
    return "\n".join(f"{name:<11}{text}" for name, text in rows)


def _operands(artefact: Artefact) -> str:
    operands = artefact.operands
    if operands is None:
        return f"{artefact.precision.upper()} was asked for; this older file does not say what it has"
    shares = [
        f"{share:.0%} {name}"
        for name, share in (("INT8", operands.int8), ("FP16", operands.fp16), ("FP32", operands.fp32))
        if share
    ]
    where = {
        "onnx": "in the file",
        "network": "in the network that was parsed, not yet seen on a GPU",
        "engine": "in the engine, by its inspector",
    }[operands.source]
    return f"{' and '.join(shares)} of the {operands.count} operands of convolutions, counted {where}"


def _checked(name: str, what: str, parity: Parity) -> list[tuple[str, str]]:
    rows = [(name, f"{what} on {parity.crops} {parity.source}")]
    for figures in parity.batches:
        cosines = f"row cosine at least {figures.min_cosine:.7f}, mean {figures.mean_cosine:.7f}"
        rows.append(("", f"batch {figures.batch:>2}: {cosines}, difference at most {figures.max_abs:.1e}"))
    rows.append(("", f"a crop in another batch: row cosine at least {parity.invariance:.7f}"))
    return rows


def _serve(
    source: Path | None, triton: Path | None, deepstream: Path | None, *, name: str, kind: str, force: bool
) -> None:
    """Set a model file up for servers."""
    from san_export.serving.deepstream import write_deepstream
    from san_export.serving.triton import TritonOptions, write_repository

    from .. import load_artefact
    from ..backends import STARTER
    from ..errors import UsageError

    model = source or STARTER
    if model.suffix == ".safetensors":
        raise UsageError(f"{model} is a checkpoint", do=f"export it first: san export {model} -o model.onnx")
    artefact = load_artefact(model)
    if triton is not None:
        folder = write_repository(model, artefact, triton, TritonOptions(name, kind), force=force)
        click.echo(f"Wrote {folder}; next: tritonserver --model-repository {triton}")
    if deepstream is not None:
        write_deepstream(model, artefact, deepstream, force=force)
        click.echo(f"Wrote {deepstream}; next: merge tracker_reid.yml into nvtracker's ll-config-file")


def _engine(artefact: Artefact, path: Path) -> list[tuple[str, str]]:
    engine = artefact.engine
    assert engine is not None
    where = f"built on {engine.gpu}" if engine.gpu else "built ahead of time"
    least, best, most = engine.batch
    return [
        ("engine", f"{path}: {path.stat().st_size / 1e6:.1f} MB, {engine.runtime} {engine.version}, {where}"),
        ("", f"for {', '.join(engine.sm)}; {least} to {most} crops per run, best at {best}"),
        ("", _operands(artefact)),
        *(("", line) for line in words.checks(artefact.checks)),
    ]
