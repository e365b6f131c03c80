"""RGA once more, literally and as functions, on a state dict with its authors' names, against what it loads into."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from san_train.models.rga_weights import load_rga  # noqa: E402
from torch import Tensor  # noqa: E402

from san_deploy.errors import SanError  # noqa: E402

State = dict[str, Tensor]
SIZE_HW = (64, 32)
#: Units, planes and stride of the ResNet's stages.
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 1))


def draw_state(variant: str, size_hw: tuple[int, int] = SIZE_HW, seed: int = 0) -> State:
    """Random weights by the authors' names and with their shapes, and a classifier of 5 people."""
    torch.manual_seed(seed)
    state: State = {"cls.weight": torch.randn(5, 2048)}

    def conv(name: str, inputs: int, outputs: int, kernel: int = 1) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5

    def norm(name: str, channels: int) -> None:
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.3), ("running_mean", -0.2, 0.2)):
            state[f"{name}.{part}"] = torch.empty(channels).uniform_(low, high)
        state[f"{name}.running_var"] = torch.empty(channels).uniform_(0.5, 2)
        state[f"{name}.num_batches_tracked"] = torch.tensor(9)

    def half(name: str, features: int, nodes: int, which: str) -> None:
        d, s = features // 8, max(1, nodes // 8)
        hidden = max(1, (1 + s) // 8)
        for part, inputs, outputs in (("theta", features, d), ("phi", features, d), ("gx", features, d)):
            conv(f"{name}.{part}_{which}.0", inputs, outputs)
            norm(f"{name}.{part}_{which}.1", outputs)
        conv(f"{name}.gg_{which}.0", 2 * nodes, s)
        norm(f"{name}.gg_{which}.1", s)
        conv(f"{name}.W_{which}.0", 1 + s, hidden)
        norm(f"{name}.W_{which}.1", hidden)
        conv(f"{name}.W_{which}.3", hidden, 1)
        norm(f"{name}.W_{which}.4", 1)

    conv("backbone.conv1", 3, 64, 7)
    norm("backbone.bn1", 64)
    inputs, places = 64, size_hw[0] * size_hw[1] // 16
    for stage, (units, planes, stride) in enumerate(STAGES, 1):
        for unit in range(units):
            name = f"backbone.layer{stage}.{unit}"
            for part, a, b, kernel in (
                (1, inputs, planes, 1),
                (2, planes, planes, 3),
                (3, planes, 4 * planes, 1),
            ):
                conv(f"{name}.conv{part}", a, b, kernel)
                norm(f"{name}.bn{part}", b)
            if unit == 0:
                conv(f"{name}.downsample.0", inputs, 4 * planes)
                norm(f"{name}.downsample.1", 4 * planes)
            inputs = 4 * planes
        places //= stride**2
        if "s" in variant:
            half(f"backbone.rga_att{stage}", inputs, places, "spatial")
        if "c" in variant:
            half(f"backbone.rga_att{stage}", places, inputs, "channel")
    norm("feat_bn", 2048)
    return state


def embed_literally(state: State, x: Tensor, variant: str) -> Tensor:
    """`(N, 3, H, W)` to the feature behind the last norm, `(N, 2048)`, as the publication's section 3 has it."""

    def bn(name: str, value: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(value, *(state[f"{name}.{part}"] for part in names))

    def layer(name: str, value: Tensor, place: int = 0) -> Tensor:
        return bn(f"{name}.{place + 1}", F.conv2d(value, state[f"{name}.{place}.weight"]))

    def weights(name: str, which: str, nodes: Tensor) -> Tensor:
        """`(N, features, P, 1)` to a number for each node, `(N, P)`."""
        theta, phi, unary = (
            F.relu(layer(f"{name}.{part}_{which}", nodes))[..., 0] for part in ("theta", "phi", "gx")
        )
        affinity = torch.einsum("ndi,ndj->nij", theta, phi)
        # To describe node p: its relations to every node, then those of every node to it.
        relations = torch.cat([affinity.transpose(1, 2), affinity], 1)
        joined = F.relu(layer(f"{name}.gg_{which}", relations[..., None]))
        described = torch.cat([unary.mean(1, keepdim=True)[..., None], joined], 1)
        hidden = F.relu(layer(f"{name}.W_{which}", described))
        return torch.sigmoid(layer(f"{name}.W_{which}", hidden, 3))[:, 0, :, 0]

    x = F.relu(bn("backbone.bn1", F.conv2d(x, state["backbone.conv1.weight"], None, 2, 3)))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, (units, _, first_stride) in enumerate(STAGES, 1):
        for unit in range(units):
            name, stride = f"backbone.layer{stage}.{unit}", first_stride if unit == 0 else 1
            out = F.relu(bn(f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
            out = F.relu(bn(f"{name}.bn2", F.conv2d(out, state[f"{name}.conv2.weight"], None, stride, 1)))
            out = bn(f"{name}.bn3", F.conv2d(out, state[f"{name}.conv3.weight"]))
            if unit == 0:
                x = bn(
                    f"{name}.downsample.1", F.conv2d(x, state[f"{name}.downsample.0.weight"], None, stride)
                )
            x = F.relu(out + x)
        block = f"backbone.rga_att{stage}"
        n, c, h, w = x.shape
        if "s" in variant:
            x = x * weights(block, "spatial", x.flatten(2)[..., None]).reshape(n, 1, h, w)
        if "c" in variant:
            nodes = x.flatten(2).transpose(1, 2)[..., None]
            x = x * weights(block, "channel", nodes).reshape(n, c, 1, 1)
    return bn("feat_bn", x.mean((2, 3)))


@pytest.mark.parametrize("variant", ["sc", "s", "c"])
def test_the_embeddings_are_theirs(variant: str) -> None:
    """In FP64, where what is left is the order of sums; FP32 of random weights magnifies its own roundings."""
    state = draw_state(variant)
    network = load_rga(state, SIZE_HW, variant=variant).double()
    assert not network.training and network.settings.variant == variant
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    x = torch.randn(2, 3, *SIZE_HW, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, wanted = (F.normalize(rows) for rows in (network(x), embed_literally(doubled, x, variant)))
    assert (ours - wanted).abs().max() < 1e-9
    assert (ours - wanted.roll(1, 0)).abs().max() > 1e-4


def test_the_order_of_relations_matters() -> None:
    """Relations to and from a node are told apart: with both halves of the weight exchanged rows are others."""
    state = draw_state("s")
    name = "backbone.rga_att1.gg_spatial.0.weight"
    x = torch.randn(1, 3, *SIZE_HW, generator=torch.Generator().manual_seed(1))
    exchanged = {**state, name: torch.cat(state[name].chunk(2, 1)[::-1], 1)}
    with torch.no_grad():
        rows = [F.normalize(load_rga(item, SIZE_HW, variant="s")(x)) for item in (state, exchanged)]
    assert (rows[0] - rows[1]).abs().max() > 1e-6


def test_what_does_not_fit() -> None:
    state = {f"module.{name}": tensor for name, tensor in draw_state("s").items()}
    with pytest.raises(SanError, match="weights of rga-s, not of rga-sc"):
        load_rga(state, SIZE_HW)
    with pytest.raises(
        SanError, match=r"crops of 2048 pixels, and 256x128 has 32768\. Give the height and width"
    ):
        load_rga(state, variant="s")
    name = "module.backbone.rga_att2.phi_spatial.0.weight"
    for wrong in (
        {key: tensor for key, tensor in state.items() if key != name},
        {**state, name: state[name][:, :4]},
    ):
        with pytest.raises(
            SanError, match=r"no weights of the authors' RGA.*first is attention\.1\.spatial\.embed\.0"
        ):
            load_rga(wrong, SIZE_HW, variant="s")
    state[name] = torch.full_like(state[name], float("inf"))
    with pytest.raises(SanError, match="the weights hold NaN or infinity"):
        load_rga(state, SIZE_HW, variant="s")
    with pytest.raises(SanError, match="no weights of the authors' RGA"):
        load_rga({"conv1.weight": torch.zeros(1)})
