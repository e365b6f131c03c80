"""RGA against the published figures (models.md, section 2), and against a slow network written from its text."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from san_train.models import build_model  # noqa: E402
from san_train.models.resnet import ResNet  # noqa: E402
from san_train.models.rga import RelationAwareNetwork, RgaSettings, stage_sizes  # noqa: E402
from san_train.models.rga_block import RelationAttention, RelationBlock  # noqa: E402
from san_train.recipe import learning_rate, resolve  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

TINY = RgaSettings(depth=18, width=0.125, size_hw=(64, 32))


def on_meta(variant: str = "sc", *, literal: bool = False) -> RelationAwareNetwork:
    """The published size without its weights."""
    with torch.device("meta"):
        return RelationAwareNetwork(RgaSettings(variant), literal=literal)


def parameters(*modules: nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module is not None for p in module.parameters())


@pytest.mark.parametrize(
    ("variant", "count", "gmac_literal"),
    [("sc", 29_826_224, 9.824), ("s", 26_731_832 + 4096, 6.762), ("c", 26_598_328 + 4096, 7.116)],
)
def test_whole_networks(variant: str, count: int, gmac_literal: float) -> None:
    network = on_meta(variant)
    assert parameters(network) == count
    assert parameters(network.backbone) == 23_508_032
    assert [p.numel() for p in network.neck.parameters() if p.requires_grad] == [2048]
    assert network.settings.embedding_dim == network.head_dims[0] == 2048
    assert gmac(on_meta(variant, literal=True)) == pytest.approx(gmac_literal, abs=5e-4)


def test_work_of_the_rewritten_network() -> None:
    network = on_meta()
    assert gmac(network) == pytest.approx(5.051, abs=5e-4)
    assert gmac(network.backbone) == pytest.approx(4.053, abs=5e-4)


def gmac(network: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 256, 128, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("stage", "spatial", "channel", "mmac_literal", "mmac", "hidden"),
    [
        (1, 1_082_178, 1_590_994, 2772.6, 545.4, (32, 4)),
        (2, 164_898, 164_898, 201.9, 118.0, (8, 8)),
        (3, 398_154, 270_754, 346.6, 68.2, (2, 16)),
        (4, 1_578_570, 1_063_650, 2450.1, 266.5, (2, 32)),
    ],
)
def test_blocks(
    stage: int, spatial: int, channel: int, mmac_literal: float, mmac: float, hidden: tuple[int, int]
) -> None:
    blocks = [on_meta(literal=literal).attention[stage - 1] for literal in (False, True)]
    block = blocks[0]
    assert (parameters(block.spatial), parameters(block.channel)) == (spatial, channel)
    assert (block.spatial.weigh[0].out_channels, block.channel.weigh[0].out_channels) == hidden
    for measured, expected in zip(blocks, (mmac, mmac_literal), strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            measured.eval()(torch.zeros(1, block.channels, *block.size_hw, device="meta"))
        assert counter.get_total_flops() / 2e6 == pytest.approx(expected, abs=0.05)


def test_the_parts_of_an_sc_network_are_those_of_s_and_c() -> None:
    names = {variant: set(on_meta(variant).state_dict()) for variant in ("sc", "s", "c")}
    assert names["sc"] == names["s"] | names["c"]
    torchvision = set(ResNet(50).state_dict())
    assert {f"backbone.{name}" for name in torchvision} == {
        n for n in names["sc"] if n.startswith("backbone.")
    }


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, Tensor):
                self.elements = max(self.elements, item.numel())
        return result


@pytest.mark.parametrize("literal", [False, True])
def test_the_map_of_relations_is_made_by_the_literal_form_alone(literal: bool) -> None:
    # Stage 4: 128 places, 2048 channels.
    with torch.device("meta"):
        block = RelationBlock(2048, (16, 8), literal=literal)
        x = torch.zeros(1, 2048, 16, 8, requires_grad=True)
    with Largest() as largest:
        block(x).sum().backward()
    # The weights and their gradients are there in any case; both maps of a crop stand above each other.
    weights = max(p.numel() for p in block.parameters())
    assert largest.elements == (2 * 2048 * 2048 if literal else weights)


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """A batch norm over all axes but the second, by its formula."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
    parts = [part.reshape(shape) for part in (mean, var, norm.weight, norm.bias)]
    return (x - parts[0]) / torch.sqrt(parts[1] + 1e-5) * parts[2] + parts[3]


def oracle(half: RelationAttention, x: Tensor) -> Tensor:
    """Weights of nodes from `(N, features, P)`, node by node, with the layers as the publication has them."""
    d, places = half.embedded, half.nodes
    weight = half.embed[0].weight[:, :, 0, 0]
    embedded = torch.relu(normed(torch.einsum("df,nfp->ndp", weight, x), half.embed[1]))
    theta, phi, unary = embedded[:, :d], embedded[:, d : 2 * d], embedded[:, 2 * d :]
    relations = []
    for p in range(places):
        out_of_p = [(theta[:, :, p] * phi[:, :, other]).sum(1) for other in range(places)]
        into_p = [(theta[:, :, other] * phi[:, :, p]).sum(1) for other in range(places)]
        relations.append(torch.stack(out_of_p + into_p, 1))  # (N, 2 P)
    stacked = torch.stack(relations, 2)
    narrowing = torch.cat([half.outgoing, half.incoming]).T  # (S, 2 P)
    joined = torch.relu(normed(torch.einsum("sr,nrp->nsp", narrowing, stacked), half.norm))
    described = torch.cat([unary.sum(1, keepdim=True) / d, joined], 1)
    for conv, norm, last in ((half.weigh[0], half.weigh[1], False), (half.weigh[3], half.weigh[4], True)):
        described = normed(torch.einsum("oi,nip->nop", conv.weight[:, :, 0, 0], described), norm)
        described = described if last else torch.relu(described)
    return 1 / (1 + torch.exp(-described))


def settled(network: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms with statistics and weights that are no ones and zeros."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(x)
    return network


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("variant", ["sc", "s", "c"])
def test_a_block_is_what_the_publication_says(variant: str, literal: bool, training: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 24, 5, 4, dtype=torch.float64)
    block = settled(RelationBlock(24, (5, 4), variant=variant, literal=literal).double(), x).train(training)
    with torch.no_grad():
        expected = x
        if "s" in variant:
            expected = expected * oracle(block.spatial, expected.flatten(2)).reshape(3, 1, 5, 4)
        if "c" in variant:
            weights = oracle(block.channel, expected.flatten(2).transpose(1, 2))
            expected = expected * weights.reshape(3, 24, 1, 1)
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def pair() -> tuple[RelationAwareNetwork, RelationAwareNetwork, Tensor]:
    """The rewritten network, the literal one with the same weights, and crops."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, *TINY.size_hw)
    rewritten = settled(RelationAwareNetwork(TINY), x)
    literal = RelationAwareNetwork(TINY, literal=True)
    literal.load_state_dict(rewritten.state_dict())
    return rewritten, literal, x


def test_literal_and_rewritten_embeddings(
    pair: tuple[RelationAwareNetwork, RelationAwareNetwork, Tensor],
) -> None:
    *networks, x = pair
    with torch.no_grad():
        rows = [nn.functional.normalize(network.eval()(x), dim=1) for network in networks]
    assert (rows[0] - rows[1]).abs().max() < 1e-6
    assert (rows[0][0] - rows[0][1]).abs().max() > 0.01


def test_literal_and_rewritten_gradients(
    pair: tuple[RelationAwareNetwork, RelationAwareNetwork, Tensor],
) -> None:
    """In FP64: in FP32 the batch norms of so small a batch magnify rounding to 1 %."""
    *networks, x = pair
    gradients = []
    for network in networks:
        doubled = RelationAwareNetwork(TINY, literal=network.attention[0].spatial.literal).double().train()
        doubled.load_state_dict(network.state_dict())
        head = doubled.train_outputs(x.double()).heads[0]
        (
            head.identity * torch.linspace(-1, 1, head.identity.numel()).reshape_as(head.identity)
        ).sum().backward()
        gradients.append({name: p.grad for name, p in doubled.named_parameters() if p.requires_grad})
    assert set(gradients[0]) == set(gradients[1]) and "neck.bias" not in gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-8)
        assert gradient.abs().max() > 0, name


def test_gates_are_soft_and_what_features_are_multiplied_with() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 32)
    for variant, channels in (("sc", 8), ("s", 1), ("c", 8)):
        network = RelationAwareNetwork(RgaSettings(variant, 18, 0.125, (64, 32))).eval()
        assert (network.mask_kind, network.variant) == ("soft", "resnet18")
        with torch.no_grad():
            masks = network.soft_masks(x)
            outputs = network.train_outputs(x)
        assert [item.stage for item in masks] == [1, 2, 3, 4] and masks[0].mask.shape == (2, channels, 16, 8)
        assert all(item.mask.min() > 0 and item.mask.max() < 1 for item in masks)
        pooled = (masks[3].features * masks[3].mask).mean((2, 3))
        torch.testing.assert_close(outputs.heads[0].metric, pooled)
        assert not outputs.attended and not outputs.pi


@pytest.mark.parametrize("size_hw", [(72, 40), (33, 47), (128, 64)])
def test_any_size_that_it_is_built_for(size_hw: tuple[int, int]) -> None:
    network = RelationAwareNetwork(RgaSettings(depth=18, width=0.125, size_hw=size_hw)).eval()
    x, found = network.backbone.stem(torch.zeros(1, 3, *size_hw)), []
    with torch.no_grad():
        for stage in (1, 2, 3, 4):
            x = network.backbone.stage(stage)(x)
            found.append(tuple(x.shape[2:]))
        assert found == stage_sizes(size_hw)
        assert network(torch.zeros(2, 3, *size_hw)).shape == (2, 64)


def test_crops_of_another_size_are_refused() -> None:
    network = RelationAwareNetwork(TINY).eval()
    for size_hw in ((96, 32), (32, 64)):
        with pytest.raises(
            ValueError, match=rf"built for crops of 64 x 32 .* are of {size_hw[0]} x {size_hw[1]}"
        ):
            network(torch.zeros(1, 3, *size_hw))


def test_weights_of_another_size_are_refused() -> None:
    network = RelationAwareNetwork(TINY)
    # 32 x 64 has as many places, so that every weight fits.
    for size_hw in ((96, 32), (32, 64)):
        other = RelationAwareNetwork(RgaSettings(**{**TINY.as_dict(), "size_hw": size_hw}))
        with pytest.raises(ValueError, match=rf"64 x 32 .* are of {size_hw[0]} x {size_hw[1]}"):
            network.load_state_dict(other.state_dict())
        with pytest.raises(ValueError, match=rf"64 x 32 .* are of {size_hw[0]} x {size_hw[1]}"):
            nn.Sequential(network).load_state_dict(nn.Sequential(other).state_dict())
    network.load_state_dict(RelationAwareNetwork(TINY).state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "cs"},
        {"depth": 101},
        {"width": 0},
        {"size_hw": (16, 64)},
        {"size_hw": (64.0, 32)},
        {"size_hw": (64, 32, 3)},
        {"size_hw": (2048, 1024)},
        {"neck": 1},
        {"ratio": 8},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        build_model("rga-sc", {**TINY.as_dict(), **wrong})


def test_the_paper_recipe() -> None:
    recipe = resolve("paper", arch="rga-s")
    assert (recipe.num_ids, recipe.num_instances, recipe.epochs) == (16, 4, 600)
    assert learning_rate(recipe, 0) == pytest.approx(8e-6) and learning_rate(recipe, 20) == pytest.approx(
        8e-4
    )
    assert learning_rate(recipe, 79) == pytest.approx(8e-4) and learning_rate(recipe, 81) < 8e-4
