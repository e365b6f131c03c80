"""`san eval` as it is called: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Result
from tests.san_deploy.evaluation.sets import crop_folder, cuhk03, market, picture

San = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return crop_folder(tmp_path / "data")


def test_figures_and_folder(san: San, data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = san("eval", data, "-m", model, "--tracklets", "--tta", "flip", "-o", out)
    assert ["test", "30", "5", "2", "10", "0", "0"] in [line.split() for line in result.err.splitlines()]
    assert "every crop against all others" in result.err and "Running on onnxruntime" in result.err
    names = [line.split("  ")[0] for line in result.out.splitlines()[1:4]]
    assert names[0] == "crops" and names[1] == "tracklets"
    assert result.out.splitlines()[-1] == f"page      {out / 'eval.html'}"
    assert sorted(path.name for path in out.iterdir()) == ["cmc.svg", "eval.html", "eval.json"]
    told = json.loads((out / "eval.json").read_text())
    assert told["protocol"]["views"] == {"name": "flip", "count": 2}
    assert told["figures"]["tracklets"]["every"]["queries"] == 10

    again = san("eval", data, "-m", model, "-o", out, code=1)
    assert "exists" in again.err and "--force" in again.err
    san("eval", data, "-m", model, "-o", out, "--force", "--save-embeddings", "--lists", 0)
    assert (out / "embeddings.npz").is_file() and "<article" not in (out / "eval.html").read_text()
    (out / "mine.txt").write_text("x")
    assert "not ours" in san("eval", data, "-m", model, "-o", out, "--force", code=1).err


def test_json_is_all_that_is_printed(san: San, data: Path, model: Path) -> None:
    told = json.loads(san("eval", data, "-m", model, "--json", "--batch", 7).out)
    assert set(told) == {
        "schema_version", "model", "runtime", "versions", "data", "protocol", "figures", "notes", "seconds",
    }  # fmt: skip
    assert told["figures"]["crops"]["queries"] == 30 and len(told["figures"]["crops"]["cmc"]) == 50
    # Neither the batch nor the number of threads changes a figure.
    other = json.loads(san("eval", data, "-m", model, "--json", "--batch", 30, "--workers", 3).out)
    assert other["figures"] == told["figures"]


def test_every_layout(san: San, model: Path, tmp_path: Path) -> None:
    """Each is read, ranked and told by its protocol; the readers' own tests hold their details."""
    result = san("eval", market(tmp_path / "market"), "-m", model)
    assert "2 of 20 queries have no right answer" in result.out and "18 queries" in result.out
    result = san("eval", cuhk03(tmp_path / "cuhk03"), "-m", model, "--draws", 5, "--seed", 3)
    assert "single shot, expected" in result.out and "single shot, 5 draws" in result.out
    assert "5 draws made with seed 3" in result.out
    result = san("eval", tmp_path / "cuhk03", "-m", model, "--testset", 2, "--json")
    told = json.loads(result.out)
    assert told["figures"]["single_shot"]["expected"]["people"] == 2
    assert told["data"]["options"]["testset"] == 2
    rng = np.random.default_rng(0)
    for person in "abc":
        for number in range(3):
            picture(tmp_path / "plain" / person / f"{number}.png", ord(person), rng)
    result = san("eval", tmp_path / "plain", "-m", model, "--pattern", "{person}/{}", "--no-camera")
    assert "cameras are ignored" in result.out and "9 queries" in result.out
    result = san("eval", market(tmp_path / "more"), "-m", model, "--split", "all", "--rerank", "--k1", 5)
    assert "k-reciprocal, k1 5, k2 6" in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--k1", "5"], 2, "--k1 belongs to --rerank"),
        (["--lambda", "0.5"], 2, "--lambda belongs to --rerank"),
        (["--alpha", "1"], 2, "--alpha belongs to --query-expansion"),
        (["--rerank", "--k2", "99"], 2, "makes no sense"),
        (["--query-expansion", "--neighbours", "0"], 2, "makes no sense"),
        (["--rerank", "--query-expansion"], 2, "Every query stands in the gallery"),
        (["--rerank", "--single-shot"], 2, "does not go with --rerank"),
        (["--draws", "5"], 2, "--draws is not for crop folder"),
        (["--seed", "5", "--draws", "0"], 2, "--seed"),
        (["--seed", "5"], 2, "--seed is not for crop folder"),
        (["--lists", "3"], 2, "--lists needs a folder"),
        (["--tta", "ten"], 2, "none, flip, ten-crop"),
        (["--save-embeddings"], 2, "-o FOLDER"),
        (["--checkpoint", "a.safetensors"], 2, "both name the model"),
        (["--mask", "expected"], 2, "Its mask is part of the file"),
        (["--split", "nobody"], 1, "has no split nobody"),
        (["--boxes", "detected"], 2, "--boxes"),
        (["--layout", "market"], 2, "market1501"),
        (["--pattern", "{person}_{}.png"], 2, "--no-camera"),
    ],
)
def test_options_that_do_not_fit(
    san: San, data: Path, model: Path, arguments: list[str], code: int, words: str
) -> None:
    result = san("eval", data, "-m", model, *arguments, code=code)
    # Before the network was opened.
    assert "Running on" not in result.err
    assert words in result.err and result.out == "" and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-m", "nowhere.onnx"], 1, "nowhere.onnx does not exist"),
        (["--device", "foo"], 2, "--device foo"),
        (["--backend", "foo"], 2, "--backend foo"),
        (["--mask", "expected"], 2, "Its mask is part of the file"),
        (["--rerank", "--k1", "0"], 2, "makes no sense"),
        (["--query-expansion", "--alpha", "1e308"], 2, "an alpha from 0 to 100"),
    ],
)
def test_the_command_line_and_the_model_come_before_the_data(
    san: San, data: Path, arguments: list[str], code: int, words: str
) -> None:
    result = san("eval", data, *arguments, code=code)
    assert words in result.err and len(result.err.splitlines()) == 1


def test_draws_of_what_is_re_ranked_are_refused(san: San, model: Path, tmp_path: Path) -> None:
    root = cuhk03(tmp_path / "cuhk03")
    result = san("eval", root, "-m", model, "--rerank", "--seed", 3, code=2)
    assert "--seed is not for" in result.err and "without --rerank" in result.err


def test_the_rank_device_is_refused_in_one_line(san: San, data: Path, model: Path) -> None:
    (line,) = san("eval", data, "-m", model, "--rank-device", "cuda", code=2).err.splitlines()
    assert line.startswith("Error: --rank-device is not there any more") and "CPU" in line


def test_a_checkpoint_by_its_option_alone(san: San, data: Path, model: Path, tmp_path: Path) -> None:
    assert "is no checkpoint" in san("eval", data, "--checkpoint", model, code=2).err
    assert "does not exist" in san("eval", data, "--checkpoint", tmp_path / "no.safetensors", code=1).err


def test_unreadable_crops_are_told(san: San, data: Path, model: Path, tmp_path: Path) -> None:
    lost = Path(os.fsdecode(os.fsencode(data / "cam1" / "t008") + b"/\xff.png"))
    try:
        lost.write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    result = san("eval", data, "-m", model, "-o", tmp_path / "out")
    assert "could not be read and were left out: 1," in result.out and "udcff" in result.out
    told = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert len(told["data"]["unreadable"]) == 1 and "could not be read" in told["notes"][0]
    assert "--strict" in san("eval", data, "-m", model, "--strict", code=1).err


def test_sets_that_give_no_figure(san: San, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = crop_folder(tmp_path / "one", cameras=1)
    assert "of one camera (cam1)" in san("eval", one, "-m", model, "-o", out, code=1).err
    alone = crop_folder(tmp_path / "alone", people=1)
    assert "one person alone" in san("eval", alone, "-m", model, code=1).err
    apart = market(tmp_path / "apart")
    for path in (apart / "bounding_box_test").iterdir():
        if not path.name.startswith(("0000", "-1")):
            path.rename(path.with_name(path.name.replace("000", "005", 1)))
    (apart / "query" / "0800_c1s1_000001_00.png").unlink()
    assert "in the gallery" in san("eval", apart, "-m", model, code=1).err
    assert "does not exist" in san("eval", tmp_path / "nowhere", "-m", model, code=1).err
    assert not out.exists()


def test_a_model_that_fails_leaves_nothing(san: San, data: Path, tmp_path: Path, model: Path) -> None:
    from tests.tiny_models import tiny_model

    broken = tiny_model(tmp_path / "broken.onnx", scale=float("nan"))
    san("eval", data, "-m", broken, "-o", tmp_path / "out", code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.onnx", "data", "tiny.onnx"]


def test_no_pytorch_for_an_exported_model(data: Path, model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'scipy', 'matplotlib', 'cv2')));"
        f"sys.argv = ['san', 'eval', {str(data)!r}, '-m', {str(model)!r}, '-o', {str(tmp_path / 'out')!r},"
        "'--tracklets', '--rerank', '--tta', 'ten-crop'];"
        "from san_deploy.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "eval.html").is_file()


def test_pytorch_missing_is_one_line(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None;"
        f"sys.argv = ['san', 'eval', {str(data)!r}, '--checkpoint', {str(tmp_path / 'san.safetensors')!r}];"
        "from san_deploy.cli import main; main()"
    )
    (tmp_path / "san.safetensors").write_bytes(b"x")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: torch is not installed. ") and "pip install '.[train]'" in last


def test_cameras_means_and_a_threshold(san: San, data: Path, model: Path) -> None:
    plain, centred = (san("eval", data, "-m", model, *extra).out for extra in ((), ("--center",)))
    for text, option in ((plain, ""), (centred, " --center")):
        line = next(line for line in text.splitlines() if line.startswith("threshold "))
        assert f"san threshold {data}{option} --labels FILE" in line
        assert 0.0 <= float(line.split()[3].rstrip("%")) <= 10.0
    told = [json.loads(san("eval", data, "-m", model, "--json", *extra).out) for extra in ((), ("--center",))]
    assert told[0]["figures"] != told[1]["figures"]
    assert "threshold" not in san("eval", data, "-m", model, "--rerank").out
