"""The masks on the page are those that the network draws."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from san_train.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from san_train.masks import draw_masks
from san_train.models import build_model

from san_deploy.backends import open_backend
from san_deploy.datasets import Options, evaluation_set, read_dataset
from san_deploy.errors import SanError
from san_deploy.evaluation import EvalConfig, evaluate_set
from san_deploy.evaluation.output import as_dict
from san_deploy.preprocess import MEAN_RGB, RESIZE, STD_RGB
from san_deploy.reports.evaluation_files import write_evaluation
from tests.san_deploy.evaluation.sets import crop_folder


def checkpoint(path: Path, **changes: object) -> Path:
    settings = {
        "depth": 18, "width": 0.125, "size_hw": (64, 32), "hidden": 0, "embedding_dim": 8,
        "attention": (1, 3), "context": (1,), **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    network = build_model("san", settings)
    save_checkpoint(path, network, CheckpointInfo("san", settings, RESIZE, 1))
    return path


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)


@pytest.mark.numeric
def test_masks_are_those_of_the_first_block(tmp_path: Path, crops: np.ndarray) -> None:
    path = checkpoint(tmp_path / "san.safetensors", context=())
    drawn = draw_masks(path, crops)
    assert [[block.stage for block in blocks] for blocks in drawn] == [[1, 3]] * 3
    network, _ = load_checkpoint(path)
    rgb = crops[..., ::-1].astype(np.float64) / 255
    x = torch.from_numpy(((rgb - MEAN_RGB) / STD_RGB).transpose(0, 3, 1, 2).astype(np.float32).copy())
    with torch.no_grad():
        trunk = network.backbone.stage(1)(network.backbone.stem(x)).numpy().astype(np.float64)
    low, high = trunk.min((2, 3), keepdims=True), trunk.max((2, 3), keepdims=True)
    soft = (trunk - low) / np.maximum(high - low, 1e-12)
    sharp = (trunk > (low + high) / 2).astype(float)
    for n, blocks in enumerate(drawn):
        block = blocks[0]
        assert block.sharp is not None and block.sharp_mean is not None
        np.testing.assert_allclose(block.soft_mean, soft[n].mean(0), atol=1e-4)
        # A bit is certain where pi_1 is further from 1/2 than the two ways of rounding are from each other.
        far = np.abs(soft[n] - 0.5) > 1e-4
        assert far.mean() > 0.99
        assert (np.abs(block.sharp_mean - sharp[n].mean(0)) <= (~far).mean(0) + 1e-6).all()
        np.testing.assert_allclose(block.soft, soft[n, block.channel], atol=1e-4)
        sure = far[block.channel]
        np.testing.assert_array_equal(block.sharp[sure], sharp[n, block.channel][sure])
        assert block.channel == (sharp[n] * trunk[n]).var((1, 2)).argmax()


def test_later_blocks_see_what_the_chosen_mask_lets_through(tmp_path: Path, crops: np.ndarray) -> None:
    path = checkpoint(tmp_path / "san.safetensors")
    argmax, expected = draw_masks(path, crops)[0], draw_masks(path, crops, mask="expected")[0]
    np.testing.assert_array_equal(argmax[0].soft_mean, expected[0].soft_mean)
    assert not np.array_equal(argmax[1].soft_mean, expected[1].soft_mean)


def test_soft_gates_and_no_attention(tmp_path: Path, crops: np.ndarray) -> None:
    soft = draw_masks(checkpoint(tmp_path / "soft.safetensors", gate="soft"), crops, mask="soft")
    assert soft[0][0].sharp is None and soft[0][0].sharp_mean is None
    assert 0.0 < soft[0][0].soft.min() <= soft[0][0].soft.max() < 1.0
    none = checkpoint(tmp_path / "none.safetensors", attention=(), context=())
    assert draw_masks(none, crops, mask="none") == [[], [], []]
    with pytest.raises(SanError, match="takes crops of"):
        draw_masks(none, crops[:, :32])


@pytest.mark.parametrize(
    ("changes", "soft", "sharp", "words"),
    [
        ({}, 2, 2, "Block 3"),
        ({"gate": "soft"}, 2, 0, "Block 3"),
        ({"attention": (), "context": ()}, 0, 0, "the network has no attention"),
    ],
)
def test_the_page_shows_them(
    tmp_path: Path, changes: dict[str, object], soft: int, sharp: int, words: str
) -> None:
    model = open_backend(checkpoint(tmp_path / "san.safetensors", **changes))
    chosen = evaluation_set(read_dataset(crop_folder(tmp_path / "crops")))
    result = evaluate_set(chosen, model, EvalConfig())
    told = as_dict(result, model, Options(), model=tmp_path / "san.safetensors", split=None, batch=32)
    shown = partial(draw_masks, tmp_path / "san.safetensors", mask=told["model"]["mask"])
    write_evaluation(tmp_path, result, told, Options(), lists=2, draw_masks=shown)
    text = (tmp_path / "eval.html").read_text()
    cards = text.count("<article")
    assert cards == 4 and words in text
    # One channel and the mean of all, of each block.
    assert text.count("<figcaption>soft") == 2 * soft * cards
    assert text.count("<figcaption>sharp") == 2 * sharp * cards
