"""Install the wheel with each set of extras on each Python, and say what became of it: the table of docs/install.md.

    python tools/install_matrix.py --python 3.10 --python 3.13 --extras cpu --extras cpu,convert --lowest

Each cell is an environment of its own (in --work, removed after it): the wheel with its extras from the index, then
`pip check`, `san info --json` and, with a runtime, `san demo`. `--lowest` holds every requirement of ours at the lowest
version that pyproject.toml names. `--resolve` installs nothing: pip only says what it would install, which is how a
platform or a Python that is not at hand is looked at (`--resolve --python 3.14`), and extras of many gigabytes.
Interpreters are looked for as pythonX.Y on the path and among pyenv's.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    sys.exit("tools/install_matrix.py itself needs Python 3.11 (tomllib); it looks at others with --python")

ROOT = Path(__file__).parents[1]
#: What runs the starter model; `san demo` is asked of an environment that has one of these.
RUNTIMES = {"cpu"}
_NAME = re.compile(r"^([A-Za-z0-9_.-]+)(\[[^]]*\])?>=([0-9][0-9.]*)")


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    Attributes:
        python: `3.12`.
        extras: `cpu,convert`; empty for the core alone.
        versions: `newest` or `lowest`.
        outcome: what became of it, in words.
        megabytes: size of the environment; None where nothing was installed.
        packages: `{name: version}` of what was installed, or would be.
    """

    python: str
    extras: str
    versions: str
    outcome: str
    megabytes: int | None
    packages: dict[str, str]


def interpreter(version: str) -> str | None:
    """The path of an interpreter; None where there is none here."""
    found = shutil.which(f"python{version}")
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in ([found] if found else []) + [str(path) for path in pyenv]:
        asked = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if asked.stdout.startswith(f"Python {version}."):
            return candidate
    return None


def lower_bounds(extras: Sequence[str]) -> list[str]:
    """Constraints that hold the core's and the extras' requirements at their lowest versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return [f"{match[1]}=={match[3]}.*" for line in wanted if (match := _NAME.match(line))]


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def try_one(python: str, extras: str, wheel: Path, work: Path, *, lowest: bool) -> Cell:
    """Install into a new environment and use it."""
    names = [name for name in extras.split(",") if name]
    environment = work / "venv"
    versions = "lowest" if lowest else "newest"
    base = interpreter(python)
    if base is None:
        return Cell(python, extras, versions, "no such interpreter here", None, {})
    subprocess.run([base, "-m", "venv", "--clear", environment], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-qq", "--upgrade", "pip"], check=True)
    constraints = work / "lowest.txt"
    constraints.write_text("\n".join(lower_bounds(names) if lowest else []), "utf-8")
    target = f"{wheel}[{extras}]" if extras else str(wheel)
    installed = run([*pip, "install", "-q", "--only-binary=:all:", "-c", str(constraints), target])
    if installed.returncode:
        return Cell(python, extras, versions, f"not installed: {last_line(installed.stderr)}", None, {})
    listed = json.loads(run([*pip, "list", "--format", "json"]).stdout)
    packages = {item["name"].lower(): item["version"] for item in listed}
    size = sum(path.lstat().st_size for path in environment.rglob("*") if not path.is_dir())
    found = list(proofs(pip, environment / "bin/san", work, runs=bool(RUNTIMES & set(names))))
    outcome = "; ".join(found) or "ok"
    shutil.rmtree(environment)
    return Cell(python, extras, versions, outcome, round(size / 1e6), packages)


def proofs(pip: list[str], san: Path, work: Path, *, runs: bool) -> Iterator[str]:
    """What the environment says when it is used; nothing where all went well."""
    checked = run([*pip, "check"])
    if checked.returncode:
        yield f"pip check: {last_line(checked.stdout)}"
    told = run([str(san), "info", "--json"])
    if told.returncode:
        yield f"info: {last_line(told.stderr)}"
    demo = run([str(san), "demo", "-o", str(work / "demo"), "--force"])
    if not runs and demo.returncode == 1 and demo.stderr.count("\n") == 1 and "[cpu]" in demo.stderr:
        yield "names the extra"
    elif not runs or demo.returncode:
        yield f"demo: {last_line(demo.stderr)}"


def resolve(python: str, extras: str, wheel: Path, work: Path, platform: str) -> Cell:
    """What pip would install for another Python or platform, of wheels alone."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--report"]
    command += [str(work / "report.json"), "--target", str(work / "none"), "--only-binary=:all:"]
    command += ["--python-version", python, *(part for tag in tags(platform) for part in ("--platform", tag))]
    done = run([*command, f"{wheel}[{extras}]" if extras else str(wheel)])
    if done.returncode:
        return Cell(python, extras, platform, f"does not resolve: {last_line(done.stderr)}", None, {})
    report = json.loads((work / "report.json").read_text("utf-8"))
    packages = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in report["install"]}
    return Cell(python, extras, platform, "resolves", None, packages)


def tags(platform: str) -> list[str]:
    """pip wants each tag that a platform takes: `linux_x86_64` stands for the manylinux ones."""
    system, _, machine = platform.partition("_")
    if system != "linux":
        return [platform]
    return [f"manylinux_2_{minor}_{machine}" for minor in (39, 35, 34, 28, 27, 17)] + [
        f"manylinux2014_{machine}"
    ]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run and keep what is said."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    """The last line that says something, cut to a cell's width."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return (lines[-1] if lines else "nothing was said")[:160]


def markdown(cells: Sequence[Cell], shown: Sequence[str]) -> str:
    """The table, with a column for each package of `shown`."""
    lines = [
        "| Python | extras | versions | " + " | ".join(shown) + " | MB | outcome |",
        "|" + "---|" * (5 + len(shown)),
    ]
    for cell in cells:
        packages = " | ".join(cell.packages.get(name, "") for name in shown)
        size = "" if cell.megabytes is None else str(cell.megabytes)
        lines.append(
            f"| {cell.python} | {cell.extras or 'none'} | {cell.versions} | {packages} | {size} | {cell.outcome} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="X.Y", help="repeat; default 3.10 to 3.13"
    )
    parser.add_argument(
        "--extras", action="append", default=[], metavar="A,B", help="repeat; default none, cpu"
    )
    parser.add_argument("--lowest", action="store_true", help="the lowest versions that are allowed")
    parser.add_argument(
        "--resolve", action="append", default=[], metavar="PLATFORM", help="install nothing; repeat"
    )
    parser.add_argument("--show", default="numpy,onnxruntime", help="packages that get a column")
    parser.add_argument("--work", type=Path, help="folder for environments; default a temporary one")
    given = parser.parse_args()
    pythons = given.python or ["3.10", "3.11", "3.12", "3.13"]
    sets = given.extras or ["", "cpu"]
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        wheel = build_wheel(work)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
        for python in pythons:
            for extras in sets:
                if given.resolve:
                    cells += [resolve(python, extras, wheel, work, platform) for platform in given.resolve]
                else:
                    cells.append(try_one(python, extras, wheel, work, lowest=given.lowest))
                print(cells[-1], file=sys.stderr)
    print(markdown(cells, given.show.split(",")))


if __name__ == "__main__":
    main()
