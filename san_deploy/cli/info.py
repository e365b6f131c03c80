"""`san info`: what a model file is and where it runs, or what this machine has."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..io.printable import printable
from . import options
from . import text as words

if TYPE_CHECKING:
    from ..artefact import Artefact, Calibration, Engine, PrecisionStats
    from ..backends.environment import Environment
    from ..backends.info import Compatibility, FileInfo
    from ..checkpoint_info import CheckpointInfo
    from ..self_check import SelfCheck

#: Names of a long list that are printed.
_NAMED = 3


@click.command("info", cls=options.GroupedCommand)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--run",
    "run",
    is_flag=True,
    help="Run FILE on the sample crops: does this machine give the rows that the network gave?",
)
@click.option(
    "--endpoint",
    metavar="URL",
    default="",
    help="With --run: the rows of a server that FILE was given to, http://HOST:8000/NAME (Triton, KServe v2).",
)
@click.option("--adopt", is_flag=True, help="Write the hash of FILE, from before files had one, into it.")
@options.running
@options.as_json
def command(
    *, file: Path | None, run: bool, endpoint: str, adopt: bool, backend: str, device: str, as_json: bool
) -> None:
    """Say what FILE is: an ONNX file, an engine or a checkpoint; and whether it runs here.

    Without FILE: what this machine has, and the starter model. An engine is code; nothing of it is executed unless
    --run asks for it. With --run the exit code is 3 where the rows are not within the gate of the file; with
    --endpoint they are those of a server, which may run an engine of FILE or take image files.
    """
    from ..errors import UsageError

    if file is None and (run or adopt or endpoint):
        raise UsageError("--run, --endpoint and --adopt are of a file", do="name it: san info FILE --run")
    if endpoint and (not run or (backend, device) != ("auto", "auto")):
        wrong = "--endpoint is of --run" if not run else "--endpoint runs nothing here"
        raise UsageError(wrong, do=f"san info {file} --run --endpoint {endpoint}")
    if file is None:
        from ..backends.environment import read_environment

        found = read_environment()
        click.echo(printable(json.dumps(found.as_dict(), indent=2) if as_json else _machine(found)))
        return

    from ..backends import read_file

    if adopt:
        from ..adopt import adopt as write_hash

        write_hash(file)
    if run and endpoint:
        _run_endpoint(file, endpoint, as_json=as_json)
        return
    if run:
        _run(file, backend, device, as_json=as_json)
        return
    info = read_file(file)
    counted = None if info.artefact is None else words.recount(file, info.artefact)
    with words.reading(file):
        text = _json(info, counted) if as_json else as_text(info, counted)
    click.echo(printable(text))


def _run(file: Path, backend: str, device: str, *, as_json: bool) -> None:
    from ..backends import open_backend
    from ..self_check import check

    # What is asked for here is the check itself.
    opened = open_backend(file, backend=backend, device=device, self_check=False)
    options.say(opened)
    found = check(opened)
    _report(found, {"runtime": opened.name, "note": opened.note}, as_json=as_json)
    _fail(found, f"{file} gives other rows here than the network did", "see which layer differs: san parity")


def _run_endpoint(file: Path, url: str, *, as_json: bool) -> None:
    from .. import load_artefact
    from ..backends.endpoint import Endpoint
    from ..self_check import check_endpoint

    artefact = load_artefact(file)
    endpoint = Endpoint(url, artefact)
    served = endpoint.serves()
    click.echo(printable(f"Asking {url}: {served}"), err=True)
    found = check_endpoint(endpoint)
    _report(found, {"endpoint": url, "serves": served}, as_json=as_json)
    _fail(found, f"{url} gives other rows than {file} should: it {served}", f"give {file} to the server")


def _report(found: SelfCheck, about: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**about, **found.as_dict()}, indent=2))
    else:
        click.echo(printable("\n".join(found.lines())))


def _fail(found: SelfCheck, message: str, do: str) -> None:
    from ..errors import GateError

    if found.failures:
        raise GateError(f"{message}: {'; '.join(found.failures)}", do=do)


def _json(info: FileInfo, found: PrecisionStats | None) -> str:
    values = {**info.as_dict(), "operands_counted": None if found is None else asdict(found)}
    return json.dumps(values, indent=2, allow_nan=False)


def as_text(info: FileInfo, found: PrecisionStats | None) -> str:
    """What is printed of a file and of what was counted in it, without a newline at its end."""
    beside = f"{info.sidecar} beside it agrees" if info.sidecar else "no description beside it"
    rows = [
        ("file", f"{info.path}: {info.kind}, {words.megabytes(info.bytes)}"),
        ("SHA-256", f"{info.sha256}; {beside}"),
        *([("integrity", info.integrity.note)] if info.integrity.note else []),
    ]
    if info.artefact is not None:
        rows += _artefact(*words.counted(info.artefact, found), whole=info.integrity.state == "whole")
    if info.checkpoint is not None:
        rows += _checkpoint(info.checkpoint, info.parameters or 0)
    name = "runs here"
    for (runs, why, do), backends in _alike(info.runs).items():
        advice = f"; {do}" if do else ""
        rows.append((name, f"{', '.join(backends)}: {'yes' if runs else 'no'}, {why}{advice}"))
        name = ""
    return words.columns(rows)


def _alike(verdicts: tuple[Compatibility, ...]) -> dict[tuple[bool, str, str], list[str]]:
    """Names of the backends of which the same is said."""
    found: dict[tuple[bool, str, str], list[str]] = {}
    for verdict in verdicts:
        name = f"{verdict.backend} on {verdict.device}" if verdict.device else verdict.backend
        found.setdefault((verdict.runs, verdict.why, verdict.do), []).append(name)
    return found


def _artefact(artefact: Artefact, known: str, *, whole: bool) -> list[words.Row]:
    from ..backends.info import input_of, output_of

    taken, given = input_of(artefact), output_of(artefact)
    shape, out = (" x ".join(map(str, port["shape"])) for port in (taken, given))
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (artefact.mean_rgb, artefact.std_rgb)
    )
    rows = [
        ("network", f"{artefact.arch}: {_settings(artefact.settings)}"),
        ("mask", artefact.mask),
        ("precision", words.precision(artefact, known)),
        ("takes", f"'{taken['name']}', {shape} {taken['type']}, {taken['colour']}, 0..255"),
        ("", f"resized with {artefact.resize}, aspect not kept"),
        ("inside", f"normalisation (mean {mean}, deviation {std}, RGB, 0..1) and L2 norm: do neither again"),
        ("gives", f"'{given['name']}', {out} {given['type']}, rows of norm 1"),
        ("threshold", words.threshold(artefact.threshold)),
        ("made from", f"checkpoint SHA-256 {artefact.checkpoint_sha256}"),
    ]
    if artefact.engine is not None:
        rows.append(("", f"ONNX SHA-256 {artefact.engine.onnx_sha256}"))
    rows.append(("made with", _pairs(artefact.versions)))
    name = "checked"
    if artefact.engine is not None and "engine" not in artefact.checks:
        # A description from before plans were run has the checks of the ONNX file.
        rows.append((name, "engine: not run where it was built; what follows is of its ONNX file"))
        name = ""
    # What was checked were other bytes, where nobody knows that they are these.
    for line in words.checks(artefact.checks) if whole else ["nobody knows whether these bytes were"]:
        rows.append((name, line))
        name = ""
    if artefact.calibration is not None:
        rows += _calibration(artefact.calibration)
    if artefact.engine is not None:
        rows += _engine(artefact.engine)
    return rows


def _calibration(calibration: Calibration) -> list[words.Row]:
    source = f"{calibration.method} over {calibration.crops} crops of {calibration.folder}, seed {calibration.seed}"
    rows = [
        ("calibrated", f"{source}, crops SHA-256 {calibration.crops_sha256[:12]}"),
        ("", f"form for {'ONNX Runtime' if calibration.form == 'cpu' else 'TensorRT'}"),
    ]
    for name, layers in (("never quantised", calibration.left), ("given back", calibration.reverted)):
        if layers:
            more = ", ..." if len(layers) > _NAMED else ""
            rows.append(("", f"{name} ({len(layers)}): {', '.join(layers[:_NAMED])}{more}"))
    return rows


def _engine(engine: Engine) -> list[words.Row]:
    least, best, most = engine.batch
    cuda = f", CUDA {engine.cuda}" if engine.cuda else ""
    where = f"on {engine.gpu}" if engine.gpu else "ahead of time"
    compatible = "and later versions" if engine.version_compatible else "this version alone"
    return [
        ("engine", f"{engine.runtime} {engine.version}{cuda}, built {where}, for {engine.system}"),
        (
            "",
            f"for {', '.join(engine.sm)}; hardware compatibility {engine.hardware_compatibility}; {compatible}",
        ),
        ("", f"{least} to {most} crops per run, best at {best}; TF32 {'allowed' if engine.tf32 else 'off'}"),
    ]


def _recommended(mask: str) -> str:
    return f"argmax unless --mask asks for another; its recipe recommends --mask {mask}"


def _checkpoint(info: CheckpointInfo, parameters: int) -> list[words.Row]:
    rows = [
        ("network", f"{info.arch}: {_settings(info.settings)}"),
        ("", f"{parameters / 1e6:.2f} M parameters"),
        *([("mask", _recommended(info.recommended_mask))] if info.recommended_mask else []),
        ("trained", f"{info.epoch} epochs, resize {info.resize}"),
    ]
    rows += [("", f"on {line}") for line in info.data]
    rows.append(("validated", _pairs(info.metrics) or "not"))
    rows.append(("threshold", words.threshold(info.threshold)))
    rows.append(("made with", _pairs(info.versions)))
    return rows


def _machine(found: Environment) -> str:
    at = found.machine
    rows = [
        ("san-deploy", found.san_deploy),
        ("Python", at.python),
        ("system", at.system),
        ("processor", f"{at.processor}; {at.cores} of {at.cores_in_all} cores may be used"),
        ("packages", _pairs(found.packages)),
    ]
    problems: dict[str, list[str]] = {}
    for name, problem in found.backend_problems.items():
        problems.setdefault(problem, []).append(name)
    if found.no_providers not in problems:
        rows.append(("providers", found.no_providers or f"{', '.join(found.providers)} (of ONNX Runtime)"))
    rows += [(name, version) for name, version in found.backends.items()]
    # Said once: several runtimes want the same package.
    rows += [(name, text) for text, names in problems.items() for name, text in _said_once(names, text)]
    rows.append(("CUDA", f"runtime {found.cuda_runtime or 'none'}, driver {found.cuda_driver or 'none'}"))
    rows += [("GPU", f"cuda:{gpu['index']} {gpu['name']} ({gpu['sm']})") for gpu in found.gpus]
    if not found.gpus:
        rows.append(("GPU", f"none: {found.no_gpu}"))
    if found.starter is None or found.starter.artefact is None:
        told = found.starter_problem in problems
        rows.append(
            ("starter", f"as {problems[found.starter_problem][0]}" if told else found.starter_problem)
        )
    else:
        rows.append(("starter", f"{found.starter.path}, {words.megabytes(found.starter.bytes)}"))
        rows.append(("", f"{words.identity(found.starter.artefact)}, SHA-256 {found.starter.sha256[:12]}"))
    return words.columns(rows)


def _said_once(names: list[str], text: str) -> list[words.Row]:
    """A row for each name, the text in the first one only."""
    return [(names[0], text), *((name, f"as {names[0]}") for name in names[1:])]


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in sorted(values.items()))


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in sorted(values.items()))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"({_pairs(value)})" if value else "none"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
