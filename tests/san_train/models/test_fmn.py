"""The FMN-style network: its cost against figures of ResNet-50's stages, and each of its choices."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from san_train.losses import batch_hard_triplet  # noqa: E402
from san_train.models.fmn import FeatureMaskNetwork, FmnSettings  # noqa: E402
from san_train.models.resnet import ResNet  # noqa: E402
from san_train.pretrained import load_backbone  # noqa: E402

SIZE_HW = (64, 32)
#: ResNet-50: learned tensors of the stem and of each stage.
STEM, STAGES = 9_536, (215_808, 1_219_584, 7_098_368, 14_964_736)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def network(**settings: object) -> FeatureMaskNetwork:
    torch.manual_seed(0)
    values = {"depth": 18, "width": 0.125, "size_hw": SIZE_HW, "hidden": 8}
    return FeatureMaskNetwork(FmnSettings(**(values | settings)))  # type: ignore[arg-type]


def seeing(model: FeatureMaskNetwork) -> FeatureMaskNetwork:
    """A mask that differs from place to place, as it does not at first."""
    torch.nn.init.normal_(model.mask_head.conv2.weight, 0.0, 1.0)
    return model


def test_parameters() -> None:
    with torch.device("meta"):
        full, shared = (FeatureMaskNetwork(FmnSettings(shared=shared)) for shared in (False, True))
    assert parameters(full.mask_head) == 2048 * 256 + 2 * 256 + 257 == 525_057
    both = parameters(full.backbone) + parameters(full.masked)
    assert both == STEM + STAGES[0] + 2 * sum(STAGES[1:]) == 46_790_720
    assert parameters(full) == both + 525_057 + 2 * 2 * 2048
    assert parameters(shared.backbone) + parameters(shared.mask_head) == 24_033_089
    assert parameters(shared) == 24_033_089 + 2 * 2 * 2048


@pytest.mark.parametrize(("last_stride", "paths", "mask"), [(2, 4.825, 0.017), (1, 7.593, 0.067)])
@pytest.mark.parametrize("shared", [False, True])
def test_multiply_adds(last_stride: int, paths: float, mask: float, shared: bool) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    # Counted without computing.
    with torch.device("meta"):
        model = FeatureMaskNetwork(FmnSettings(last_stride=last_stride, shared=shared)).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 256, 128))
    giga = {name: sum(of.values()) / 2e9 for name, of in counter.get_flop_counts().items()}
    assert giga["FeatureMaskNetwork.mask_head"] == pytest.approx(mask, abs=0.0005)
    assert giga["FeatureMaskNetwork"] - giga["FeatureMaskNetwork.mask_head"] == pytest.approx(
        paths, abs=0.001
    )


@pytest.mark.parametrize("low", [1, 2, 3])
@pytest.mark.parametrize("high", [2, 3, 4])
@pytest.mark.parametrize("per_channel", [False, True])
def test_any_pair_of_stages(low: int, high: int, per_channel: bool) -> None:
    if high <= low:
        with pytest.raises(ValueError, match="low is a stage"):
            network(low=low, high=high)
        return
    # A size that no stage divides.
    model = seeing(network(low=low, high=high, per_channel=per_channel)).eval()
    x = torch.randn(2, 3, 90, 50)
    with torch.no_grad():
        (shown,) = model.soft_masks(x)
        assert model(x).shape == (2, model.settings.embedding_dim) == (2, 128)
    channels = model.backbone.channels[low - 1]
    assert shown.stage == low and shown.features.shape[1] == channels
    assert shown.mask.shape == (2, channels if per_channel else 1, *shown.features.shape[2:])
    assert 0 <= shown.mask.min() < shown.mask.max() <= 1


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("depth", [18, 50])
def test_the_two_paths_written_out(residual: bool, shared: bool, depth: int) -> None:
    model = seeing(network(depth=depth, residual=residual, shared=shared, neck=False)).eval().double()
    net, head = model.backbone, model.mask_head
    if not shared:
        torch.nn.init.normal_(model.masked["layer3"][0].conv1.weight, 0.0, 0.1)
    later = net if shared else model.masked
    x = torch.randn(2, 3, *SIZE_HW, dtype=torch.float64)
    with torch.no_grad():
        low = net.layer1(net.stem(x))
        high = net.layer4(net.layer3(net.layer2(low)))
        logits = head.conv2(head.bn1(head.conv1(high)).relu())
        mask = torch.sigmoid(torch.nn.Upsample(size=(16, 8), mode="bilinear")(logits))
        masked = low * (1 + mask) if residual else low * mask
        for stage in (2, 3, 4):
            masked = getattr(later, f"layer{stage}")(masked) if shared else later[f"layer{stage}"](masked)
        expected = torch.cat([high.flatten(2).mean(2), masked.flatten(2).mean(2)], 1)
        torch.testing.assert_close(model(x), expected)
        (attended,) = model.train_outputs(x).attended
        torch.testing.assert_close(attended, low * mask)


def test_heads() -> None:
    """Two heads split the embedding that one head has whole."""
    two, one = network(heads=2).train(), network(heads=1).train()
    x = torch.randn(4, 3, *SIZE_HW)
    (whole,), parts = one.train_outputs(x).heads, two.train_outputs(x).heads
    assert two.head_dims == (64, 64) and one.head_dims == (128,)
    assert two.settings.embedding_dim == one.settings.embedding_dim == 128
    torch.testing.assert_close(whole.metric, torch.cat([head.metric for head in parts], 1))
    torch.testing.assert_close(whole.identity, torch.cat([head.identity for head in parts], 1))
    # Behind the neck each dimension has its own scale.
    np.testing.assert_allclose(whole.identity.std(0, correction=0).median().item(), 1.0, atol=0.05)
    bare = network(neck=False).train().train_outputs(x).heads
    assert all(head.metric is head.identity for head in bare)


@pytest.mark.parametrize(("bias", "start"), [(0.0, 0.5), (2.0, 0.8808)])
def test_a_mask_starts_the_same_everywhere(bias: float, start: float) -> None:
    model = network(mask_bias=bias).eval()
    with torch.no_grad():
        (shown,) = model.soft_masks(torch.randn(2, 3, *SIZE_HW))
    torch.testing.assert_close(shown.mask, torch.full_like(shown.mask, start), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_two_steps_reach_every_weight(shared: bool, heads: int) -> None:
    model = network(shared=shared, heads=heads).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    label = torch.arange(8) // 2
    x = torch.randn(8, 3, *SIZE_HW)
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum(
            batch_hard_triplet(head.metric, label, margin=5.0) + (head.identity - 1).square().mean()
            for head in model.train_outputs(x).heads
        )
        loss.backward()
        optimizer.step()
    assert not [
        name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])
    ]


def test_pretrained_weights_reach_the_masked_path() -> None:
    model = network()
    source = ResNet(18, width=0.125)
    load_backbone(model.backbone, source.state_dict())
    for stage in (2, 3, 4):
        for theirs, ours in zip(
            source.stage(stage).state_dict().values(),
            model.masked[f"layer{stage}"].state_dict().values(),
            strict=True,
        ):
            assert torch.equal(theirs, ours)


def test_a_whole_state_keeps_paths_apart() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.masked.parameters():
            parameter.add_(1.0)
    state = copy.deepcopy(model.state_dict())
    other = network()
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.state_dict().values(), strict=True))
    twin = copy.deepcopy(model)
    load_backbone(twin.backbone, ResNet(18, width=0.125).state_dict())
    # A copy's hook fills the copy.
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 19},
        {"width": 0},
        {"size_hw": (8, 8)},
        {"size_hw": (64.0, 32)},
        {"low": 4},
        {"low": 2, "high": 2},
        {"per_channel": 1},
        {"shared": "yes"},
        {"hidden": 0},
        {"mask_bias": 11.0},
        {"heads": 3},
        {"last_stride": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        FmnSettings(**wrong)
