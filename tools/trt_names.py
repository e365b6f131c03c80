"""List the names that a version of TensorRT's Python bindings has, for tests/san_export/trt_names/.

Our code runs with TensorRT 10.3 to 11 and with TensorRT-RTX, of which at most one is installed on any machine. The
lists let a test say, on any machine, that every name our code uses is there in all of them.

TensorRT itself need not be installed: the bindings are imported beside empty libraries, which is enough to see what
they define. They must be for the Python that runs this, and a C compiler is needed. To write the lists again:

    pip download --no-deps -d wheels tensorrt-cu12-bindings==10.3.0 tensorrt-cu12-bindings==10.16.1.11 ...
    python tools/trt_names.py wheels/*.whl -o tests/san_export/trt_names
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

#: What the bindings call in TensorRT's libraries. All of it is first called when an object is made.
_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARY = re.compile(
    rb"lib(?:nvinfer|nvinfer_plugin|nvonnxparser|tensorrt_rtx|tensorrt_onnxparser_rtx)\.so\.\d+"
)
_MODULES = ("tensorrt_bindings", "tensorrt_rtx_bindings")


def names_of(module: ModuleType) -> dict[str, list[str]]:
    """The public names of a module of bindings, by class.

    Returns:
        `{"": names of the module, "Builder": its members, "IConvolutionLayer(ILayer)": its own members, ...}`,
        sorted. A class's key has its bases in brackets, whose members it has too.
    """
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    public = {name: value for name, value in public.items() if not isinstance(value, ModuleType)}
    found = {"": sorted(public)}
    for name, value in sorted(public.items()):
        if isinstance(value, type):
            found |= _members(name, value)
    return found


def _members(name: str, kind: type) -> dict[str, list[str]]:
    bases = [base.__name__ for base in kind.__bases__ if base.__name__ not in ("object", "pybind11_object")]
    own = {key: value for key, value in vars(kind).items() if not key.startswith("_")}
    found = {f"{name}({', '.join(bases)})" if bases else name: sorted(own)}
    for key, value in sorted(own.items()):
        if isinstance(value, type):
            found |= _members(f"{name}.{key}", value)
    return found


def write(names: dict[str, list[str]]) -> str:
    """One class per line: `Builder: build_serialized_network create_network ...`; the module's has no name."""
    return "".join(f"{key}: {' '.join(members)}\n" for key, members in names.items())


def read(text: str) -> dict[str, frozenset[str]]:
    """What `write` gave: `{class: names, inherited ones too}`, the module's own names at the key "".

    Raises:
        KeyError: a class has a base that is not listed.
    """
    own: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, members = line.partition(": ")
        name, _, listed = key.rstrip(":").rstrip(")").partition("(")
        own[name] = set(members.split())
        bases[name] = [base for base in listed.split(", ") if base]

    def everything(name: str) -> frozenset[str]:
        return frozenset(own[name]).union(*(everything(base) for base in bases[name]))

    return {name: everything(name) for name in own}


def names_of_wheel(wheel: Path) -> tuple[str, dict[str, list[str]]]:
    """`tensorrt-10.3.0` or `tensorrt-rtx-1.7.1.116`, and the names of the bindings in a wheel."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder)
        (module,) = (name for name in _MODULES if (folder / name).is_dir())
        needed = {
            match.decode() for path in folder.rglob("*.so*") for match in _LIBRARY.findall(path.read_bytes())
        }
        source = folder / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
        for library in sorted(needed):
            command = [
                "cc",
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{library}",
                "-o",
                str(folder / library),
                str(source),
            ]
            subprocess.run(command, check=True)
        environment = os.environ | {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}
        listed = subprocess.run(
            [sys.executable, __file__, "--module", module],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    version, _, lines = listed.partition("\n")
    names = {line.partition(": ")[0]: line.partition(": ")[2].split() for line in lines.splitlines()}
    return f"{module.removesuffix('_bindings').replace('_', '-')}-{version}", names


def main() -> None:
    """Parse the command line and write the lists."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheels", nargs="*", type=Path, help="Wheels of bindings, for this Python.")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("tests/san_export/trt_names"), help="Folder of lists."
    )
    parser.add_argument("--module", help="Print the version and the names of an installed module instead.")
    arguments = parser.parse_args()
    if arguments.module:
        module = importlib.import_module(arguments.module)
        sys.stdout.write(f"{module.__version__}\n{write(names_of(module))}")
    for wheel in arguments.wheels:
        name, names = names_of_wheel(wheel)
        target = arguments.output / f"{name}.txt"
        target.write_text(write(names))
        print(f"{target}: {len(names) - 1} classes, {sum(map(len, names.values()))} names")


if __name__ == "__main__":
    main()
