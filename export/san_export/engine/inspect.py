"""What an engine's convolutions compute with: counted in the network that TensorRT parsed, and in the engine."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from san_deploy.artefact import INPUT_NAME, PrecisionStats
from san_deploy.backends.trt import collected, logger
from san_deploy.errors import SanError

#: Kinds of layers in an engine, of TensorRT's libraries of kernels and of its compiler: `CaskConvolution`,
#: `CaskDeconvolutionV2`, `CaskGemmMatrixMultiply`, `gemm`, ...
_PRODUCT = re.compile(r"conv|gemm|matrixmultiply|matmul", re.IGNORECASE)
#: TensorRT writes `Half`, `FP16` and `Row major linear FP16 format`; BF16, UInt8 and the like are none of ours.
_TYPES = (
    ("fp16", re.compile(r"(?<![a-z])(half|fp16|float16)(?![a-z0-9])", re.IGNORECASE)),
    ("fp32", re.compile(r"(?<![a-z])(float|fp32|float32)(?![a-z0-9])", re.IGNORECASE)),
    ("int8", re.compile(r"(?<![a-z])int8(?![a-z0-9])", re.IGNORECASE)),
    ("other", re.compile(r"(?<![a-z])(bfloat16|bf16|tf32|fp8|fp4|u?int\d+|bool|double)", re.IGNORECASE)),
)


def count_in_network(trt: ModuleType, network: Any) -> PrecisionStats:
    """Count the inputs and weights of convolutions (transposed or not) and matrix products by precision.

    In a strongly typed network TensorRT may not compute with any other type than these.

    Args:
        trt: TensorRT's module.
        network: a parsed `trt.INetworkDefinition`.

    Returns:
        The shares, source `network`. An operand of another type belongs to no share.
    """
    kinds = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.INT8: "int8"}
    weighted = {
        trt.LayerType.CONVOLUTION: trt.IConvolutionLayer,
        trt.LayerType.DECONVOLUTION: trt.IDeconvolutionLayer,
    }
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {
        layer.get_output(place).name: layer for layer in layers for place in range(layer.num_outputs)
    }
    found: Counter[str] = Counter()
    for layer in layers:
        if layer.type in weighted:
            found[kinds.get(_typed(trt, producers, layer.get_input(0)), "other")] += 1
            if layer.num_inputs > 1 and layer.get_input(1) is not None:
                found[kinds.get(_typed(trt, producers, layer.get_input(1)), "other")] += 1
            else:
                # Layers come as their base class, which knows nothing of weights; this is how TensorRT's own
                # tools see the rest.
                layer.__class__ = weighted[layer.type]
                found[_of_weights(trt, layer.kernel, kinds)] += 1
        elif layer.type == trt.LayerType.MATRIX_MULTIPLY:
            for place in range(2):
                found[kinds.get(_typed(trt, producers, layer.get_input(place)), "other")] += 1
    return _shares(found, "network")


def _typed(trt: ModuleType, producers: dict[str, Any], tensor: Any) -> Any:
    """The type that a tensor is computed with: that of what is dequantised, where it comes out of that."""
    aside = (trt.LayerType.SHUFFLE, trt.LayerType.IDENTITY)
    name, dtype = tensor.name, tensor.dtype
    while (layer := producers.get(name)) is not None:
        # The parser puts layers that only rename axes between a dequantisation and a product.
        if layer.type not in (*aside, trt.LayerType.DEQUANTIZE):
            break
        tensor = layer.get_input(0)
        if layer.type == trt.LayerType.DEQUANTIZE:
            return tensor.dtype
        name = tensor.name
    return dtype


def _of_weights(trt: ModuleType, weights: Any, kinds: dict[Any, str]) -> str:
    if isinstance(weights, np.ndarray):
        return {"float32": "fp32", "float16": "fp16", "int8": "int8"}.get(weights.dtype.name, "other")
    # Types that NumPy has not, as BF16, come as TensorRT's own weights.
    return kinds.get(weights.dtype, "other")


def count_in_engine(
    trt: ModuleType, plan: Any, *, batch: int, size: tuple[int, ...], host_code: bool
) -> PrecisionStats | None:
    """Count by the inspector's word on a finished engine. Needs the GPU that it is for.

    Args:
        trt: TensorRT's module.
        plan: the engine's bytes, built with detailed verbosity.
        batch: crops per run; with no shape known, the inspector tells no formats.
        size: the input's shape without the batch.
        host_code: whether the plan carries code that runs on the host, which must be allowed then.

    Returns:
        The shares, source `engine`; None where the inspector does not say what layers compute with.

    Raises:
        SanError: the engine does not load, or does not run here.
    """
    with collected() as messages:
        try:
            runtime = trt.Runtime(logger(trt))
        except TypeError as error:  # how the bindings say that it could not be made
            raise SanError("TensorRT's runtime does not start", why=messages.why()) from error
        if host_code:
            # Our own plan, made a moment ago.
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        context = engine.create_execution_context() if engine is not None else None
        if context is None or not context.set_input_shape(INPUT_NAME, (batch, *size)):
            what = "load" if engine is None else "run"
            raise SanError(f"the engine was built, but does not {what} on this GPU", why=messages.why())
        inspector = engine.create_engine_inspector()
        if inspector is None:
            return None
        inspector.execution_context = context
        return count_in_inspection(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def count_in_inspection(information: str) -> PrecisionStats | None:
    """Count in the JSON that `EngineInspector.get_engine_information` gives, of TensorRT 10 or 11.

    TensorRT 10 has `Format/Datatype` in a tensor, 11 has `Format` and `DataType`.

    Returns:
        The shares, source `engine`; None where it is damaged, has layer names alone, or names no type.
    """
    try:
        # Layer names may hold tabs.
        layers = json.loads(information, strict=False)["Layers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(layers, list):
        return None
    found = Counter(kind for entry in layers if isinstance(entry, dict) for kind in _operands(entry))
    return _shares(found, "engine") if found else None


def _operands(entry: dict[str, Any]) -> Iterator[str]:
    kind = f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}"
    if not _PRODUCT.search(kind):
        return
    inputs = [item for item in entry.get("Inputs") or [] if isinstance(item, dict)]
    texts = [str(item.get("DataType") or item.get("Format/Datatype") or "") for item in inputs[:2]]
    constant = entry.get("Weights")
    if isinstance(constant, dict) and constant.get("Count"):
        # A second input, where there is one, is then what is added to the result.
        texts = [*texts[:1], str(constant.get("Type", ""))]
    for text in texts:
        # `N/A due to dynamic shapes` is no type, and is not counted.
        if known := next((name for name, pattern in _TYPES if pattern.search(text)), None):
            yield known


def _shares(found: Counter[str], source: str) -> PrecisionStats:
    total = sum(found.values())
    shares = {kind: found[kind] / total if total else 0.0 for kind in ("fp32", "fp16", "int8")}
    return PrecisionStats(count=total, **shares, source=source)
