"""Every command of the README and of the documents runs as it stands there, or is named here with the reason why not.

A page's shell blocks are typed in order in one folder, as a reader would; what one command writes the next one reads.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from san_train.checkpoint import load_checkpoint, save_checkpoint
from san_train.models.osnet import OmniScaleNetwork, OsNetSettings

from san_deploy.cli import san as group
from san_deploy.data.samples import read_samples
from san_deploy.preprocess import MEAN_RGB, STD_RGB
from tests.san_deploy.data.sample_folder import write_samples
from tests.san_deploy.video.made import WRITERS, boxes_of, write_video
from tests.san_export.importing.made import SIZE_HW, network, save

ROOT = Path(__file__).parents[1]
STARTER = ROOT / "san_deploy/data/starter.onnx"
CHECKPOINT = ROOT / "tools/starter/starter.safetensors"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/**/*.md"),
    ]
)

#: Why a command that begins like this is not run here.
GPU = "builds or runs an engine, which needs a GPU"
DATA = "needs a data set that everybody fetches for himself"
LONG = "takes about a minute or more"
INSTALLS = "installs, which tools/install_matrix.py and CI do"
NOT_RUN = {
    "make ": INSTALLS,
    "pip ": INSTALLS,
    "pre-commit install": INSTALLS,
    "python3 -m venv ": INSTALLS,
    ". .venv": INSTALLS,
    ".venv/bin/": INSTALLS,
    "sudo apt install ": INSTALLS,
    "python -m pytest": "is this very run",
    "docker ": "needs Docker; tests/test_package.py runs what the files say",
    "eval ": "is a line for a shell's own start-up file; tests/san_deploy/cli/test_shell.py completes a command",
    "san train ": LONG + "; tests/san_deploy/cli/test_train.py trains",
    "san bench crops/ -m first-int8-cpu.onnx ": LONG + "; tests/san_deploy/cli/test_bench.py measures",
    "san bench --compare starter-int8-cpu.onnx": LONG + "; tests/san_deploy/cli/test_bench.py measures",
    "torchrun ": LONG + "; tests/san_train/test_ranks.py trains in two processes",
    "DATA=": DATA,
    "san eval '$DATA' --checkpoint '$RUNS/": DATA,
    "san eval Market-1501-v15.09.15 ": DATA,
    "san eval cuhk03 ": DATA,
    "san eval crops/ -m model.engine ": GPU,
    "san export first-fp16.onnx": GPU,
    "san match cam1/ cam2/ -o matches -m first-fp16.engine": GPU,
    "san parity first.onnx first-fp16.engine ": GPU,
    "san info first-fp16.engine": GPU,
    "nvidia-smi": GPU,
    "san import person-reidentification-retail-0288.xml": "needs Intel's file; openvino_ir_cases.py imports another",
    **dict.fromkeys(
        [
            *("san crops lobby.mp4 --detections lobby.csv --start", "san crops gate.mp4"),
            *(
                "san match lobby/ gate/ -o people",
                "san gallery add lobby/ gate/ ",
                "san search gate/t0001 --gallery",
            ),
            *(
                "san export -o reid.onnx",
                "san export reid.onnx",
                "san parity reid.onnx",
                "san info reid-fp16.onnx",
            ),
        ],
        "tests/test_road.py types it in an environment of its own",
    ),
    "san import osnet_x0_25.pth -o osnet.onnx": LONG
    + "; tests/san_export/importing/test_weights.py imports it",
    "san info starter.onnx --run --endpoint": "asks a server; tests/san_export/serving/test_triton.py starts one",
}
#: Commands that say what something costs by missing a gate.
EXIT = {"san parity first.onnx first.onnx --crops crops/ --resize cv2-linear": 3}
#: Pages whose reader has an ONNX file of the network, under this name.
HAS = {"docs/parity.md": "first.onnx"}
#: Pages of commands whose reader comes from a page that says what to install.
ELSEWHERE = ("CHANGELOG.md", "docs/research/ablation.md")
#: What a reader of this page has typed on an earlier one.
BEFORE = {
    "docs/parity.md": [
        "san embed crops/ -m first.onnx -o deepstream.npz",
        "san export first.onnx --fp16",
        "san export first.onnx --int8 --calib crops/ --runtime tensorrt --no-engine",
    ],
}


def blocks(page: str) -> list[str]:
    """The shell blocks of a page."""
    found = re.findall(r"^( *)```sh\n(.*?)^\1```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [block for _, block in found]


def commands(page: str) -> list[str]:
    """The commands of its shell blocks, comments left out, continued lines joined."""
    found = []
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.append(shlex.join(words))
    return found


def why_not(command: str) -> str:
    """Why a command is not run; empty where it is."""
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), "")


def rows_of_the_owner(network_file: Path, folder: Path) -> np.ndarray:
    """What a program with torchreid's transforms gives for a folder of crops."""
    session = onnxruntime.InferenceSession(network_file.read_bytes(), providers=["CPUExecutionProvider"])
    rows = []
    for path in sorted(folder.rglob("*.jpg"), key=lambda path: path.relative_to(folder).as_posix()):
        crop = Image.open(path).convert("RGB").resize((SIZE_HW[1], SIZE_HW[0]), Image.Resampling.BILINEAR)
        planes = ((np.asarray(crop) / 255 - MEAN_RGB) / STD_RGB).transpose(2, 0, 1).astype(np.float32)
        rows.append(session.run(None, {"image": planes[None]})[0][0])
    return np.array(rows)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has before the first command: crops, videos with boxes, a trained network."""
    folder = tmp_path_factory.mktemp("reader")
    write_samples(folder / "crops", people=6, cameras=3)
    identities = folder / "crops/identities.csv"
    identities.write_text(
        re.sub(r",([1-3]),train$", r",\1,test", identities.read_text("utf-8"), flags=re.M), "utf-8"
    )
    for camera in ("cam1", "cam2", "cam3"):
        shutil.copytree(folder / "crops" / camera, folder / camera)
    for index, sample in enumerate(read_samples()):
        if index < 2:
            (folder / f"{'ab'[index]}.jpg").write_bytes(sample.jpeg)
    for video in ("lobby", "gate"):
        write_video(folder / f"{video}.mp4", boxes_of(20))
        WRITERS["csv"](folder / f"{video}.csv", boxes_of(20))
    save(network(seed=1), folder / "theirs.onnx")
    np.save(folder / "rows.npy", rows_of_the_owner(folder / "theirs.onnx", folder / "crops"))
    torch.manual_seed(0)
    torch.save(OmniScaleNetwork(OsNetSettings(width=0.25)).state_dict(), folder / "osnet_x0_25.pth")
    trained_network, info = load_checkpoint(CHECKPOINT)
    assert info.threshold is not None
    # A network trained today brings the threshold of the mask that is exported where nobody asks for another.
    info = dataclasses.replace(info, threshold=dataclasses.replace(info.threshold, mask="argmax"))
    trained = folder / "runs/first/model.safetensors"
    trained.parent.mkdir(parents=True)
    save_checkpoint(trained, trained_network, info)
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not why_not(line) for line in commands(page))]
)
def test_commands_run(
    page: str, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, san: Any
) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(ready, folder, symlinks=True)
    if page in HAS:
        shutil.copy(STARTER, folder / HAS[page])
        shutil.copy(f"{STARTER}.json", folder / f"{HAS[page]}.json")
        # Of this very checkpoint.
        shutil.copy(CHECKPOINT, folder / "runs/first/model.safetensors")
    monkeypatch.chdir(folder)
    for line in [*BEFORE.get(page, []), *commands(page)]:
        if why_not(line):
            continue
        words = shlex.split(line)
        assert words[0] == "san", f"{page}: no rule for: {line}"
        san(*words[1:], code=EXIT.get(line, 0))


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page: str) -> None:
    """Of the commands that are not run, too."""
    for line in commands(page):
        words = shlex.split(re.sub(r"^(\.venv/bin/|docker run .* (?=san-deploy\b))", "", line))
        if not re.fullmatch("san(-deploy(:.*)?)?", words[0]) or len(words) < 2:
            continue
        command = group.get_command(click.Context(group), words[1])
        assert command is not None, f"{page}: {line}"
        context = click.Context(command, info_name=words[1], resilient_parsing=True)
        command.make_parser(context).parse_args([word for word in words[2:] if word not in ("-h", "--help")])


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_a_page_says_what_to_install_before_its_first_command(page: str) -> None:
    """A reader who starts there, in an environment that has nothing, is not stopped by a missing extra."""
    found = commands(page)
    first = next((place for place, line in enumerate(found) if re.match(r"(\.venv/bin/)?san ", line)), None)
    if first is not None:
        assert any(re.match(r"(\.venv/bin/)?pip install '\.\[", line) for line in found[:first]), found[first]


def test_the_table_of_what_is_not_run_has_no_leftovers() -> None:
    every = [line for page in PAGES for line in commands(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in every)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_files_of_the_checkout_are_where_a_page_says(page: str) -> None:
    """`tests/...`, `tools/...` and the packages' files, in text and in commands; a name in capitals is the reader's."""
    text = (ROOT / page).read_text("utf-8")
    named = set(re.findall(r"(?<![\w./-])((?:tests|tools|train|export|san_deploy|docker)/[\w./-]*\w)", text))
    named = {name for name in named if not re.search(r"[A-Z]{3}", name)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Relative links name files that exist, and headings in them."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def anchors(page: Path) -> set[str]:
    """The anchors that headings get, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
