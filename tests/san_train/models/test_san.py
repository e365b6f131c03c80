"""The network against the paper's figures (san.md, check figures) and torchvision's parameter names."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from san_train.models import SanSettings, SharpAttentionNetwork, build_model  # noqa: E402
from san_train.models.resnet import ResNet  # noqa: E402

TINY = SanSettings(depth=18, width=0.125, size_hw=(64, 32), hidden=16, embedding_dim=8, neck=True)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def full() -> SharpAttentionNetwork:
    return SharpAttentionNetwork(SanSettings()).eval()


@pytest.fixture(scope="module")
def baseline() -> SharpAttentionNetwork:
    return SharpAttentionNetwork(SanSettings(attention=(), context=())).eval()


def test_context_units_have_table_iv_weights(full: SharpAttentionNetwork) -> None:
    counts = [
        sum(
            p.numel() for name, p in full.attention[f"stage{stage}"].context.named_parameters() if p.ndim == 4
        )
        for stage in (1, 2, 3)
    ]
    assert counts == [507_904, 2_031_616, 8_126_464]
    assert sum(counts) == 10_665_984


def test_parameters_of_the_whole_network(
    full: SharpAttentionNetwork, baseline: SharpAttentionNetwork
) -> None:
    assert parameters(full) == 36_423_360
    assert parameters(baseline) == 25_739_456


def test_flops(full: SharpAttentionNetwork, baseline: SharpAttentionNetwork) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for model, expected in ((full, 7.21), (baseline, 5.34)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 256, 128))
        assert counter.get_total_flops() / 1e9 == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("depth", "count"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032)])
def test_backbones_have_torchvisions_parameters(depth: int, count: int) -> None:
    backbone = ResNet(depth)
    assert parameters(backbone) == count
    names = set(backbone.state_dict())
    last = {18: "layer4.1.bn2.weight", 34: "layer4.2.bn2.weight", 50: "layer4.2.bn3.weight"}[depth]
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", last} <= names
    # 18 and 34 have no shortcut convolution in their first stage.
    assert ("layer1.0.downsample.0.weight" in names) == (depth == 50)


@pytest.mark.parametrize("upsample", ["deconv", "bilinear"])
@pytest.mark.parametrize("size_hw", [(64, 32), (72, 40), (128, 64)])
def test_context_unit_keeps_the_size(upsample: str, size_hw: tuple[int, int]) -> None:
    settings = SanSettings(**{**TINY.as_dict(), "upsample": upsample, "size_hw": size_hw})
    with torch.no_grad():
        assert SharpAttentionNetwork(settings).eval()(torch.zeros(2, 3, *size_hw)).shape == (2, 8)


def test_both_upsamplings_have_the_same_parameters() -> None:
    shapes = [
        {
            name: tuple(value.shape)
            for name, value in SharpAttentionNetwork(SanSettings(**{**TINY.as_dict(), "upsample": upsample}))
            .state_dict()
            .items()
        }
        for upsample in ("deconv", "bilinear")
    ]
    assert shapes[0] == shapes[1]


def test_deconvolution_writes_one_place_in_four() -> None:
    context = SharpAttentionNetwork(TINY).eval().attention["stage1"].context
    with torch.no_grad():
        up = context(torch.randn(1, 8, 16, 8))
        low = context.unit(torch.randn(1, 8, 16, 8))
    assert up.shape == (1, 8, 16, 8) and low.shape[2:] == (8, 4)
    outside = up.clone()
    outside[:, :, ::2, ::2] = 0
    assert outside.abs().max() == 0 and up[:, :, ::2, ::2].abs().max() > 0


@pytest.mark.parametrize("attention", [(), (1,), (2, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("gate", ["sharp", "soft"])
def test_any_subset_of_stages(attention: tuple[int, ...], gate: str) -> None:
    settings = SanSettings(
        **{
            **TINY.as_dict(),
            "attention": attention,
            "context": tuple(set(attention) & {1, 2, 3}),
            "gate": gate,
        }
    )
    model = SharpAttentionNetwork(settings).train()
    out = model.train_outputs(torch.randn(4, 3, 64, 32))
    assert len(out.attended) == len(attention)
    assert len(out.pi) == (len(attention) if gate == "sharp" else 0)


def test_batch_invariance_to_the_bit() -> None:
    """Masks see their own sample alone. In FP64, so that the order of the convolutions' sums flips no bit."""
    torch.manual_seed(0)
    model = SharpAttentionNetwork(TINY)
    for _ in range(3):
        model.train()(torch.randn(8, 3, 64, 32))
    model.eval().double()
    x = torch.randn(6, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(row[None]) for row in x])
        mates = model(torch.cat([x[:1], 5 * x[1:]]))
    # The mask arithmetic is FP32 by design: what is left is FP32 rounding, not a dependence on others.
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[:1], mates[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 19},
        {"context": (4,)},
        {"attention": (1,), "context": (2,)},
        {"gate": "hard"},
        {"upsample": "nearest"},
        {"size_hw": (8, 8)},
        {"widht": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        build_model("san", {**TINY.as_dict(), **wrong})


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="architecture"):
        build_model("sun", {})


def test_instance_norms_take_a_cameras_colours_out_of_each_sample_by_itself() -> None:
    torch.manual_seed(0)
    with_norms = build_model("san", {**TINY.as_dict(), "instance": ["picture", "stem"], "hidden": 0}).eval()
    plain = build_model("san", {**TINY.as_dict(), "hidden": 0}).eval()
    x = torch.randn(3, 3, 64, 32)
    seen_otherwise = (
        x * torch.tensor([1.3, 0.8, 1.1])[:, None, None] + torch.tensor([0.4, -0.2, 0.1])[:, None, None]
    )

    def cosine(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return torch.nn.functional.cosine_similarity(model(x), model(seen_otherwise))

    assert cosine(with_norms).min() > 0.999 > cosine(plain).min()
    with torch.no_grad():
        assert torch.allclose(with_norms(x)[:1], with_norms(x[:1]), atol=1e-5)
    assert with_norms.map_channels == tuple(m.shape[1] for m in with_norms.train_outputs(x).maps)
    with pytest.raises(ValueError, match="instance"):
        build_model("san", {"instance": ["head"]})
