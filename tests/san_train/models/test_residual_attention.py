"""The residual attention network's unit against table IV of arXiv 1805.02336, and its structure."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from san_train.losses import batch_hard_triplet  # noqa: E402
from san_train.models import SanSettings, SharpAttentionNetwork, build_model  # noqa: E402
from san_train.models.residual_attention import PreActivationUnit, ResidualAttentionUnit, unit_behind  # noqa: E402
from san_train.models.resnet import ResNet  # noqa: E402

SIZE_HW = (64, 32)


def learned(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def network(depth: int = 18, **settings: object) -> SharpAttentionNetwork:
    torch.manual_seed(0)
    values = {"width": 0.125, "size_hw": SIZE_HW, "hidden": 16, "embedding_dim": 8, "neck": True}
    values |= {"attention": (1, 2, 3), "unit": "residual-attention", "gate": "soft"}
    return SharpAttentionNetwork(SanSettings(depth=depth, **(values | settings)))  # type: ignore[arg-type]


def test_parameters_of_table_iv() -> None:
    with torch.device("meta"):
        backbone = ResNet(50)
        units = [unit_behind(backbone, stage) for stage in (1, 2, 3)]
    counts = [learned(unit) for unit in units]
    assert counts == [15_835_904, 15_080_960, 12_063_744]
    assert [round(count / 1e6, 2) for count in counts] == [15.84, 15.08, 12.06]
    assert round(sum(counts) / 1e6, 2) == 42.98
    weights = [sum(p.numel() for p in unit.parameters() if p.ndim == 4) for unit in units]
    # 11.5 C^2 on each level.
    assert weights == [
        sum(23 * c * c // 2 for c in channels) for channels in ((256, 512, 1024), (512, 1024), (1024,))
    ]
    # A bias for each channel of the units' own convolutions, instead of the shifts, counts the same.
    biases = [
        sum(
            conv.out_channels
            for part in unit.modules()
            if isinstance(part, PreActivationUnit)
            for conv in part.convs
        )
        for unit in units
    ]
    assert [w + b for w, b in zip(weights, biases, strict=True)] == counts


def test_parameters_of_the_whole_network() -> None:
    with torch.device("meta"):
        full = SharpAttentionNetwork(SanSettings(attention=(1, 2, 3), unit="residual-attention", gate="soft"))
        baseline = SharpAttentionNetwork(SanSettings(attention=(), context=()))
    assert learned(full) == learned(baseline) + 42_980_608 == 68_720_064


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("size_hw", [SIZE_HW, (72, 40), (90, 50)])
def test_any_size_and_any_backbone(depth: int, size_hw: tuple[int, int]) -> None:
    model = network(depth, size_hw=size_hw).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, *size_hw)).shape == (2, 8)


def test_the_unit_step_by_step() -> None:
    """Two levels, written out."""
    torch.manual_seed(1)
    unit = ResidualAttentionUnit((8, 16, 32), (4, 8)).eval()
    x = torch.randn(2, 8, 12, 10)

    def pool(value: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(value, (1, 1, 1, 1), value=float("-inf"))
        return padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))

    def up(value: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return torch.nn.Upsample(size=size, mode="bilinear")(value)

    with torch.no_grad():
        one = unit.down[0](pool(x))
        two = unit.down[1](pool(one))
        back = up(unit.up[1](two), (6, 5)) + one
        expected = up(unit.up[0](back), (12, 10))
        assert one.shape == (2, 16, 6, 5) and two.shape == (2, 32, 3, 3)
        torch.testing.assert_close(unit(x), expected)


def test_norms_learn_their_shift_alone() -> None:
    unit = unit_behind(ResNet(50, width=0.125), 3)
    norms = [part for part in unit.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert len(norms) == 6
    assert all(norm.bias.requires_grad and not norm.weight.requires_grad for norm in norms)


def test_a_soft_gate_scales_by_one_to_two() -> None:
    block = network().eval().attention["stage1"]
    trunk = torch.rand(2, 8, 16, 8) + 0.1
    with torch.no_grad():
        out, attended, pi = block(trunk)
        factor = out / trunk
        torch.testing.assert_close(attended, torch.sigmoid(block.context(trunk)) * trunk)
    assert pi is None and factor.min() >= 1 and factor.max() <= 2 and factor.std() > 0.1


@pytest.mark.parametrize("gate", ["soft", "sharp"])
def test_two_steps_reach_every_weight(gate: str) -> None:
    model = network(50, gate=gate).train()
    assert model.mask_kind == gate
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    label = torch.arange(8) // 2
    torch.manual_seed(2)
    x = torch.randn(8, 3, *SIZE_HW)
    for _ in range(2):
        optimizer.zero_grad()
        (head,) = model.train_outputs(x).heads
        loss = batch_hard_triplet(head.metric, label, margin=5.0) + head.identity.square().mean()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert not [
        name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])
    ]


def test_what_a_checkpoint_says() -> None:
    settings = {"depth": 18, "width": 0.125, "size_hw": [64, 32], "hidden": 0, "attention": [1, 2, 3]}
    assert isinstance(
        build_model("san", {**settings, "unit": "residual-attention"}).attention["stage3"].context,
        ResidualAttentionUnit,
    )
    # Checkpoints from before there was a choice.
    assert build_model("san", settings).settings.unit == "context"
    with pytest.raises(ValueError, match="unit is context or residual-attention"):
        build_model("san", {**settings, "unit": "attention"})
