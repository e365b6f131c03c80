"""OSNet against the paper's figures written out literally, and weights by the names of others."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from san_train.models.osnet import VARIANTS, OmniScaleNetwork, OsBlock, OsNetSettings  # noqa: E402
from san_train.models.osnet_weights import load_osnet, our_name  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from san_deploy.errors import SanError  # noqa: E402


def made(variant: str = "plain", width: float = 0.25, seed: int = 0) -> OmniScaleNetwork:
    """A network whose norms are not the identity."""
    torch.manual_seed(seed)
    network = OmniScaleNetwork(OsNetSettings((64, 32), width, variant))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize(
    ("width", "parameters"), [(1.0, 2_169_508), (0.75, 1_285_754), (0.5, 630_034), (0.25, 201_864)]
)
def test_the_published_sizes(width: float, parameters: int) -> None:
    """2.2, 1.3, 0.6 and 0.2 M; to the digit what torchreid's network has without its classifier."""
    network = OmniScaleNetwork(OsNetSettings(width=width))
    assert sum(item.numel() for item in network.parameters()) == parameters


@pytest.mark.parametrize("norm", ["", "in", "out"])
def test_a_block_is_figure_four(norm: str) -> None:
    torch.manual_seed(0)
    block = OsBlock(16, 64, norm).eval()
    state = block.state_dict()
    x = torch.randn(2, 16, 6, 4)

    def bn(name: str, value: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scaled = (value - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        return scaled * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    def instance(value: Tensor) -> Tensor:
        mean = value.mean((2, 3), keepdim=True)
        var = ((value - mean) ** 2).mean((2, 3), keepdim=True)
        scaled = (value - mean) / torch.sqrt(var + 1e-5)
        return scaled * state["IN.weight"][:, None, None] + state["IN.bias"][:, None, None]

    def gate(value: Tensor) -> Tensor:
        pooled = value.mean((2, 3))
        hidden = torch.relu(pooled @ state["gate.fc1.weight"][:, :, 0, 0].T + state["gate.fc1.bias"])
        weights = torch.sigmoid(hidden @ state["gate.fc2.weight"][:, :, 0, 0].T + state["gate.fc2.bias"])
        return value * weights[:, :, None, None]

    reduced = torch.relu(bn("conv1.bn", F.conv2d(x, state["conv1.conv.weight"])))
    total = torch.zeros_like(reduced)
    for t in range(4):
        stream = reduced
        for depth in range(t + 1):
            name = f"conv2.{t}.layers.{depth}"
            stream = F.conv2d(stream, state[f"{name}.conv1.weight"])
            stream = F.conv2d(stream, state[f"{name}.conv2.weight"], padding=1, groups=stream.shape[1])
            stream = torch.relu(bn(f"{name}.bn", stream))
        total = total + gate(stream)
    residual = F.conv2d(total, state["conv3.conv.weight"])
    residual = instance(residual) if norm == "in" else bn("conv3.bn", residual)
    wanted = residual + bn("downsample.bn", F.conv2d(x, state["downsample.conv.weight"]))
    wanted = torch.relu(instance(wanted) if norm == "out" else wanted)
    with torch.no_grad():
        torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-5)


def as_theirs(network: OmniScaleNetwork) -> dict[str, Tensor]:
    """The state dict as torchreid's `osnet` (not `osnet_ain`) names it, with a classifier and DataParallel's prefix."""
    letters = "abcd"
    found = {"module.classifier.weight": torch.zeros(7, 512), "module.classifier.bias": torch.zeros(7)}
    for ours, tensor in network.state_dict().items():
        theirs = ours.replace(".conv2.0.layers.0.", ".conv2a.")
        for t, letter in enumerate(letters):
            theirs = theirs.replace(f".conv2.{t}.layers.", f".conv2{letter}.")
        for stage in "23":
            if theirs.startswith(f"pool{stage}.0."):
                theirs = theirs.replace(f"pool{stage}.0.", f"conv{stage}.2.0.")
        found["module." + theirs] = tensor
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_by_their_names(variant: str) -> None:
    network = made(variant)
    theirs = as_theirs(network) if variant != "ain" else network.state_dict()
    loaded = load_osnet(theirs, (64, 32))
    assert loaded.settings == network.settings
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_names() -> None:
    assert our_name("module.conv2.0.conv2c.1.conv1.weight") == "conv2.0.conv2.2.layers.1.conv1.weight"
    assert our_name("model.encoder.conv3.2.0.bn.bias") == "pool3.0.bn.bias"
    assert our_name("fc.0.weight") == "fc.0.weight"


def test_weights_that_do_not_fit() -> None:
    state = dict(made().state_dict())
    with pytest.raises(SanError, match=r"no weights of OSNet.*conv1"):
        load_osnet({"layer1.weight": torch.zeros(1)})
    with pytest.raises(
        SanError, match="2 tensors are missing, unknown or of another shape, the first is conv5"
    ):
        load_osnet({name: value for name, value in state.items() if "conv5.bn.running" not in name})
    with pytest.raises(SanError, match=r"the weights hold NaN or infinity. In conv1"):
        load_osnet(state | {"conv1.conv.weight": torch.full_like(state["conv1.conv.weight"], float("nan"))})
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert load_osnet(old).settings.width == 0.25


@pytest.mark.parametrize(
    "bad", [{"width": 0}, {"variant": "abc"}, {"head_dim": 1}, {"size_hw": (8, 8)}, {"head_dim": 1.5}]
)
def test_settings_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        OsNetSettings(**bad)  # type: ignore[arg-type]
