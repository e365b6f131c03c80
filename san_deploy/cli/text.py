"""How commands say in words what a model file says of itself. Nothing in it is trusted to be of its type."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SanError

if TYPE_CHECKING:
    from ..artefact import Artefact, PrecisionStats, Threshold

Row = tuple[str, str]
#: Names of a long list that are printed.
_NAMED = 5


def columns(rows: list[Row]) -> str:
    """Rows of a name and a text, aligned. A row without a name goes on with the one before."""
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{text}".rstrip() for name, text in rows)


def megabytes(count: int) -> str:
    """`13.2 MB`, of 10^6 bytes; two digits below ten."""
    return f"{count / 1e6:.1f} MB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def identity(artefact: Artefact) -> str:
    """`san-resnet18, 128 x 64, mask argmax, FP32`."""
    height, width = artefact.size_hw
    return f"{artefact.arch}, {height} x {width}, mask {artefact.mask}, {artefact.precision.upper()}"


def precision(artefact: Artefact, known: str = "") -> str:
    """What was asked for, and what the file has; `known` says how that is known, see `counted`."""
    asked = artefact.precision.upper()
    has = artefact.operands
    if has is None:
        return f"{asked}, not counted in this older file"
    shares = ((has.int8, "INT8"), (has.fp16, "FP16"), (has.fp32, "FP32"))
    message = ", ".join(f"{share:.0%} {name}" for share, name in shares if share)
    where = {
        "onnx": "in the file",
        "network": "in the network that TensorRT parsed",
        "engine": "in the engine, by its inspector",
    }
    counted = where.get(has.source, f"in '{has.source}'")
    how = known or f"counted {counted}"
    return f"{asked} asked for; {message} of the {has.count} operands of convolutions and products, {how}"


def recount(path: Path, artefact: Artefact) -> PrecisionStats | None:
    """What an ONNX file computes with, counted again; None for an engine, and without the onnx package.

    Raises:
        SanError: the file says otherwise of itself, see `precision_stats.recount`.
    """
    # An engine's description has its SHA-256.
    if artefact.engine is not None or path.suffix != ".onnx" or importlib.util.find_spec("onnx") is None:
        return None
    from san_export.graph import precision_stats

    return precision_stats.recount(path, artefact)


def counted(artefact: Artefact, found: PrecisionStats | None) -> tuple[Artefact, str]:
    """An artefact with the operands of `recount`, and how they are known, in words; empty for an engine."""
    if found is not None:
        return replace(artefact, operands=found), "counted again here"
    if artefact.engine is not None or artefact.operands is None:
        return artefact, ""
    return artefact, "by its own word: onnx is not installed to count again"


def threshold(value: Threshold | None) -> str:
    """The threshold with what it stands for and whose people it was calibrated on."""
    if value is None:
        return "none was calibrated: give one to san match with --threshold"
    genuine = ""
    if value.true_match_rate is not None:
        genuine = f" and {value.true_match_rate:.1%} of {value.genuine_pairs} genuine pairs"
    return (
        f"{value.similarity:.4f}: reached by {value.false_match_rate:.2%} of {value.impostor_pairs} impostor "
        f"pairs{genuine}; {value.source}"
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Refuse a file of which the block cannot say what it says of itself.

    Types of what a file says are not looked at before somebody needs them.
    """
    try:
        yield
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        OverflowError,
        StopIteration,
    ) as error:
        raise SanError(
            f"what {path} says of itself cannot be read", why=str(error).split("\n")[0], do="export it again"
        ) from error


def accuracy(artefact: Artefact, known: str = "") -> list[Row]:
    """What a file says of its accuracy: precision, checks, threshold; `known` as in `precision`."""
    lines = [("precision", precision(artefact, known))]
    lines += [("checked", line) for line in checks(artefact.checks)]
    return [*lines, ("threshold", threshold(artefact.threshold))]


def checks(values: Mapping[str, Any]) -> Iterator[str]:
    """One line for each check that was made before the file got its name, with its figures."""
    inner = {key: value for key, value in values.items() if _is_parity(value)}
    if _is_parity(values):
        # The change of precision came behind the check of the graph.
        graph = "FP32: " if {"fp16", "int8"} & inner.keys() else ""
        yield graph + _parity(values)
    for name, value in inner.items():
        yield f"{name.upper() if name in ('fp16', 'int8') else name}: {_parity(value)}"
    known = {*inner, *_PARITY} if _is_parity(values) else {*inner}
    for name, value in values.items():
        if name == "accuracy" and _is_accuracy(value):
            yield _accuracy(value)
        elif name == "engine" and isinstance(value, Mapping) and value.get("run") is False:
            yield f"engine: not run: {value.get('why', 'nothing says why')}"
        elif name == "mask" and isinstance(value, Mapping) and "replaced" in value:
            yield (
                f"mask put in place of {value['replaced']} and made again in NumPy; row cosine with that mask at "
                f"least {value['min_cosine']}, mean {value['mean_cosine']}, on {value['crops']} {value['source']}"
            )
        elif name not in known:
            yield f"{name}: {json.dumps(value, sort_keys=True)}"


#: Keys of `export.check.Parity.as_dict`, and the gate that is written beside them.
_PARITY = (
    "reference",
    "crops",
    "source",
    "min_cosine",
    "p1_cosine",
    "mean_cosine",
    "max_abs",
    "equal_rows",
    "batch_invariance",
    "gate",
)


def _is_parity(value: object) -> bool:
    return (
        isinstance(value, Mapping) and "reference" in value and isinstance(value.get("min_cosine"), Mapping)
    )


def _parity(value: Mapping[str, Any]) -> str:
    """The worst of all batch sizes."""
    message = [f"row cosine at least {min(value['min_cosine'].values()):.7f}"]
    if "p1_cosine" in value:
        message.append(f"1st percentile {min(value['p1_cosine'].values()):.7f}")
    if "mean_cosine" in value:
        message.append(f"mean {min(value['mean_cosine'].values()):.7f}")
    if "batch_invariance" in value:
        message.append(f"in another batch {value['batch_invariance']:.7f}")
    if "gate" in value:
        message.append(f"gate {_gate(value['gate'])}")
    batches = ", ".join(sorted(value["min_cosine"], key=int))
    where = f"on {value['crops']} {value['source']}, batches {batches}"
    return f"against {value['reference']} {where}: {'; '.join(message)}"


def _gate(value: object) -> str:
    if not isinstance(value, Mapping):
        return f"{value:g}"
    names = {"min_cosine": "minimum", "p1_cosine": "1st percentile", "mean_cosine": "mean"}
    return ", ".join(f"{name} {value[key]:g}" for key, name in names.items() if key in value) or "none"


def _is_accuracy(value: object) -> bool:
    return isinstance(value, Mapping) and "on" in value and isinstance(value.get("fp32"), Mapping)


def _accuracy(value: Mapping[str, Any]) -> str:
    lower = next(key for key in value if key not in ("on", "fp32", "max_drop"))
    message = (
        f"{key.replace('rank1', 'rank-1')} {before:.1%} -> {value[lower][key]:.1%}"
        for key, before in value["fp32"].items()
    )
    drop = f", {value['max_drop']:.1%} may be lost" if "max_drop" in value else ""
    return f"FP32 -> {lower.upper()} on {value['on']}: {', '.join(message)}{drop}"


def left_out(names: list[str]) -> str:
    """What of a folder is no crop, in a sentence; empty for nothing."""
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMED else ""
    return f"No crops, and left out ({len(names)}): {', '.join(names[:_NAMED])}{more}."


def blank(names: Sequence[str]) -> str:
    """Which crops have no content, in a sentence; empty for none."""
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMED else ""
    return f"Crops of one colour all over, which match each other ({len(names)}): {', '.join(names[:_NAMED])}{more}."
