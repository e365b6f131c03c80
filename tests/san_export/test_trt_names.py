"""Every name of TensorRT's API that our code uses is in all versions that it is to run with.

The lists in trt_names/ are of real bindings, see tools/trt_names.py.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from san_export.engine.builder import LEVELS

ROOT = Path(__file__).parents[2]
FOLDERS = ("san_deploy", "export", "train", "tools")


def load_tool():
    spec = importlib.util.spec_from_file_location("trt_names", ROOT / "tools" / "trt_names.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()
VERSIONS = {
    path.stem: tool.read(path.read_text())
    for path in sorted((Path(__file__).parent / "trt_names").glob("*.txt"))
}
OLD, NEW, NEXT, RTX = (
    "tensorrt-10.3.0",
    "tensorrt-10.16.1.11",
    "tensorrt-11.4.0.106",
    "tensorrt-rtx-1.7.1.116",
)

#: What a variable (or an attribute of `self`, without its underscore) of that name holds, in files that touch
#: TensorRT. `trt` is always the module.
RECEIVERS = {
    "builder": ("Builder",),
    "cache": ("ITimingCache",),
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "context": ("IExecutionContext",),
    "engine": ("ICudaEngine",),
    "flags": ("NetworkDefinitionCreationFlag",),
    "inspector": ("EngineInspector",),
    "layer": ("ILayer", "IConvolutionLayer", "IDeconvolutionLayer"),
    "levels": ("HardwareCompatibilityLevel",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "problem": ("ParserError",),
    "profile": ("IOptimizationProfile",),
    "runtime": ("Runtime",),
    "strategy": ("CudaGraphStrategy",),
    "tensor": ("ITensor",),
    "weights": ("Weights",),
}
ENTERPRISE = {OLD, NEW, NEXT}
#: Names that not all versions have, and those that lack them. The code uses each of them only where it found, with
#: hasattr, that it is there or that another is there that came with it.
GATED = {
    # export/
    "BuilderFlag.FP16": {NEXT, RTX},
    "ComputeCapability": ENTERPRISE,
    "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": {OLD},
    "IBuilderConfig.num_compute_capabilities": ENTERPRISE,
    "IBuilderConfig.set_compute_capability": ENTERPRISE,
    # san_deploy/backends/tensorrt.py
    "CudaGraphStrategy": ENTERPRISE,
    "CudaGraphStrategy.DISABLED": ENTERPRISE,
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE": ENTERPRISE,
    "EngineInvalidityDiagnostics": ENTERPRISE,
    "EngineValidity": ENTERPRISE,
    "EngineValidity.INVALID": ENTERPRISE,
    "EngineValidity.SUBOPTIMAL": ENTERPRISE,
    "ICudaEngine.create_runtime_config": {OLD},
    "ICudaEngine.device_memory_size": {NEXT, RTX},
    "IRuntimeConfig.create_runtime_cache": ENTERPRISE,
    "IRuntimeConfig.cuda_graph_strategy": ENTERPRISE,
    "IRuntimeConfig.set_execution_context_allocation_strategy": {OLD},
    "IRuntimeConfig.set_runtime_cache": ENTERPRISE,
    "Runtime.get_engine_validity": ENTERPRISE,
}


class Use(NamedTuple):
    """A name that is used: of one of `classes` ("" is the module), or of anything where there are none."""

    classes: tuple[str, ...]
    name: str
    line: int

    @property
    def key(self) -> str:
        """`BuilderFlag.FP16`; of several classes, the first that has it in any version."""
        having = [
            kind for kind in self.classes for names in VERSIONS.values() if self.name in names.get(kind, ())
        ]
        return ".".join(filter(None, ((having or [*self.classes, ""])[0], self.name)))


def uses(tree: ast.Module) -> Iterator[Use]:
    """All attributes, and the names that hasattr and getattr are given as text."""
    ours = {name.asname or name.name for node in ast.walk(tree) for name in imported(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value, name = node.value, node.attr
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("hasattr", "getattr")
            and isinstance(node.args[1], ast.Constant)
        ):
            value, name = node.args[0], node.args[1].value
        else:
            continue
        if not name.startswith("__"):
            yield Use(classes_of(value, ours), name, node.lineno)


def imported(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def classes_of(value: ast.expr, ours: set[str]) -> tuple[str, ...]:
    if isinstance(value, ast.Name):
        if value.id == "trt" and "trt" not in ours:
            return ("",)
        return RECEIVERS.get(value.id.strip("_"), ())
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "self":
        return RECEIVERS.get(value.attr.strip("_"), ())
    if isinstance(value, ast.Attribute):
        outer = classes_of(value.value, ours)
        # trt.ILogger is a class, trt.ILogger.Severity one within it.
        if outer == ("",) or (len(outer) == 1 and f"{outer[0]}.{value.attr}" in VERSIONS[NEW]):
            return (f"{outer[0]}.{value.attr}".strip("."),)
    return ()


def lacking(use: Use) -> set[str]:
    """The versions that have no such name."""
    return {
        version
        for version, names in VERSIONS.items()
        if not any(use.name in names.get(kind, ()) for kind in use.classes or names)
    }


def faults(source: str, known: Iterable[str] = ()) -> list[str]:
    """What is wrong with the names in a file. `known` are names that are not TensorRT's."""
    found = []
    for use in uses(ast.parse(source)):
        missing = lacking(use)
        if not missing or (not use.classes and use.name in known):
            continue
        if missing == set(VERSIONS):
            found.append(f"line {use.line}: {use.key} is in no version")
        elif missing != GATED.get(use.key):
            found.append(f"line {use.line}: {use.key} is not in {', '.join(sorted(missing))}")
    return found


@cache
def sources() -> dict[Path, ast.Module]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path: ast.parse(path.read_text()) for path in paths if path.name != "trt_names.py"}


def touches(tree: ast.Module) -> bool:
    """Whether a file handles objects of TensorRT."""
    names = [(node, name) for node in ast.walk(tree) for name in imported(node)]
    if any(getattr(node, "module", "") in ("trt", "san_deploy.backends.trt") for node, _ in names):
        return True
    ours = {name.asname or name.name for _, name in names}
    return "trt" not in ours and any(
        isinstance(node, ast.arg) and node.arg == "trt" for node in ast.walk(tree)
    )


def touching() -> list[Path]:
    return [path for path, tree in sources().items() if touches(tree)]


@cache
def own_names() -> frozenset[str]:
    """What our own code defines: functions, classes, fields, attributes."""
    found = set()
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                for item in (item for target in targets for item in ast.walk(target)):
                    if isinstance(item, ast.Name):
                        found.add(item.id)
                    elif isinstance(item, ast.Attribute) and ast.unparse(item.value) == "self":
                        found.add(item.attr)
    return frozenset(found)


def names_of_imports(tree: ast.Module) -> set[str]:
    """Members of the modules that a file imports, and of the classes in them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
            modules = [node.module or ""]
        if isinstance(node, ast.ImportFrom) and node.level:
            # `from .ort import onnxruntime` hands a package on.
            modules = [name.name for name in node.names if name.name == "onnxruntime"]
        for name in modules:
            if not name.startswith(("tensorrt", "san_deploy", "san_export", "san_train")):
                module = importlib.import_module(name)
                found |= set(dir(module))
                found |= {
                    item for value in vars(module).values() if isinstance(value, type) for item in dir(value)
                }
    return found


def known_to(tree: ast.Module) -> set[str]:
    builtin = {item for value in vars(builtins).values() if isinstance(value, type) for item in dir(value)}
    return set(own_names()) | names_of_imports(tree) | builtin


def test_the_lists_are_of_all_versions_that_we_serve() -> None:
    assert set(VERSIONS) == {OLD, NEW, NEXT, RTX}
    for names in VERSIONS.values():
        assert (
            "build_serialized_network" in names["Builder"]
            and "execute_async_v3" in names["IExecutionContext"]
        )
        # Inherited names are a class's own, too.
        assert {"get_input", "kernel"} <= names["IConvolutionLayer"] and "kernel" not in names["ILayer"]
    # What docs say was removed in 11.
    assert "FP16" in VERSIONS[OLD]["BuilderFlag"] and "FP16" not in VERSIONS[NEXT]["BuilderFlag"]
    assert "IInt8Calibrator" in VERSIONS[NEW][""] and "IInt8Calibrator" not in VERSIONS[NEXT][""]


def test_the_list_of_tensorrt_rtx_is_that_of_the_installed_one() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    if f"tensorrt-rtx-{trt.__version__}" != RTX:
        pytest.skip(f"tensorrt_rtx {trt.__version__} is installed")
    assert tool.read(tool.write(tool.names_of(trt))) == VERSIONS[RTX]


def test_the_files_that_touch_tensorrt_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in touching()}
    assert {
        "san_deploy/backends/trt.py",
        "san_deploy/backends/tensorrt.py",
        "export/san_export/engine/build.py",
        "export/san_export/engine/builder.py",
        "export/san_export/engine/inspect.py",
        "export/san_export/engine/progress.py",
    } <= names
    assert "san_deploy/backends/onnxruntime.py" not in names and "export/san_export/request.py" not in names


@pytest.mark.parametrize("path", touching(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_is_in_every_version(path: Path) -> None:
    assert faults(path.read_text(), known_to(sources()[path])) == []


def test_no_gate_is_left_over() -> None:
    used = {use.key for path in touching() for use in uses(sources()[path])}
    assert (
        sorted(set(GATED) - used - {f"HardwareCompatibilityLevel.{level}" for level in LEVELS.values()}) == []
    )


def test_names_that_are_looked_up_by_text() -> None:
    for level in LEVELS.values():
        use = Use(("HardwareCompatibilityLevel",), level, 0)
        assert lacking(use) == GATED.get(use.key, set()), level
    for name in ("UINT8", "FLOAT"):  # san_deploy/backends/tensorrt.py compares types by name
        assert not lacking(Use(("DataType",), name, 0))


@pytest.mark.parametrize(
    "source",
    [
        "def f(trt): trt.Buidler",
        "def f(trt): trt.BuilderFlag.FP61",
        "def f(trt): trt.ILogger.Severity.EROR",
        "def f(config): config.set_flags(1)",
        # There, but of another class.
        "def f(config): config.num_layers",
        "def f(self): self._engine.get_tensor_names()",
        "def f(network): network.get_layer(0).nome",
        "def f(trt): hasattr(trt.BuilderFlag, 'FP61')",
        "def f(runtime): getattr(runtime, 'deserialise', None)",
        # There in some versions, and in no gate.
        "def f(trt): trt.BuilderFlag.INT4",
        "def f(trt): trt.IInt8Calibrator",
        "def f(builder): builder.platform_has_fast_fp16",
        "def f(engine): engine.create_execution_context_without_device_memory()",
        "def f(trt): getattr(trt.HardwareCompatibilityLevel, 'SAME_COMPUTE_CAPABILITES')",
    ],
)
def test_a_wrong_name_is_found(source: str) -> None:
    assert len(faults(source, known_to(ast.parse(source)))) == 1


def test_a_gate_that_says_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def f(trt): hasattr(trt.BuilderFlag, 'FP16')"
    assert not faults(source)
    monkeypatch.setitem(GATED, "BuilderFlag.FP16", {NEXT})
    assert faults(source) == [f"line 1: BuilderFlag.FP16 is not in {NEXT}, {RTX}"]


@pytest.mark.parametrize(
    "source",
    [
        "def f(trt): trt.Builder(1).create_network(0)",
        "def f(trt): trt.BuilderFlag.TF32, hasattr(trt.BuilderFlag, 'FP16')",
        "def f(trt): trt.ILogger.Severity.ERROR",
        "def f(layer): layer.kernel, layer.get_input(0).dtype",
        "def f(path): path.strip()",
        "from . import trt\ntrt.available()",
    ],
)
def test_a_right_name_is_no_fault(source: str) -> None:
    assert faults(source, known_to(ast.parse(source))) == []
