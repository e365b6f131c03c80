"""The house that CONTRIBUTING.md describes: who may import whom, how large a room may be, one name for one thing.

A room is a package of the tree (`san_deploy.metrics`) or a file beside the packages (`san_deploy.embed`).
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "san_deploy": ROOT / "san_deploy",
    "san_train": ROOT / "train/san_train",
    "san_export": ROOT / "export/san_export",
}
# Who may import whom at all: export stands on train, train on the edge.
MAY_IMPORT = {
    "san_deploy": {"san_deploy"},
    "san_train": {"san_train", "san_deploy"},
    "san_export": {"san_export", "san_train", "san_deploy"},
}
# What the edge's devices do not have: these rooms may ask for it, inside a function.
NOT_ON_THE_EDGE = {"torch", "san_train", "san_export"}
MAY_ASK_LAZILY = ("san_deploy.cli.", "san_deploy.backends.torch")

# One file per row: these folders grow with what they list.
GROWS = {"san_deploy/backends", "san_deploy/cli", "san_deploy/datasets", "train/san_train/models"}
FILES_PER_FOLDER = 12

# What still breaks the rule, to go.
KNOWN_CROWDED = {"train/san_train"}


class Import(NamedTuple):
    """One import statement's target, and whether it is inside a function."""

    source: str
    target: str
    lazy: bool


def modules() -> dict[str, Path]:
    """Import path of each module of the three packages -> its file."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(module: str) -> Iterator[Import]:
    """Every import in a module, wherever it stands, `if TYPE_CHECKING` included."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, name.name, lazy) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for name in node.names:
                # `from san_deploy.io import atomic` imports a module; mostly it is a name of one.
                yield Import(module, inner if (inner := f"{base}.{name.name}") in MODULES else base, lazy)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))

    return walk(ast.parse(path.read_text("utf-8")), False)


IMPORTS = [found for module in MODULES for found in imports_of(module)]


def package(module: str) -> str:
    return module.partition(".")[0]


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def said(imports: list[Import]) -> list[str]:
    """One line per import, for a failed test to show."""
    return sorted({f"{found.source} imports {found.target}" for found in imports})


def test_the_arrows_between_the_packages() -> None:
    wrong = [
        found
        for found in IMPORTS
        if package(found.target) in PACKAGES
        and package(found.target) not in MAY_IMPORT[package(found.source)]
        and not found.source.startswith(MAY_ASK_LAZILY)
    ]
    assert said(wrong) == []


def test_the_edge_asks_for_torch_and_the_other_packages_only_inside_functions() -> None:
    """`if TYPE_CHECKING` is not run: mypy alone reads it."""
    wrong = [
        found
        for found in IMPORTS
        if package(found.source) == "san_deploy"
        and package(found.target) in NOT_ON_THE_EDGE
        and not (found.source.startswith(MAY_ASK_LAZILY) and (found.lazy or for_types_only(found)))
    ]
    assert said(wrong) == []


def for_types_only(found: Import) -> bool:
    """Whether every import of this target by this module, outside functions, is under `if TYPE_CHECKING`."""
    tree = ast.parse(MODULES[found.source].read_text("utf-8"))
    return all(
        not isinstance(node, (ast.Import, ast.ImportFrom)) or package(found.target) not in ast.unparse(node)
        for node in tree.body
    )


def test_metrics_are_pure_numpy() -> None:
    """They know neither what runs a network nor where crops come from."""
    forbidden = {"san_deploy.backends", "san_deploy.datasets"}
    wrong = [
        found
        for found in IMPORTS
        if room(found.source) == "san_deploy.metrics" and room(found.target) in forbidden
    ]
    assert said(wrong) == []


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Every group of nodes that reach each other (Tarjan's strongly connected components of two or more)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(arrows.get(node, ())):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(arrows):
        if node not in order:
            visit(node)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


@pytest.mark.parametrize("unit", [room, str], ids=["rooms", "modules"])
def test_no_circles(unit: type[str]) -> None:
    """Neither between rooms nor between files; an import inside a function counts, since it only hides a circle."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for found in IMPORTS:
        source, target = unit(found.source), unit(found.target)
        if target in {unit(module) for module in MODULES} - {"san_deploy"} and source != target:
            arrows[source].add(target)
    assert circles(arrows) == []


def test_rooms_stay_small() -> None:
    """About a dozen files a folder; where a folder lists things, one file each, it may have more."""
    folders: dict[str, int] = defaultdict(int)
    for path in MODULES.values():
        folders[path.parent.relative_to(ROOT).as_posix()] += path.name != "__init__.py"
    crowded = {
        folder: files for folder, files in folders.items() if folder not in GROWS and files > FILES_PER_FOLDER
    }
    assert {folder: files for folder, files in crowded.items() if folder not in KNOWN_CROWDED} == {}


def test_one_class_name_one_meaning() -> None:
    """Names that begin with an underscore are their file's own, and a class inside a function is the function's."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


SEAMS = {
    "san_deploy/cli/export.py": "from san_export.pipeline import export as called",
    "export/san_export/checkpoint.py": "from san_train.checkpoint import load_checkpoint as called",
}


def test_mypy_sees_a_wrong_keyword_across_the_seams(tmp_path: Path) -> None:
    """The files of ours that call across, each with one more call at its end, as mypy reads them for `make types`."""
    shadows: list[str] = []
    for number, (file, imported) in enumerate(SEAMS.items()):
        shadow = tmp_path / f"{number}.py"
        text = (ROOT / file).read_text("utf-8")
        shadow.write_text(
            f"{text}\n\ndef wrong() -> None:\n    {imported}\n\n    called(nonsense=1)\n", "utf-8"
        )
        shadows += ["--shadow-file", file, str(shadow)]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *shadows, *SEAMS],
        cwd=ROOT,
        env={**os.environ, "MYPY_FORCE_COLOR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    refused = [line for line in ran.stdout.splitlines() if 'Unexpected keyword argument "nonsense"' in line]
    assert sorted(line.partition(":")[0] for line in refused) == sorted(SEAMS), ran.stdout + ran.stderr


if __name__ == "__main__":
    # The goals that no test holds yet: functions of at most 80 lines and, options of commands aside, five parameters.
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                names = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
                count = len([name for name in names if name not in ("self", "cls")])
                if lines > 80:
                    print(f"{lines:4} lines       {module}.{node.name}")
                if count > 5 and not module.startswith("san_deploy.cli"):
                    print(f"{count:4} parameters  {module}.{node.name}")
