"""`san bench`, from the command line. Speeds are not judged here: see tests/san_deploy/test_bench.py."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.tiny_models import tiny_model

San = Callable[..., Result]

QUICK = ("--batch", "1,3", "--seconds", "0.1", "--warmup", "0", "--workers", "1")


def test_a_folder_of_crops(san: San, crops: Path, model: Path) -> None:
    result = san("bench", crops, "-m", model, *QUICK, "--crops", 6)
    for part in (
        "tiny.onnx: tiny, 32 x 16, mask none, FP32",
        "onnxruntime (CPU, ",
        "6 crops of crops",
        "the engine alone",
        "files to embeddings: batch 3, 1 threads decode, ",
        "FP32 asked for; 100% FP32 of the 2 operands of convolutions and products, counted again here",
        "none was calibrated",
        "MB at its peak",
        f"san bench {crops} -m {model} --batch 1,3",
    ):
        assert part in result.out, part
    lines = result.out.splitlines()
    (head,) = [line for line in lines if " p50 " in line]
    at = lines.index(head)
    assert head.split()[:6] == ["batch", "calls", "p50", "p90", "p95", "p99"] and "speed" not in head
    rows = [line.split() for line in lines[at + 1 : at + 3]]
    assert [row[0] for row in rows] == ["1", "3"]
    # All columns end where their titles end.
    assert {len(line) for line in lines[at : at + 3]} == {len(head)}
    # On stderr what is being done, and nothing else.
    assert [line[:8] for line in result.err.splitlines()] == ["batch 1:", "batch 3:", "batch 3:"]


def test_without_a_folder_the_sample_crops_are_taken_and_it_says_so(san: San, model: Path) -> None:
    result = san("bench", "-m", model, *QUICK, "--crops", 2)
    assert "sample crops" in result.err
    assert "2 sample crops" in result.out
    assert "--seed is not there any more" in san("bench", "-m", model, *QUICK, "--seed", 5, code=2).err


def test_json_says_all_that_it_takes_to_repeat_it(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other.onnx", seed=1)
    arguments = ("bench", crops, "-m", model, "--compare", other, *QUICK, "--rounds", 2, "--json")
    told = json.loads(san(*arguments).out)
    assert told["command"] == shlex.join(["san", *map(str, arguments)])
    assert (
        told["setting"] | {"batch_sizes": [1, 3], "rounds": 2, "seconds": 0.1, "warmup_s": 0.0}
        == told["setting"]
    )
    assert told["setting"]["tolerance"] > 0 and told["setting"]["window_s"] > 0
    assert told["crops"] == {"source": "crops of crops", "count": 11, "unreadable": 0}
    assert {"onnxruntime", "numpy", "san-deploy"} <= told["versions"].keys()
    assert {"processor", "cores", "load_average", "governor", "system", "python"} <= told["machine"].keys()
    first, second = told["models"]
    assert (first["path"], second["path"]) == (str(model), str(other))
    assert first["bytes"] == model.stat().st_size and len(first["artefact"]["sha256"]) == 64
    for item in (*first["engine"], *second["engine"]):
        assert item["latency"]["calls"] >= 6 and len(item["windows_ms"]) == 2 and item["ended"] == "rounds"
        assert item["latency"]["min_ms"] <= item["latency"]["mean_ms"] <= item["latency"]["max_ms"]
        assert item["crops_per_second"] > 0 and item["split_ms"] is None
    assert first["engine"][0]["speed"] is None and second["engine"][0]["speed"]["rounds"] == 2
    assert second["folder"]["speed"]["low"] <= second["folder"]["speed"]["high"]
    assert first["folder"]["share"]["median"] > 0 and first["folder"]["decode_cpu_ms"] > 0
    assert told["peak_rss_mb"] > 10 and told["notes"]


def test_models_are_compared_by_name(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    others = [tiny_model(tmp_path / "b" / name, seed=1) for name in ("tiny.onnx", "other.onnx")]
    out = san("bench", crops, "-m", model, "--compare", others[1], *QUICK, "--rounds", 1).out
    lines = out.splitlines()
    (at,) = [i for i, line in enumerate(lines) if " p50 " in line]
    assert [line.split()[0] for line in lines[at : at + 5]] == ["model", *["tiny.onnx", "other.onnx"] * 2]
    assert lines[at + 1].endswith(" 1") and lines[at + 2].endswith(" x") and " to " in lines[at + 2]
    # Of the same name: whole paths.
    out = san("bench", crops, "-m", model, "--compare", others[0], *QUICK, "--rounds", 1).out
    assert f"  {others[0]} " in out and f"  {model} " in out


def test_unreadable_crops_are_counted(san: San, crops: Path, model: Path) -> None:
    (crops / "t2" / "1.png").write_bytes(b"no image")
    assert (
        "10 crops of crops; 1 could not be read"
        in san("bench", crops, "-m", model, *QUICK, "--rounds", 1).out
    )


def test_too_few_calls_for_p99_leave_it_out(san: San, crops: Path, model: Path) -> None:
    out = san("bench", crops, "-m", model, "--batch", 3, "--rounds", 1, "--seconds", 0.001, "--warmup", 0).out
    (head,) = [line for line in out.splitlines() if " p50 " in line]
    row = out.splitlines()[out.splitlines().index(head) + 1].split()
    assert (
        row[:2] == ["3", "3"]
        and row[2] != "-"
        and row[3:6] == ["-", "-", "-"]
        and row[-2:] == ["no", "(rounds)"]
    )
    assert "p90 takes 10" in out and "give more --seconds: batch 3 (3)" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "from 1 to 4096"),
        (["--batch", "1,x"], "no list of whole numbers"),
        (["--batch", ""], "no list of whole numbers"),
        (["--batch", "5000"], "from 1 to 4096"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--warmup", "-1"], "--warmup"),
        (["--warmup", "nan"], "--warmup"),
        (["--rounds", "0"], "--rounds"),
        (["--workers", "0"], "--workers"),
        (["--crops", "0"], "--crops"),
        (["--device", "gpu"], "--device gpu is unknown"),
        (["--backend", "tensorrt"], "--backend tensorrt takes .engine"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_usage(san: San, crops: Path, model: Path, options: list[str], message: str) -> None:
    assert message in san("bench", crops, "-m", model, *options, code=2).err


def test_the_same_model_twice(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    assert "named twice" in san("bench", crops, "-m", model, "--compare", link, code=2).err


def test_bad_input_is_one_line(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no image")
    for folder, message in (
        ("none", "does not exist"),
        ("empty", "holds no image"),
        ("bad", "none of the crops"),
    ):
        assert message in san("bench", tmp_path / folder, "-m", model, *QUICK, code=1).err
    assert "does not exist" in san("bench", crops, "-m", tmp_path / "none.onnx", *QUICK, code=1).err
    assert "does not exist" in san("bench", crops, "-m", model, "--compare", tmp_path / "b.onnx", code=1).err
    broken = tiny_model(tmp_path / "nan.onnx", scale=float("nan"))
    assert "not finite" in san("bench", crops, "-m", broken, *QUICK, code=1).err
    odd = tiny_model(tmp_path / "odd.onnx", told={"checks": {"a": float("nan")}})
    result = san("bench", crops, "-m", odd, *QUICK, code=1)
    # Before anything is measured.
    assert "odd.onnx is damaged. Field checks is nan" in result.err and "batch 1:" not in result.err
