"""What leaves the checkout: the wheel, the source archive, the container files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
#: Beside the three packages and pip's own folder nothing may come with the wheel.
PACKAGES = {"san_deploy", "san_train", "san_export"}
MAX_WHEEL_BYTES = 18e6


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the checkout holds, without environments, runs and caches."""
    folder = tmp_path_factory.mktemp("package") / "checkout"
    made = (
        ".git",
        ".venv*",
        "*.egg-info",
        "__pycache__",
        ".*_cache",
        ".hypothesis",
        "build",
        "dist",
        "demo",
        "runs",
    )
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*made))
    return folder


def build(checkout: Path, hook: str) -> Path:
    """Call setuptools as pip and `python -m build` call it; no index is asked."""
    out = checkout.parent / hook
    out.mkdir()
    code = f"from setuptools import build_meta; print(build_meta.{hook}({str(out)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True)
    [made] = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build(checkout, "build_wheel")


def test_the_wheel_holds_the_three_packages_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {PurePosixPath(name).parts[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    for package, folder in (("san_deploy", ""), ("san_train", "train/"), ("san_export", "export/")):
        wanted = {
            path.relative_to(ROOT / folder).as_posix()
            for path in (ROOT / folder / package).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert wanted - set(names) == set()


def test_an_index_page_shows_it(wheel: Path) -> None:
    """Its text has no link into a checkout, and nobody's name or address was invented."""
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata, _, text = archive.read(name).decode().partition("\n\n")
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets and all(target.startswith("https://arxiv.org/") for target in targets)
    assert "Author: the san-deploy developers\n" in metadata
    assert "Author-email" not in metadata and "Project-URL" not in metadata
    for python in ("3.10", "3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {python}\n" in metadata + "\n"


def test_no_runtime_comes_by_itself(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    required = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    runtimes = ("onnxruntime", "tensorrt", "openvino", "opencv", "torch")
    core = [line for line in required if "extra ==" not in line]
    assert core and not [line for line in core if line.startswith(runtimes)]
    for extra in ("train", "export", "convert"):
        brought = [line for line in required if f'extra == "{extra}"' in line]
        assert brought and not [line for line in brought if line.startswith("onnxruntime")]


def test_the_source_archive_has_all_that_is_committed(checkout: Path) -> None:
    """Tests, tools and documents included, so that it passes its own tests."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: what is committed cannot be listed")
    with tarfile.open(build(checkout, "build_sdist")) as archive:
        held = {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in archive.getnames()}
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    committed = {name for name in listed.split("\0") if name and (ROOT / name).exists()}
    assert committed - held == set()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_are_linted(dockerfile: Path) -> None:
    hadolint = shutil.which(
        "hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    )
    if hadolint is None:
        pytest.skip("hadolint (extra dev) has no wheel for this machine")
    done = subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_their_shell_lines_make_a_san_that_runs(dockerfile: Path, checkout: Path, tmp_path: Path) -> None:
    """`RUN` as it stands, in a folder that has what .dockerignore lets through, with /opt as a folder of ours.

    No index is asked: dependencies and setuptools are those of the tests' environment.
    """
    context = tmp_path / "src"
    for line in (checkout / ".dockerignore").read_text("utf-8").splitlines():
        if line.startswith("!"):
            source, target = checkout / line[1:], context / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    text = dockerfile.read_text("utf-8")
    lines = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    assert len(lines) == 1 and "USER 1000" in text and "root" not in text.partition("USER 1000")[2]
    [entry] = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    here = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment = os.environ | {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": here,
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads "0" of a --no-... option as: do not isolate
        "PIP_FORCE_REINSTALL": "1",
        "PIP_NO_COMPILE": "1",
    }
    shell = ["sh", "-e", "-c", lines[0].replace("/opt/", f"{tmp_path}/opt/")]
    done = subprocess.run(shell, cwd=context, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    installed = tmp_path / entry.removeprefix("/")
    command = [str(installed.parent / "python"), str(installed), "info", "--json"]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0 and str(tmp_path / "opt") in told.stdout, told.stdout + told.stderr


def test_the_workflow_runs_what_ci_runs() -> None:
    """One workflow, and it calls .ci/run: CI is the same everywhere."""
    [workflow] = (ROOT / ".github/workflows").iterdir()
    assert "- run: bash .ci/run\n" in workflow.read_text("utf-8")
