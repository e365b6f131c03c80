"""What `models.Network` promises, of every architecture that is registered, and two steps of its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from san_train.checkpoint import load_checkpoint  # noqa: E402
from san_train.data import gather  # noqa: E402
from san_train.evaluate import embed  # noqa: E402
from san_train.masks import draw_masks  # noqa: E402
from san_train.models import ARCHITECTURES, MASK_KINDS, backbone_of, build_model  # noqa: E402
from san_train.models.resnet import ResNet  # noqa: E402
from san_train.recipe import resolve  # noqa: E402
from san_train.run_state import MODEL  # noqa: E402
from san_train.trainer import Compute, Training  # noqa: E402

from san_deploy.datasets import read_dataset  # noqa: E402
from san_deploy.errors import UsageError  # noqa: E402

SIZE_HW = (64, 32)
#: What makes each architecture small; a new one without an entry is tested at its recipe's size.
SMALL = {
    "san": ["settings.width=0.125", "settings.hidden=0", "settings.embedding_dim=8"],
    "residual-attention": ["settings.width=0.125", "settings.hidden=0", "settings.embedding_dim=8"],
    "ha-cnn": ["settings.width=0.25", "settings.head_dim=8"],
    "rga-sc": ["settings.width=0.125"],
    "rga-s": ["settings.width=0.125"],
    "rga-c": ["settings.width=0.125"],
    "osnet": ["settings.head_dim=8"],
    "fmn": ["settings.width=0.125", "settings.hidden=8"],
}
STEPS = [
    "num_ids=3",
    "num_instances=2",
    "steps=2",
    "epochs=1",
    "warmup=0",
    f"settings.size_hw={list(SIZE_HW)}",
]


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SIZE_HW, 3), dtype=np.uint8)


@pytest.mark.numeric
@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_the_protocol_and_two_steps(arch: str, crop_folder: Path, tmp_path: Path, crops: np.ndarray) -> None:
    recipe = resolve("scratch", [*STEPS, *SMALL.get(arch, [])], arch=arch)
    data = gather([read_dataset(crop_folder)], validation_people=0, seed=0)
    training = Training(recipe, data, tmp_path, Compute(torch.device("cpu")), say=lambda line: None)
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    training.run()
    after = list(training.model.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True) if b.requires_grad]
    assert all(moved), "a weight that no loss reaches"

    network, info = load_checkpoint(tmp_path / MODEL)
    assert (info.arch, network.settings.size_hw) == (arch, SIZE_HW)
    assert network.mask_kind in MASK_KINDS and (network.mask_kind != "sharp" or ARCHITECTURES[arch].sharp)
    rows = embed(network, crops)
    assert rows.shape == (3, network.settings.embedding_dim)
    np.testing.assert_array_equal(rows, embed(network, crops))
    # Crops do not see each other, up to how a batch is summed: with smooth masks, since sums may flip sharp ones.
    mask = "expected" if network.mask_kind == "sharp" else None
    np.testing.assert_allclose(
        embed(network, crops, mask=mask)[1:2], embed(network, crops[1:2], mask=mask), atol=1e-5
    )
    outputs = network.train().train_outputs(torch.randn(4, 3, *SIZE_HW))
    assert tuple(head.identity.shape[1] for head in outputs.heads) == network.head_dims
    assert all(len(head.metric) == 4 for head in outputs.heads)
    assert all(a.ndim == 4 for a in outputs.attended) and all(
        0 <= p.min() <= p.max() <= 1 for p in outputs.pi
    )
    if network.mask_kind != "sharp":
        assert not outputs.pi
    for blocks in draw_masks(
        tmp_path / MODEL, crops, mask="argmax" if network.mask_kind == "sharp" else "soft"
    ):
        assert all(0 <= block.soft.min() <= block.soft.max() <= 1 for block in blocks)


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_pretrained_weights_only_where_there_is_a_backbone(
    arch: str, crop_folder: Path, tmp_path: Path
) -> None:
    recipe = resolve("scratch", [*STEPS, *SMALL.get(arch, [])], arch=arch)
    data = gather([read_dataset(crop_folder)], validation_people=0, seed=0)
    model = build_model(arch, recipe.settings)
    backbone = backbone_of(model)
    asked = []

    def weights(depth: int) -> dict[str, torch.Tensor]:
        asked.append(depth)
        return ResNet(depth, width=recipe.settings["width"]).state_dict() if backbone else {}

    def training() -> Training:
        return Training(recipe, data, tmp_path, Compute(torch.device("cpu")), pretrained=weights, say=print)

    if backbone is None:
        with pytest.raises(UsageError, match=f"{arch} takes no pretrained weights"):
            training()
        assert not asked
    else:
        torch.manual_seed(7)
        trained = backbone_of(training().model)
        assert trained is not None and asked == [backbone.depth]
        assert not torch.equal(trained.conv1.weight, backbone.conv1.weight)
