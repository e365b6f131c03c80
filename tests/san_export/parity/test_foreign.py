"""The starter after other people's tools: files that embed alike pass, faults are found at their place.

The verdict rests on embeddings and ranking. What looks inside compares what it can pair, says of the rest that it is
not comparable, and never fails a file whose embeddings agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.graph import view
from san_export.graph.mask_branches import find_branches
from san_export.graph.precision_stats import count_operands
from san_export.graph.replace_masks import replace_masks

from san_deploy.data import STARTER
from san_deploy.data.samples import extract_samples
from tests.conftest import Result
from tests.san_export.parity import faults

San = Callable[..., Result]
Change = Callable[[onnx.ModelProto], onnx.ModelProto]


#: Rounding moves a ramp a little, where a bit of argmax that flips would be judged by chance.
MASK = "ramp:0.0625"


@pytest.fixture(scope="module")
def starter() -> onnx.ModelProto:
    model = onnx.load(str(STARTER))
    return described(replace_masks(model, MASK), model, mask=MASK)


@pytest.fixture(scope="module")
def reference(starter: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.onnx"
    onnx.save(starter, str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample crops, labelled."""
    root = tmp_path_factory.mktemp("samples")
    extract_samples(root)
    return root


@pytest.fixture(scope="module")
def places(reference: Path, folder: Path) -> tuple[Path, Path]:
    return reference, folder


def parity(san: San, tmp_path: Path, model: onnx.ModelProto, places: tuple[Path, Path], code: int) -> Any:
    """What `san parity` says of a model against the reference on the crops of a folder, and its output."""
    reference, folder = places
    path, told = tmp_path / "target.onnx", tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
    onnx.save(model, str(path))
    result = san("parity", reference, path, "--crops", folder, "--num", 12, "--json", told, code=code)
    return json.loads(told.read_text()) | {"out": result.out, "err": result.err}


def described(model: onnx.ModelProto, like: onnx.ModelProto, **changed: object) -> onnx.ModelProto:
    """With the description that its own tool may have dropped."""
    known = {item.key: item.value for item in like.metadata_props}
    known |= {item.key: item.value for item in model.metadata_props}
    for key, value in changed.items():
        known[f"san.{key}"] = json.dumps(value)
    del model.metadata_props[:]
    helper.set_model_props(model, known)
    return model


def optimised(level: str) -> Change:
    def change(model: onnx.ModelProto) -> onnx.ModelProto:
        import tempfile

        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as scratch:
            options.optimized_model_filepath = f"{scratch}/optimised.onnx"
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return onnx.load(options.optimized_model_filepath)

    return change


def fixed(batch: int) -> Change:
    def change(model: onnx.ModelProto) -> onnx.ModelProto:
        result = faults.copy(model)
        for item in (*result.graph.input, *result.graph.output):
            item.type.tensor_type.shape.dim[0].dim_value = batch
        del result.graph.value_info[:]
        return result

    return change


def dims_updated(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx.tools import update_model_dims

    result = faults.copy(model)
    del result.graph.value_info[:]
    (given,), (made,) = result.graph.input, result.graph.output
    sizes = {
        item.name: ["frames", *(dim.dim_value for dim in item.type.tensor_type.shape.dim[1:])]
        for item in (given, made)
    }
    return update_model_dims.update_inputs_outputs_dims(
        result, {given.name: sizes[given.name]}, {made.name: sizes[made.name]}
    )


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    return pytest.importorskip("onnxslim").slim(faults.copy(model))  # type: ignore[no-any-return]


def sim(model: onnx.ModelProto) -> onnx.ModelProto:
    return pytest.importorskip("onnxsim").simplify(model)[0]  # type: ignore[no-any-return]


def optimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    return pytest.importorskip("onnxoptimizer").optimize(model)  # type: ignore[no-any-return]


def with_functions_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every value renamed, as a converter that numbers anew does: nothing can be paired by name."""
    result = faults.copy(model)
    kept = {"crops", "embedding", *(item.name for item in result.graph.initializer)}
    for node in result.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = name if name in kept or not name else f"renamed_{name}"
    del result.graph.value_info[:]
    return result


ALIKE: dict[str, Change] = {
    "onnxslim": slim,
    "onnxsim": sim,
    "onnxoptimizer": optimizer,
    "version_converter": lambda model: onnx.version_converter.convert_version(model, 22),
    "ORT basic": optimised("ORT_ENABLE_BASIC"),
    "ORT extended": optimised("ORT_ENABLE_EXTENDED"),
    "a fixed batch": fixed(16),
    "update_model_dims": dims_updated,
    "other names": with_functions_names,
}


@pytest.mark.parametrize("tool", ALIKE)
def test_files_that_embed_alike_pass(
    san: San, starter: onnx.ModelProto, places: tuple[Path, Path], tmp_path: Path, tool: str
) -> None:
    changed = described(ALIKE[tool](starter), starter)
    if tool in ("onnxsim", "ORT extended"):
        changed = described(changed, starter, operands=count_operands(changed).__dict__)
    found = parity(san, tmp_path, changed, places, 0)
    assert found["passed"] and not found["failed"]
    stages = found["stages"]
    assert stages["embeddings"]["figures"]["equal_rows"] == 1
    # Nothing inside is accused where the embeddings agree, and what cannot be paired is said.
    assert not found["noted"] or "the embeddings agree; inside" in found["out"]
    if tool == "other names":
        assert stages["layers"]["figures"]["unpaired"] > 50
        assert any("Not comparable here" in note for note in stages["layers"]["notes"])


def test_onnxconverters_fp16(
    san: San, starter: onnx.ModelProto, places: tuple[Path, Path], tmp_path: Path
) -> None:
    """It clamps tiny weights, and keeps input and output in FP32."""
    converter = pytest.importorskip("onnxconverter_common.float16")
    half = converter.convert_float_to_float16(faults.copy(starter), keep_io_types=True)
    wanted = {item.name: item.type.tensor_type.elem_type for item in half.graph.value_info}
    for node in faults.nodes(half, "Cast"):
        # It says that casts to FP32 give FP16 now, and leaves them as they are; ONNX Runtime refuses that.
        node.attribute[0].i = wanted.get(node.output[0], node.attribute[0].i)
    told = described(half, starter, precision="fp16", operands=count_operands(half).__dict__)
    found = parity(san, tmp_path, told, places, 0)
    assert found["passed"] and found["stages"]["masks"]["figures"]["blocks"]
    # The same file that still says FP32 says something false of itself, and is told so first.
    false = described(faults.copy(half), starter, precision="fp32")
    found = parity(san, tmp_path, false, places, 3)
    assert "artefact" in found["failed"] and "precision" in found["err"].splitlines()[-1]


def scaled(name: str, factor: float) -> Change:
    return lambda model: faults.with_weight(model, name, faults.weight(model, name) * factor)


def first_weight(kind: str, place: int) -> Callable[[onnx.ModelProto], str]:
    return lambda model: faults.nodes(model, kind)[place].input[1]


def zeroed_filter(model: onnx.ModelProto) -> onnx.ModelProto:
    name = first_weight("Conv", 4)(model)
    values = faults.weight(model, name)
    values[: len(values) // 2] = 0
    return faults.with_weight(model, name, values)


def bias_of(model: onnx.ModelProto) -> onnx.ModelProto:
    node = next(node for node in faults.nodes(model, "Conv")[6:] if len(node.input) > 2)
    return faults.with_weight(model, node.input[2], faults.weight(model, node.input[2]) + 1)


def threshold(factor: float) -> Change:
    """The middle between a channel's minimum and maximum, moved in every block: where argmax turns."""

    def change(model: onnx.ModelProto) -> onnx.ModelProto:
        result = faults.copy(model)
        result.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "moved"))
        for branch in find_branches(model)[:1]:
            name = branch.x
            for node in result.graph.node:
                if node.op_type in ("ReduceMax", "ReduceMin") and node.input[0] == name:
                    place = list(result.graph.node).index(node)
                    before = f"{node.output[0]}.before"
                    after = node.output[0]
                    node.output[0] = before
                    result.graph.node.insert(place + 1, helper.make_node("Mul", [before, "moved"], [after]))
        return result

    return change


def mask_removed(place: int) -> Change:
    """Everywhere attended: the block's mask is 1."""

    def change(model: onnx.ModelProto) -> onnx.ModelProto:
        graph = view(model)
        branch = find_branches(model)[place]
        (mask,) = branch.masks
        result = faults.copy(model)
        node = faults.node_of(result, mask)
        index = list(result.graph.node).index(node)
        result.graph.initializer.append(
            numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "attended")
        )
        node.output[0] = f"{mask}.unused"
        kind = graph.types[mask]
        assert kind == TensorProto.FLOAT
        result.graph.node.insert(index + 1, helper.make_node("Identity", ["attended"], [mask]))
        return result

    return change


def swapped_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of two convolutions of one shape, exchanged."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for node in faults.nodes(model, "Conv")[8:]:
        by_shape.setdefault(faults.weight(model, node.input[1]).shape, []).append(node.input[1])
    one, two = next(names for names in by_shape.values() if len(names) > 1)[:2]
    a, b = faults.weight(model, one), faults.weight(model, two)
    return faults.with_weight(faults.with_weight(model, one, b), two, a)


def module(model: onnx.ModelProto, kind: str, place: int) -> str:
    name = faults.nodes(model, kind)[place].input[1]
    return name.removeprefix("network.").removesuffix(".weight")


#: Fault, and what must be named: a part of the finding.
FAULTS: dict[str, tuple[Change, Callable[[onnx.ModelProto], str]]] = {
    "the first weights negated": (
        lambda model: scaled(first_weight("Conv", 0)(model), -1.0)(model),
        lambda model: module(model, "Conv", 0),
    ),
    "the head upside down": (
        lambda model: faults.with_weight(
            model,
            first_weight("Gemm", -1)(model),
            faults.weight(model, first_weight("Gemm", -1)(model))[::-1],
        ),
        lambda model: module(model, "Gemm", -1),
    ),
    "red and blue of the pixels": (faults.colours_of_pixels, lambda model: "the normalised input differs"),
    "red and blue of the weights": (faults.colours_of_weights, lambda model: module(model, "Conv", 0)),
    "half of a filter bank zeroed": (zeroed_filter, lambda model: module(model, "Conv", 4)),
    "a bias": (bias_of, lambda model: "Conv"),
    "a convolution's weights times 1.5": (
        lambda model: scaled(first_weight("Conv", 3)(model), 1.5)(model),
        lambda model: module(model, "Conv", 3),
    ),
    "the head negated": (
        lambda model: scaled(first_weight("Gemm", -1)(model), -1.0)(model),
        lambda model: module(model, "Gemm", -1),
    ),
    "two convolutions exchanged": (swapped_blocks, lambda model: "Conv"),
    "one NaN": (
        lambda model: faults.one_value(model, first_weight("Conv", 5)(model), np.nan),
        lambda model: module(model, "Conv", 5),
    ),
    "LeakyRelu": (
        lambda model: faults.with_operator(model, faults.nodes(model, "Relu")[2].output[0], "Abs"),
        lambda model: "the operator is Abs, the reference's is Relu",
    ),
    "no stage-4 mask": (mask_removed(3), lambda model: "stage4"),
    "no stage-1 mask": (mask_removed(0), lambda model: "stage1"),
    "another threshold": (threshold(1.3), lambda model: "first at"),
    "the smallest pooling": (
        lambda model: faults.with_attribute(
            model, faults.nodes(model, "Conv")[2].output[0], "pads", [0, 0, 2, 2]
        ),
        lambda model: "pads is [0, 0, 2, 2], the reference's is [1, 1, 1, 1]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_at_its_place(
    san: San, starter: onnx.ModelProto, places: tuple[Path, Path], tmp_path: Path, fault: str
) -> None:
    change, place = FAULTS[fault]
    found = parity(san, tmp_path, change(starter), places, 3)
    (error,) = [line for line in found["err"].splitlines() if line.startswith("Error: ")]
    assert place(starter).lower() in error.lower(), error
    # No cause is guessed.
    assert not any(cause in error for cause in ("batch norm", "epsilon", "another threshold"))
    assert found["out"].splitlines()[0].startswith("FAIL")
    assert any(line.startswith("finding") for line in found["out"].splitlines()[2:5])


def test_a_missing_norm_is_the_gate_itself(
    san: San, starter: onnx.ModelProto, places: tuple[Path, Path], tmp_path: Path
) -> None:
    found = parity(san, tmp_path, faults.without_norm(starter), places, 3)
    assert "norm" in found["failed"]
