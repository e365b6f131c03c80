"""The inspector's JSON, of TensorRT 10 and of 11.

The samples are written after https://docs.nvidia.com/deeplearning/tensorrt/10.16.1/inference-library/engine-tools.html
and https://docs.nvidia.com/deeplearning/tensorrt/11.4.0/api/migration/tensorrt-10x-to-11x-IEngineInspector.html.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from san_export.engine.inspect import count_in_inspection

from san_deploy.artefact import PrecisionStats


def tensor(text: str, schema: int) -> dict[str, Any]:
    kind = {"Name": "t", "Location": "Device", "Dimensions": [16, 64, 32, 16]}
    if schema == 10:
        return kind | {"Format/Datatype": text}
    layout = (
        "N/A due to dynamic shapes" if text.startswith("N/A") else f"Row major linear {text} format (kLINEAR)"
    )
    return kind | {"Format": layout, "DataType": text}


def layer(kind: str, inputs: list[str], schema: int, weights: str = "", **fields: Any) -> dict[str, Any]:
    result = {
        "Name": f"{kind}\tof [ONNX Layer: conv]",
        "LayerType": kind,
        "Inputs": [tensor(text, schema) for text in inputs],
        "Outputs": [tensor("Float", schema)],
        "TacticValue": "0x0000000000000000",
    }
    return result | fields | ({"Weights": {"Type": weights, "Count": 9408}} if weights else {})


def information(layers: list[Any], schema: int) -> str:
    ports: dict[str, Any] = {"Bindings": ["crops", "embedding"]}
    if schema == 11:
        ports = {
            "I/O Tensors": [
                {
                    "Name": "crops",
                    "IOMode": "Input",
                    "DataType": "UInt8",
                    "Dimensions": [-1, 256, 128, 3],
                    "Location": "Device",
                    "IsShapeInferenceIO": False,
                    "ProfileInfo": [
                        {"MinShape": [1, 256, 128, 3], "Format": "Row major linear UInt8 format (kLINEAR)"}
                    ],
                }
            ]
        }
    # A tab within a name, as TensorRT writes it: unescaped.
    return json.dumps({"Layers": layers} | ports).replace("\\t", "\t")


@pytest.mark.parametrize("schema", [10, 11])
def test_products_are_counted_and_nothing_else(schema: int) -> None:
    layers = [
        layer("Reformat", ["UInt8"], schema, ParameterType="Reformat"),
        layer("kgen", ["UInt8"], schema),
        layer("CaskConvolution", ["Half"], schema, "Half", ParameterType="Convolution"),
        # What is added to the result is no operand.
        layer("CaskConvolution", ["Half", "Float"], schema, "Half", ParameterType="Convolution"),
        layer("CaskDeconvolutionV2", ["Float"], schema, "Float"),
        layer("CaskConvolution", ["Int8"], schema, "Int8"),
        layer("gemm", ["Half", "Half"], schema),
        layer("CaskPooling", ["Half"], schema),
    ]
    assert count_in_inspection(information(layers, schema)) == PrecisionStats(10, 0.2, 0.6, 0.2, "engine")


@pytest.mark.parametrize(
    "text, kind",
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("FP16", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major INT8 format where column stride % 32 == 0", "int8"),
        ("BFloat16", "other"),
        ("Row major linear BFloat16 format", "other"),
        ("BF16", "other"),
        ("UInt8", "other"),
        ("Row major linear UInt8 format", "other"),
        ("FP8", "other"),
        ("Int32", "other"),
        ("Int4", "other"),
    ],
)
def test_types_by_any_name(text: str, kind: str) -> None:
    counted = count_in_inspection(information([layer("CaskConvolution", [text], 10)], 10))
    assert counted == PrecisionStats(1, *(float(kind == name) for name in ("fp32", "fp16", "int8")), "engine")


def test_weights_tell_where_shapes_are_not_known() -> None:
    entry = layer("CaskConvolution", ["N/A due to dynamic shapes"], 10, "Half")
    assert count_in_inspection(information([entry], 10)) == PrecisionStats(1, 0.0, 1.0, 0.0, "engine")


@pytest.mark.parametrize("schema", [10, 11])
@pytest.mark.parametrize(
    "layers",
    [
        [],
        # Without detailed verbosity, layers are names.
        ["conv + relu", "conv_1"],
        [{"Name": "conv"}],
        [{"Name": "pool", "LayerType": "CaskPooling", "Inputs": [], "Outputs": []}],
        [{"Name": "conv", "LayerType": "CaskConvolution", "Inputs": None}],
    ],
)
def test_nothing_told_is_none(layers: list[Any], schema: int) -> None:
    assert count_in_inspection(information(layers, schema)) is None
    entry = layer("CaskConvolution", ["N/A due to dynamic shapes"], schema)
    assert count_in_inspection(information([*layers, entry], schema)) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"Layers": 3}', '{"Bindings": []}', "[" * 100_000])
def test_damaged_text_is_none(text: str) -> None:
    assert count_in_inspection(text) is None
