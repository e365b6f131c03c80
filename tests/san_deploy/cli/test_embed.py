"""`san embed`, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from san_deploy.embed import read_embeddings
from tests.conftest import Result
from tests.tiny_models import tiny_model

San = Callable[..., Result]


def test_embeds(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "a.npz"
    result = san("embed", crops, "-o", output, "-m", model)
    read = read_embeddings(output)
    assert read.embedding.shape == (11, 8) and len(read.tracks) == 5
    for part in (
        "tiny.onnx (tiny, 32 x 16, fp32, SHA-256 ",
        "onnxruntime (CPU, ",
        "11 in 5 tracklets",
        "crops per second",
    ):
        assert part in result.out
    assert str(output) in result.out
    # No progress bar: stderr is no terminal here.
    assert result.err.startswith("Embedding 11 crops with tiny.onnx") and result.err.count("\n") == 1
    assert [path.name for path in output.parent.iterdir()] == ["a.npz"]


def test_json(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    (crops / "t2" / "1.png").write_bytes(b"no image")
    result = san(
        "embed", crops, "-o", tmp_path / "a.npz", "-m", model, "--json", "--batch", 2, "--workers", 1
    )
    told = json.loads(result.out)
    assert (told["crops"], told["tracklets"], told["embedding_dim"]) == (10, 4, 8)
    assert told["unreadable"][0]["path"] == "t2/1.png" and told["lost_tracklets"] == ["t2"]
    assert told["model"]["arch"] == "tiny" and told["seconds"] >= 0 and told["crops_per_second"] > 0


def test_unreadable_crops_are_named_and_counted(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    for i in range(13):
        (crops / "t1" / f"bad{i:02d}.jpg").write_bytes(b"no image")
    result = san("embed", crops, "-o", tmp_path / "a.npz", "-m", model)
    assert result.err.count("Unreadable: ") == 10 and "t1/bad09.jpg" in result.err
    assert "13 of 24 crops are unreadable" in result.err and "13 unreadable" in result.out
    result = san("embed", crops, "-o", tmp_path / "b.npz", "-m", model, "--strict", code=1)
    assert "t1/bad00.jpg cannot be read" in result.err and not (tmp_path / "b.npz").exists()


def test_refuses_to_overwrite_before_it_starts(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.npz"
    output.write_text("mine")
    # Neither the folder nor the model is looked at.
    result = san("embed", tmp_path / "none", "-o", output, "-m", tmp_path / "none.onnx", code=1)
    assert "--force" in result.err and output.read_text() == "mine"
    san("embed", crops, "-o", output, "-m", model, "--force")
    assert len(read_embeddings(output).path) == 11


def test_output_is_a_folder(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    assert "is a folder" in san("embed", crops, "-o", tmp_path, "-m", model, "--force", code=1).err


@pytest.mark.parametrize(
    ("folder", "message"),
    [("none", "does not exist"), ("file", "is not a folder"), ("empty", "holds no image")],
)
def test_bad_folder(san: San, model: Path, tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    result = san("embed", tmp_path / folder, "-o", tmp_path / "a.npz", "-m", model, code=1)
    assert message in result.err and folder in result.err and not (tmp_path / "a.npz").exists()


def test_nothing_readable(san: San, model: Path, tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "a.jpg").write_bytes(b"no image")
    result = san("embed", tmp_path / "crops", "-o", tmp_path / "a.npz", "-m", model, code=1)
    assert "none of the 1 crops" in result.err and not (tmp_path / "a.npz").exists()


def test_bad_model(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(model.read_bytes()[:1000])
    not_ours = tiny_model(tmp_path / "other.onnx", metadata={})
    misfit = tiny_model(tmp_path / "misfit.onnx", told={"size_hw": (64, 32)})
    nan = tiny_model(tmp_path / "nan.onnx", scale=float("nan"))
    (tmp_path / "m.txt").touch()
    for path, message in (
        (tmp_path / "none.onnx", "does not exist"),
        (tmp_path / "m.txt", "of no kind that runs here"),
        (bad, "cut short"),
        (not_ours, "not written by san export"),
        (misfit, "does not fit its own description"),
        (nan, "not finite"),
    ):
        assert message in san("embed", crops, "-o", tmp_path / "a.npz", "-m", path, code=1).err
        assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize(
    "options", [["--batch", "0"], ["--batch", "x"], ["--workers", "0"], ["--workers", "-1"], ["--nonsense"]]
)
def test_usage(san: San, crops: Path, tmp_path: Path, options: list[str]) -> None:
    assert options[0] in san("embed", crops, "-o", tmp_path / "a.npz", *options, code=2).err


def test_output_is_required(san: San, crops: Path) -> None:
    assert "--output" in san("embed", crops, code=2).err


def run(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_full_disk(crops: Path, model: Path, tmp_path: Path) -> None:
    """A limit on file sizes fails a write half-way, as a full disk does."""
    (tmp_path / "out").mkdir()
    result = run(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        from san_deploy.cli import main
        main()
        """,
        *("embed", crops, "-o", tmp_path / "out" / "a.npz", "-m", model),
    )
    assert result.returncode == 1 and result.stdout == ""
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        f"Error: cannot write {tmp_path}/out/a.npz: File too large"
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_leaves_nothing(model: Path, tmp_path: Path, crops: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(6000):
        (folder / f"{i:05d}.png").symlink_to(crops / "t2" / "1.png")
    (tmp_path / "out").mkdir()
    # A shell that starts jobs in the background lets them ignore Ctrl-C, and so would this process.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from san_deploy.cli import main; main()"
    command = [sys.executable, "-c", code, "embed", folder, "-o", tmp_path / "out" / "a.npz", "-m", model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "Embedding 6000 crops" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "Stopped. Nothing half-written was left."
    assert list((tmp_path / "out").iterdir()) == []


def test_some_crops_of_each_tracklet(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    result = san("embed", crops, "-m", model, "--per-track", 2, "-o", tmp_path / "a.npz")
    assert "Embedding 7 crops" in result.err
    found = np.load(tmp_path / "a.npz")
    # First and last of t1/1..5 and t10/1..3; t2 has one, and a loose crop is a tracklet.
    names = ["loose0", "loose1", "t1/1", "t1/5", "t10/1", "t10/3", "t2/1"]
    assert found["path"].tolist() == [f"{name}.png" for name in names]
    san("embed", crops, "-m", model, "-o", tmp_path / "all.npz")
    every = np.load(tmp_path / "all.npz")
    rows = [every["path"].tolist().index(path) for path in found["path"].tolist()]
    np.testing.assert_allclose(found["embedding"], every["embedding"][rows], atol=1e-6)
    san("embed", crops, "-m", model, "--per-track", 1, "-o", tmp_path / "one.npz")
    assert "t1/3.png" in np.load(tmp_path / "one.npz")["path"].tolist()
    assert "--per-track" in san("embed", crops, "--per-track", 0, "-o", tmp_path / "b.npz", code=2).err


HEAVY = "numpy", "torch", "onnx", "onnxruntime", "PIL", "cv2", "scipy", "jinja2", "tqdm"


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--version"], ["embed", "--help"], ["embed", "--batch", "0"]]
)
def test_start_up_loads_nothing_heavy(arguments: list[str]) -> None:
    result = run(
        f"""
        import sys
        from san_deploy.cli import main
        try:
            main() if {bool(arguments)} else None
        finally:
            print("LOADED", [name for name in {HEAVY} if name in sys.modules])
        """,
        *arguments,
    )
    assert result.stdout.splitlines()[-1] == "LOADED []", result


def test_no_module_of_the_edge_imports_torch() -> None:
    result = run(
        """
        import importlib, pkgutil, sys
        import san_deploy
        found = [m.name for m in pkgutil.walk_packages(san_deploy.__path__, "san_deploy.")]
        assert "san_deploy.cli.embed" in found and "san_deploy.backends.onnxruntime" in found
        for name in found:
            if name != "san_deploy.__main__" and "torch" not in name.split(".")[-1]:
                importlib.import_module(name)
                assert "torch" not in sys.modules, name
        print(len(found))
        """,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 15


def test_as_a_module(crops: Path, model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "san_deploy", "embed", crops, "-o", tmp_path / "a.npz", "-m", model]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["embedding"].shape == (11, 8)
