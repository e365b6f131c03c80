"""HA-CNN against the figures of ../shared/models.md, section 1."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

torch = pytest.importorskip("torch")

from san_train.models import build_model  # noqa: E402
from san_train.models.ha_cnn import RECIPES, STREAM_HW, HaCnnSettings, HarmoniousAttentionNetwork  # noqa: E402
from san_train.models.ha_cnn_units import HarmoniousAttention, InceptionA, InceptionB, region_biases  # noqa: E402
from san_train.recipe import Recipe, resolve  # noqa: E402

TINY = HaCnnSettings(size_hw=(64, 32), width=0.125, head_dim=8)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def full() -> HarmoniousAttentionNetwork:
    torch.manual_seed(0)
    return HarmoniousAttentionNetwork(HaCnnSettings()).eval()


@pytest.fixture()
def tiny() -> HarmoniousAttentionNetwork:
    """Untrained, with the batch norm statistics of noise."""
    torch.manual_seed(0)
    network = HarmoniousAttentionNetwork(TINY).train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(8, 3, 64, 32))
    return network.eval()


def test_parameters(full: HarmoniousAttentionNetwork) -> None:
    assert parameters(full) == 2_929_112
    convolutions = [m for m in full.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in full.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    biases = sum(m.bias.numel() for m in convolutions if m.bias is not None)
    assert (len(convolutions), biases) == (73, 5_654)
    assert sum(parameters(m) for m in norms) == 13_356
    # With two classifiers for 751 people, as the 3.7 M that is quoted counts.
    assert parameters(full) + sum((d + 1) * 751 for d in full.head_dims) == 3_699_638
    assert parameters(HarmoniousAttentionNetwork(HaCnnSettings(local=False))) == 1_614_872


def test_parameters_of_each_part(full: HarmoniousAttentionNetwork) -> None:
    assert parameters(full.stem) == 960
    stages = [[parameters(unit) for unit in stage] for stage in full.stages]
    assert stages == [[32_416, 44_704], [144_704, 177_472], [349_152, 398_304]]
    assert [parameters(stream) for stream in full.streams] == [32_416, 144_704, 349_152]
    assert [parameters(block) for block in full.attention] == [20_272, 77_384, 171_360]
    assert [parameters(block.hard) for block in full.attention] == [1_032, 2_056, 3_080]
    assert (parameters(full.head_global), parameters(full.head_local)) == (198_144, 787_968)
    assert parameters(InceptionA(32, 128)) == 32_416 and parameters(InceptionB(128, 256)) == 144_704


def test_multiplications(full: HarmoniousAttentionNetwork) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, 3, 160, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        full(x)
    by_operator = {str(key): value / 2e6 for key, value in counter.get_flop_counts()["Global"].items()}
    sampling = by_operator.pop("aten.bmm")
    assert sum(by_operator.values()) == pytest.approx(544, abs=0.5)
    # Rows first, then columns, for four regions of each level's source.
    levels = ((32, 80, 32, 24, 28), (128, 40, 16, 12, 14), (256, 20, 8, 6, 7))
    expected = sum(4 * c * (rows * h * w + rows * w * columns) for c, h, w, rows, columns in levels)
    assert sampling == expected / 1e6 == pytest.approx(17.3, abs=0.1)
    name = type(full).__name__
    counts = counter.get_flop_counts()

    def millions(part: str) -> float:
        found = counts[f"{name}.{part}"]
        return sum(value for key, value in found.items() if "bmm" not in str(key)) / 2e6

    parts = ("stem", *(f"{kind}.{i}" for kind in ("stages", "attention", "streams") for i in range(3)))
    published = (2.2, 142.9, 153.4, 90.2, 10.5, 10.5, 5.9, 44.0, 50.9, 32.5)
    assert [millions(part) for part in parts] == pytest.approx(published, abs=0.06)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        HarmoniousAttentionNetwork(HaCnnSettings(local=False)).eval()(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(0.416, abs=0.0005)


def test_shapes(full: HarmoniousAttentionNetwork) -> None:
    shapes: dict[str, list[int]] = {}
    wanted = ("stem", "stages.0", "stages.1", "stages.2", "crops.0", "crops.1", "crops.2")
    wanted += ("streams.0", "streams.1", "streams.2", "head_global", "head_local")
    hooks = [
        full.get_submodule(name).register_forward_hook(
            lambda module, inputs, out, name=name: shapes.update({name: list(out.shape)})
        )
        for name in wanted
    ]
    with torch.no_grad():
        rows = full(torch.randn(2, 3, 160, 64))
    for hook in hooks:
        hook.remove()
    assert shapes["stem"] == [2, 32, 80, 32]
    assert [shapes[f"stages.{i}"] for i in range(3)] == [[2, 128, 40, 16], [2, 256, 20, 8], [2, 384, 10, 4]]
    assert [shapes[f"crops.{i}"] for i in range(3)] == [[8, 32, 24, 28], [8, 128, 12, 14], [8, 256, 6, 7]]
    assert [shapes[f"streams.{i}"] for i in range(3)] == [[8, 128, 12, 14], [8, 256, 6, 7], [8, 384, 3, 4]]
    assert shapes["head_global"] == shapes["head_local"] == [2, 512]
    assert STREAM_HW == ((24, 28), (12, 14), (6, 7))
    assert rows.shape == (2, 1024) and full.settings.embedding_dim == 1024
    torch.testing.assert_close(rows.norm(dim=1), torch.full((2,), math.sqrt(2)))


def test_the_mask_switches_nothing_off(full: HarmoniousAttentionNetwork) -> None:
    with torch.no_grad():
        masks = full.soft_masks(torch.randn(2, 3, 160, 64))
    assert [mask.stage for mask in masks] == [1, 2, 3]
    for mask in masks:
        assert mask.mask.shape == mask.features.shape
        assert mask.mask.min() == 0.5 < mask.mask.max() < 1.0
    # At the start, models.md: 0.500..0.558.
    assert max(float(mask.mask.max()) for mask in masks) < 0.6


def test_places_at_the_start() -> None:
    x = torch.rand(3, 32, 8, 4)
    places = HarmoniousAttention(32, regions="literature").eval()(x)[1]
    expected = torch.tensor([-0.6351, -0.2449, 0.2449, 0.6351])
    torch.testing.assert_close(places[:, :, 1], expected.expand(3, 4), atol=5e-5, rtol=0)
    assert (places[:, :, 0] == 0).all()
    # The first and the last row that each region samples on a map of 80 rows.
    ends = torch.tensor([[-1.0 + 1 / 80], [1.0 - 1 / 80]])
    rows = ((0.25 * ends + places[0, :, 1] + 1) * 80 - 1) / 2
    expected = torch.tensor([[4.2, 19.8, 39.4, 55.0], [24.0, 39.6, 59.2, 74.8]])
    torch.testing.assert_close(rows, expected, atol=0.1, rtol=0)
    tiling = HarmoniousAttention(32, regions="tiling").eval()(x)[1]
    torch.testing.assert_close(tiling[0, :, 1], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    assert region_biases("tiling")[[1, 3]].tolist() == pytest.approx([-0.9730, -0.2554], abs=5e-5)


def test_heads(full: HarmoniousAttentionNetwork) -> None:
    assert full.head_dims == (512, 512) and full.mask_kind == "soft" and full.mode.evaluate == "argmax"
    network = HarmoniousAttentionNetwork(TINY).train()
    out = network.train_outputs(torch.randn(6, 3, 64, 32))
    assert [tuple(head.metric.shape) for head in out.heads] == [(6, 8), (6, 8)]
    assert all(head.metric is head.identity for head in out.heads) and out.attended == out.pi == []
    sum((head.identity * torch.randn(6, 8)).sum() for head in out.heads).backward()
    # Everything learns, the places' layer from its zero weights on; a convolution's bias has nothing to do in
    # front of a batch norm.
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert not [name for name in silent if not name.endswith("conv.bias") and ".spatial." not in name]
    assert network.attention[0].hard.weight.grad.abs().max() > 1e-6
    alone = HarmoniousAttentionNetwork(HaCnnSettings(**{**TINY.as_dict(), "local": False}))
    assert alone.head_dims == (8,) and alone.settings.embedding_dim == 8
    assert len(alone.train_outputs(torch.randn(6, 3, 64, 32)).heads) == 1
    assert len(alone.soft_masks(torch.randn(6, 3, 64, 32))) == 3


def test_rows_without_any_positive_number_are_zero(tiny: HarmoniousAttentionNetwork) -> None:
    with torch.no_grad():
        norm = tiny.head_local[1]
        norm.weight.zero_()
        norm.bias.fill_(-1)
        rows = tiny(torch.randn(2, 3, 64, 32))
    assert (rows[:, 8:] == 0).all()
    torch.testing.assert_close(rows[:, :8].norm(dim=1), torch.ones(2))


def test_batch_invariance(tiny: HarmoniousAttentionNetwork) -> None:
    for block in tiny.attention:
        torch.nn.init.normal_(block.hard.weight, std=0.3)
    tiny.double()
    x = torch.randn(5, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        together, alone = tiny(x), torch.cat([tiny(row[None]) for row in x])
    torch.testing.assert_close(together, alone)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_autocast_keeps_places_in_fp32(tiny: HarmoniousAttentionNetwork) -> None:
    kinds = []
    for crop in tiny.crops:
        crop.register_forward_pre_hook(lambda module, inputs: kinds.append(inputs[1].dtype))
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rows = tiny(x)
    assert kinds == [torch.float32] * 3
    with torch.no_grad():
        assert torch.nn.functional.cosine_similarity(rows.float(), tiny(x)).min() > 0.98


@pytest.mark.parametrize("size_hw", [(32, 32), (67, 45), (128, 64), (72, 40)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_other_sizes(size_hw: tuple[int, int], align_corners: bool) -> None:
    settings = HaCnnSettings(
        **{**TINY.as_dict(), "size_hw": size_hw, "align_corners": align_corners, "regions": "tiling"}
    )
    network = HarmoniousAttentionNetwork(settings).eval()
    with torch.no_grad():
        rows = network(torch.randn(2, 3, *size_hw))
        assert rows.shape == (2, 16) and torch.isfinite(rows).all()
        with pytest.raises(ValueError, match="built for"):
            network(torch.randn(2, 3, size_hw[0] + 16, size_hw[1]))


def test_width() -> None:
    assert HaCnnSettings().channels == (32, 128, 256, 384)
    assert HaCnnSettings(width=0.5).channels == (16, 64, 128, 192)
    assert TINY.channels == (16, 16, 32, 48)


def test_weights_are_all_that_is_saved(full: HarmoniousAttentionNetwork) -> None:
    # 73 convolutions and 2 linear layers with a batch norm each, and 3 layers for places.
    assert len(full.state_dict()) == 75 * (2 + 5) + 3 * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_hw": (16, 64)},
        {"size_hw": (160, 64, 3)},
        {"size_hw": (160.0, 64)},
        {"width": 0},
        {"head_dim": 1},
        {"regions": "quarters"},
        {"local": 1},
        {"align_corners": "no"},
        {"widht": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        build_model("ha-cnn", {**TINY.as_dict(), **wrong})


def test_settings_go_through_json() -> None:
    settings = HaCnnSettings(**{**TINY.as_dict(), "size_hw": [64, 32]})
    assert settings == TINY and hash(settings) == hash(TINY)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes(name: str) -> None:
    recipe = resolve(name, arch="ha-cnn")
    assert recipe.arch == "ha-cnn" and recipe.tv_weight == 0
    known = {item.name for item in fields(Recipe)}
    assert {key.partition(".")[0] for key in RECIPES[name]} <= known
    if name == "paper":
        assert (recipe.num_ids * recipe.num_instances, recipe.epochs, recipe.lr) == (32, 150, 5e-4)
        assert recipe.triplet_weight == 0 and recipe.identity_weight == 1


def test_regions_go_through_batch_norm_apart_in_training(tiny: HarmoniousAttentionNetwork) -> None:
    """As the authors' code calls a stream's unit: once for each region, each with its own statistics."""
    torch.manual_seed(1)
    regions = (
        torch.randn(6 * 4, 16, 24, 28) * torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(6)[:, None, None, None]
    )
    stream = tiny.train().streams[0]
    before = {name: value.clone() for name, value in stream.state_dict().items()}
    with torch.no_grad():
        carried = tiny._carry(0, regions)
        after = {name: value.clone() for name, value in stream.state_dict().items()}
        stream.load_state_dict(before)
        apart = [stream(regions[place::4]) for place in range(4)]
    for place, expected in enumerate(apart):
        torch.testing.assert_close(carried[place::4], expected)
    # Running statistics move once for each region, and in evaluation nothing depends on the split.
    for name, value in stream.state_dict().items():
        torch.testing.assert_close(value, after[name])
    steps = next(value for name, value in after.items() if name.endswith("num_batches_tracked"))
    assert steps - next(v for n, v in before.items() if n.endswith("num_batches_tracked")) == 4
    with torch.no_grad():
        together = tiny.eval()._carry(0, regions)
        torch.testing.assert_close(together[1::4], tiny.streams[0](regions[1::4]), atol=1e-5, rtol=1e-5)
