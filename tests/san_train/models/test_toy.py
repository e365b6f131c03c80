"""A new architecture is one file and one line of registration: a toy one goes through every command."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from san_train.attention import MaskMode, SharpAttention  # noqa: E402
from san_train.checkpoint import load_checkpoint  # noqa: E402
from san_train.describe import resolve_mask  # noqa: E402
from san_train.evaluate import embed  # noqa: E402
from san_train.masks import draw_masks  # noqa: E402
from san_train.models import ARCHITECTURES, Architecture, Head, Outputs, SoftMask, build_model  # noqa: E402
from torch import nn  # noqa: E402

from san_deploy.backends import open_backend  # noqa: E402
from san_deploy.errors import UsageError  # noqa: E402
from tests.conftest import Result  # noqa: E402
from tests.san_train.conftest import write_crop_folder  # noqa: E402


@dataclass(frozen=True)
class ToySettings:
    size_hw: tuple[int, int] = (48, 24)
    parts: tuple[int, ...] = (6, 10)
    gate: str = "soft"

    def __post_init__(self) -> None:
        for name in ("size_hw", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.gate not in ("soft", "sharp", "none") or min(self.parts) < 2:
            raise ValueError(
                f"gate is soft, sharp or none, parts at least 2; received {self.gate}, {self.parts}"
            )

    @property
    def embedding_dim(self) -> int:
        return sum(self.parts)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class ToyNetwork(nn.Module):
    """Two convolutions, one gate, as many heads as parts; no ResNet in it."""

    def __init__(self, settings: ToySettings) -> None:
        super().__init__()
        self.settings, self.mode = settings, MaskMode()
        self.first = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.gate = nn.Conv2d(8, 1, 1)
        self.sharp = SharpAttention(self.mode)
        self.heads = nn.ModuleList([nn.Linear(8, dim) for dim in settings.parts])
        self.necks = nn.ModuleList([nn.BatchNorm1d(dim) for dim in settings.parts])

    @property
    def head_dims(self) -> tuple[int, ...]:
        return self.settings.parts

    @property
    def mask_kind(self) -> str:
        return self.settings.gate

    def train_outputs(self, x: torch.Tensor) -> Outputs:
        x = self.first(x).relu()
        attended, pi = [], []
        if self.settings.gate == "soft":
            x = x * torch.sigmoid(self.gate(x))
            attended.append(x)
        elif self.settings.gate == "sharp":
            x, a, p = self.sharp(x)
            attended.append(a)
            pi += [] if p is None else [p]
        rows = [head(x.mean((2, 3))) for head in self.heads]
        return Outputs(
            tuple(Head(row, neck(row)) for row, neck in zip(rows, self.necks, strict=True)), attended, pi
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([head.identity for head in self.train_outputs(x).heads], dim=1)


class ShownToy(ToyNetwork):
    """The same, with what a network may offer."""

    variant = "seen"

    def soft_masks(self, x: torch.Tensor) -> list[SoftMask]:
        x = self.first(x).relu()
        return [SoftMask(1, torch.sigmoid(self.gate(x)), x)]


RECIPES = {
    "scratch": {"num_ids": 3, "num_instances": 2, "steps": 2, "epochs": 1, "warmup": 0, "tv_weight": 0.01},
    "quick": {"settings.parts": [4], "lr": 1e-3},
}

San = Callable[..., Result]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    one_line = Architecture(ToySettings, ToyNetwork, RECIPES)
    monkeypatch.setitem(ARCHITECTURES, "toy", one_line)
    shown = Architecture(ToySettings, ShownToy, RECIPES, fixed={"gate": "soft"})
    monkeypatch.setitem(ARCHITECTURES, "toy-shown", shown)
    sharp = Architecture(ToySettings, ToyNetwork, RECIPES, fixed={"gate": "sharp"}, sharp=True)
    monkeypatch.setitem(ARCHITECTURES, "toy-sharp", sharp)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(
        tmp_path_factory.mktemp("toy") / "data", split=lambda person: "val" if person > 4 else "train"
    )


@pytest.mark.parametrize(
    ("arch", "named", "mask"),
    [("toy", "toy", "soft"), ("toy-shown", "toy-shown-seen", "soft"), ("toy-sharp", "toy-sharp", "argmax")],
)
def test_the_whole_road(san: San, data: Path, tmp_path: Path, arch: str, named: str, mask: str) -> None:
    run, checkpoint, model = tmp_path / "run", tmp_path / "run" / "model.safetensors", tmp_path / "toy.onnx"
    said = san("train", data, "-o", run, "--arch", arch)
    assert f"{arch}: 0.00 M parameters" in said.out and "2 batches of 3 x 2" in said.out
    log = json.loads((run / "metrics.jsonl").read_text())
    assert {"triplet", "identity", "tv", "rank1"} <= set(log)
    assert "Resumed after epoch 1" in san("train", data, "-o", run, "--resume").out

    network, info = load_checkpoint(checkpoint)
    assert (info.arch, info.epoch, network.settings.embedding_dim) == (arch, 1, 16)
    exported = san("export", checkpoint, "-o", model)
    assert f"exporting {named}, mask {mask}" in exported.err + exported.out
    assert onnx.load(model).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 16
    crops = np.random.default_rng(0).integers(0, 256, (3, 48, 24, 3), dtype=np.uint8)
    torch_rows, onnx_rows = open_backend(checkpoint)(crops), open_backend(model)(crops)
    np.testing.assert_allclose(torch_rows, onnx_rows, atol=1e-5)
    np.testing.assert_allclose(torch_rows, embed(network, crops), atol=1e-6)
    assert open_backend(model).artefact.arch == named

    evaluated = san("eval", data, "-m", checkpoint, "-o", tmp_path / "eval", "--split", "val")
    assert "rank-1" in evaluated.out
    page = (tmp_path / "eval" / "eval.html").read_text()
    assert ("the network shows none" in page) == (arch == "toy")
    masks = draw_masks(checkpoint, crops, mask=mask)
    blocks = {"toy": 0, "toy-shown": 1, "toy-sharp": 1}[arch]
    assert [len(of_crop) for of_crop in masks] == [blocks] * 3
    if blocks:
        assert masks[0][0].soft.shape == (24, 12) and (masks[0][0].sharp is None) == (mask == "soft")


def test_fp16_by_the_same_pass(san: San, data: Path, tmp_path: Path) -> None:
    san("train", data, "-o", tmp_path / "run", "--arch", "toy")
    told = san("export", tmp_path / "run" / "model.safetensors", "-o", tmp_path / "toy.onnx", "--fp16")
    half = open_backend(tmp_path / "toy.onnx").artefact
    assert half.precision == "fp16" and half.operands is not None and half.operands.fp16 == 1.0, told


def test_each_head_has_its_classifier_and_the_losses_are_means(data: Path, tmp_path: Path) -> None:
    from san_train.data import gather
    from san_train.learner import loss_terms
    from san_train.losses import batch_hard_triplet, identity_loss
    from san_train.recipe import resolve
    from san_train.trainer import Compute, Training

    from san_deploy.datasets import read_dataset

    recipe = resolve("scratch", ["logit_scale=8"], arch="toy")
    everybody = gather([read_dataset(data)], validation_people=0, seed=0)
    training = Training(recipe, everybody, tmp_path, Compute(torch.device("cpu")), say=lambda line: None)
    state = training.learner.state_dict()
    assert [tuple(state[f"classifier{i}.weight"].shape) for i in ("", 1)] == [(4, 6), (4, 10)]
    label = torch.tensor([0, 0, 1, 1])
    out = training.learner.model.train_outputs(torch.randn(4, 3, 48, 24))
    terms = loss_terms(training.learner, out, label, recipe, hard_masks=False)
    triplets = [batch_hard_triplet(head.metric, label, margin=0.3) for head in out.heads]
    torch.testing.assert_close(terms["triplet"], (triplets[0] + triplets[1]) / 2)
    identities = [
        identity_loss(
            8
            * nn.functional.cosine_similarity(
                head.identity[:, None], state[f"classifier{i}.weight"][None], dim=2
            ),
            label,
            smoothing=recipe.smoothing,
        )
        for head, i in zip(out.heads, ("", 1), strict=True)
    ]
    torch.testing.assert_close(terms["identity"], (identities[0] + identities[1]) / 2)
    for head in range(2):
        (gradient,) = torch.autograd.grad(terms["identity"], out.heads[head].identity, retain_graph=True)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "toi"], "architecture 'toi' is none of san"),
        (["--arch", "Toy-Shwon"], "did you mean toy-shown?"),
        (["--set", "arch=toi"], "did you mean toy?"),
        (["--arch", "toy", "--set", "arch=san"], "the architecture is toy and san"),
        (["--arch", "toy", "--recipe", "paper"], "recipe 'paper' is none of scratch, quick, which toy has"),
        (["--arch", "toy", "--set", "hard_mask_epochs=1"], "hard_mask_epochs does not fit toy"),
        (["--arch", "toy", "--set", "settings.depth=18"], "the settings of toy do not fit"),
        (["--arch", "toy", "--set", "settings.parts=[1]"], "parts at least 2"),
        (["--arch", "toy-shown", "--set", "settings.gate=none"], "gate is 'soft' by the architecture's name"),
        (
            ["--arch", "toy", "--recipe", "quick", "--pretrained", "imagenet"],
            "toy takes no pretrained weights",
        ),
    ],
)
def test_refusals(san: San, data: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in san("train", data, "-o", tmp_path / "run", *arguments, code=2).err
    assert not (tmp_path / "run").exists()


def test_an_architecture_by_set_and_a_recipe_of_its_own(san: San, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["--epochs", "1", "--set", "steps=1", "--set", "num_ids=2", "--set", "num_instances=2"]
    san(
        "train",
        data,
        "-o",
        run,
        "--set",
        "arch=toy",
        "--arch",
        "toy",
        "--recipe",
        "quick",
        *small,
        "--pretrained",
        "none",
    )
    told = json.loads((run / "config.json").read_text())["recipe"]
    assert (told["arch"], told["settings"], told["lr"]) == ("toy", {"parts": [4]}, 1e-3)
    san("train", data, "-o", run, "--resume", "--arch", "toy")
    again = san("train", data, "-o", run, "--resume", "--arch", "san", code=2)
    assert "--resume goes on with the run's own recipe" in again.err


def test_a_penalty_without_features_is_said_once(san: San, data: Path, tmp_path: Path) -> None:
    said = san("train", data, "-o", tmp_path / "run", "--arch", "toy", "--set", "settings.gate=none").out
    assert said.count("tv_weight has no effect") == 1


def test_masks_to_choose_are_the_networks() -> None:
    soft, none = build_model("toy", {}), build_model("toy", {"gate": "none"})
    assert (resolve_mask(soft, None), resolve_mask(none, None)) == ("soft", "none")
    with pytest.raises(UsageError, match="a soft gate"):
        resolve_mask(soft, "argmax")
    assert resolve_mask(build_model("toy-sharp", {"gate": "sharp"}), "ramp:0.5") == "ramp:0.5"


def test_no_other_file_knows_an_architecture_by_its_name() -> None:
    """A new one is a file in models/ and a row: nothing else compares with a name or branches on one."""
    root = Path(__file__).parents[3]
    files = [
        path
        for package in ("san_deploy", "train", "export")
        for path in sorted((root / package).rglob("*.py"))
        # What reads other programs' weights knows which network of ours they fit.
        if not {"models", "importing"} & set(path.parts)
    ]
    assert len(files) > 100
    named = set(ARCHITECTURES) - {"toy", "toy-shown", "toy-sharp", "san"}
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in named:
                found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Compare) and any(
                isinstance(part, ast.Attribute) and part.attr == "arch"
                for part in (node.left, *node.comparators)
            ):
                constants = [part for part in node.comparators if isinstance(part, ast.Constant)]
                found += [f"{path.name}:{node.lineno}" for _ in constants]
    assert found == []
