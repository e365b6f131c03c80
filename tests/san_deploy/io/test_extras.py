"""What to ask pip for: the extras exist, and packages over each other are named with what mends it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from san_deploy.io import extras

ROOT = Path(__file__).parents[3]
RUN = """if True:
    import sys
    sys.argv = ["san", *sys.argv[1:]]
    from san_deploy.cli import main
    main()
"""


def declared() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^(\S+) = \[", section, re.MULTILINE))


def distribution(site: Path, name: str, version: str) -> None:
    """What pip leaves to say that a package is installed."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`san` where the packages of `site` stand before those of the environment."""
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(map(str, (site, ROOT, ROOT / "train", ROOT / "export")))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_extra_that_is_advised_exists() -> None:
    assert set(extras.EXTRA_OF.values()) <= declared()
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "san_deploy").rglob("*.py"))
    assert set(re.findall(r"[^e]install\([\"']([\w-]+)[\"']\)", sources)) <= declared()


def test_advice_names_the_checkout() -> None:
    """As long as the index has no san-deploy; then `SOURCE` is its name."""
    assert extras.install("export", "cpu") == "pip install '.[export,cpu]' (in the checkout)"


@pytest.mark.parametrize(
    ("module", "found", "told"),
    [
        ("onnxruntime", {}, ""),
        ("onnxruntime", {"onnxruntime": "1.20"}, ""),
        (
            "onnxruntime",
            {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"},
            "2 builds of ONNX Runtime are installed over each other, onnxruntime-gpu 1.31.1 and onnxruntime "
            "1.32.0, and which one runs is chance. Keep one: pip uninstall -y onnxruntime && "
            "pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1",
        ),
        (
            "cv2",
            {"opencv-python": "4.10", "opencv-python-headless": "4.11"},
            "2 builds of OpenCV are installed over each other, opencv-python-headless 4.11 and opencv-python "
            "4.10, and which one runs is chance. Keep one: pip uninstall -y opencv-python && "
            "pip install --force-reinstall --no-deps opencv-python-headless==4.11",
        ),
    ],
)
def test_builds_over_each_other(
    monkeypatch: pytest.MonkeyPatch, module: str, found: dict[str, str], told: str
) -> None:
    monkeypatch.setattr(
        "san_deploy.io.versions.versions",
        lambda *names: {name: found[name] for name in names if name in found},
    )
    assert extras.conflict(module) == told


def test_a_command_warns_in_one_line_and_goes_on(tmp_path: Path) -> None:
    """The warning counts distributions, so that one on this machine's path and one of ours are two."""
    distribution(tmp_path, "onnxruntime-gpu", "1.31.1")
    distribution(tmp_path, "onnxruntime", "1.31.1")
    told = run(tmp_path, "info", str(ROOT / "san_deploy/data/starter.onnx"))
    assert told.returncode == 0
    [line] = told.stderr.splitlines()
    assert line.startswith("Warning: 2 builds of ONNX Runtime") and "pip uninstall -y onnxruntime &&" in line


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ("", "ONNX Runtime has lost its files, as when one of two builds was uninstalled. pip install "),
        ("raise ImportError('no libcudart')", "ONNX Runtime does not load: no libcudart. pip install "),
        (
            "raise ModuleNotFoundError(name='onnxruntime')",
            "ONNX Runtime, which runs ONNX files, is not installed. pip install '.[cpu]' (in the checkout), or [cuda]",
        ),
    ],
)
def test_without_a_whole_runtime(tmp_path: Path, left: str, told: str) -> None:
    """Every command that needs it says so in one line; what needs none goes on."""
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text(left, "utf-8")
    if "ModuleNotFound" in left:
        # No distribution of it either.
        hidden = "import san_deploy.io.versions as v\nv.versions = lambda *names: {}\n"
        (tmp_path / "sitecustomize.py").write_text(hidden, "utf-8")
    for command in (
        ["info", str(ROOT / "san_deploy/data/starter.onnx")],
        ["embed", str(ROOT), "-o", "x.npz"],
    ):
        said = run(tmp_path, *command)
        assert said.returncode == 1 and said.stdout == ""
        [line] = said.stderr.splitlines()
        assert line.startswith(f"Error: {told}")
    assert "has lost" in (whole := run(tmp_path, "info")).stdout or "ONNX Runtime" in whole.stdout
    assert whole.returncode == 0
