"""HA-CNN once more, literally and as functions, on a state dict with torchreid's names: one region at a time,
an affine grid, grid_sample and a resize. Written from ../shared/models.md, sections 1.2 and 1.3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
STREAMS = ((24, 28), (12, 14), (6, 7))


def cut_literally(x: Tensor, place: Tensor, target: tuple[int, int], align_corners: bool) -> Tensor:
    """`(N, C, H, W)` and `(N, 2)`, x and y, to `(N, C, *target)`."""
    theta = torch.zeros(len(x), 2, 3, dtype=x.dtype)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = 1.0, 0.25, place
    grid = F.affine_grid(theta, list(x.shape), align_corners=align_corners)
    sampled = F.grid_sample(x, grid, align_corners=align_corners)
    return F.interpolate(sampled, target, mode="bilinear", align_corners=True)


def embed_literally(state: State, x: Tensor, *, align_corners: bool) -> Tensor:
    """`(N, 3, 160, 64)` to the test feature, `(N, 1024)`, in evaluation."""
    x = _conv(state, "conv", x, stride=2, padding=1)
    streams: list[Tensor | None] = [None] * 4
    for level in (1, 2, 3):
        features = _b(state, f"inception{level}.1", _a(state, f"inception{level}.0", x))
        mask, places = _attention(state, f"ha{level}", features)
        for k in range(4):
            region = cut_literally(x, places[:, k], STREAMS[level - 1], align_corners)
            before = streams[k]
            if before is not None:
                region = region + before
            streams[k] = _b(state, f"local_conv{level}", region)
        x = features * mask
    rows = [_fc(state, "fc_global", x.mean((2, 3)))]
    rows.append(_fc(state, "fc_local", torch.cat([s.mean((2, 3)) for s in streams if s is not None], 1)))
    return torch.cat([row / row.norm(dim=1, keepdim=True) for row in rows], 1)


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    names = ("running_mean", "running_var", "weight", "bias")
    return F.relu(F.batch_norm(x, *(state[f"{name}.{part}"] for part in names)))


def _conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    x = F.conv2d(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], stride, padding)
    return _norm(state, f"{name}.bn", x)


def _a(state: State, name: str, x: Tensor) -> Tensor:
    paths = [
        _conv(state, f"{name}.stream{k}.1", _conv(state, f"{name}.stream{k}.0", x), padding=1)
        for k in (1, 2, 3)
    ]
    pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=True)
    return torch.cat([*paths, _conv(state, f"{name}.stream4.1", pooled)], 1)


def _b(state: State, name: str, x: Tensor) -> Tensor:
    first = _conv(state, f"{name}.stream1.1", _conv(state, f"{name}.stream1.0", x), 2, 1)
    second = _conv(state, f"{name}.stream2.1", _conv(state, f"{name}.stream2.0", x), 1, 1)
    second = _conv(state, f"{name}.stream2.2", second, 2, 1)
    third = _conv(state, f"{name}.stream3.1", F.max_pool2d(x, 3, 2, 1))
    return torch.cat([first, second, third], 1)


def _attention(state: State, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    soft = f"{name}.soft_attn"
    spatial = _conv(state, f"{soft}.spatial_attn.conv1", x.mean(1, keepdim=True), 2, 1)
    spatial = F.interpolate(spatial, scale_factor=2, mode="bilinear", align_corners=True)
    spatial = _conv(state, f"{soft}.spatial_attn.conv2", spatial)
    channel = _conv(state, f"{soft}.channel_attn.conv1", F.adaptive_avg_pool2d(x, 1))
    channel = _conv(state, f"{soft}.channel_attn.conv2", channel)
    mask = torch.sigmoid(_conv(state, f"{soft}.conv", spatial * channel))
    hard = f"{name}.hard_attn.fc"
    places = F.linear(x.mean((2, 3)), state[f"{hard}.weight"], state[f"{hard}.bias"])
    return mask, torch.tanh(places).view(-1, 4, 2)


def _fc(state: State, name: str, x: Tensor) -> Tensor:
    x = F.linear(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"])
    return _norm(state, f"{name}.1", x)


def draw_state(seed: int = 0, *, people: int = 7, local: bool = True) -> State:
    """Random weights with torchreid's names and shapes, classifiers included."""
    state: State = {}
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, *shape: int, spread: float = 1.0, middle: float = 0.0) -> None:
        state[name] = middle + spread * torch.randn(shape, generator=generator)

    def linear(name: str, inputs: int, outputs: int, spread: float) -> None:
        draw(f"{name}.weight", outputs, inputs, spread=spread)
        draw(f"{name}.bias", outputs, spread=0.1)

    def norm(name: str, size: int) -> None:
        draw(f"{name}.weight", size, spread=0.1, middle=1)
        draw(f"{name}.bias", size, spread=0.1)
        draw(f"{name}.running_mean", size, spread=0.1)
        state[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(3)

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        draw(f"{name}.conv.weight", outputs, inputs, kernel, kernel, spread=1.4 / (inputs**0.5 * kernel))
        draw(f"{name}.conv.bias", outputs, spread=0.1)
        norm(f"{name}.bn", outputs)

    def b(name: str, inputs: int, outputs: int) -> None:
        m = outputs // 4
        conv(f"{name}.stream1.0", inputs, m, 1)
        conv(f"{name}.stream1.1", m, m, 3)
        conv(f"{name}.stream2.0", inputs, m, 1)
        conv(f"{name}.stream2.1", m, m, 3)
        conv(f"{name}.stream2.2", m, m, 3)
        conv(f"{name}.stream3.1", inputs, 2 * m, 1)

    conv("conv", 3, 32, 3)
    for level, (inputs, outputs) in enumerate(((32, 128), (128, 256), (256, 384)), 1):
        m = outputs // 4
        for k in (1, 2, 3):
            conv(f"inception{level}.0.stream{k}.0", inputs, m, 1)
            conv(f"inception{level}.0.stream{k}.1", m, m, 3)
        conv(f"inception{level}.0.stream4.1", inputs, m, 1)
        b(f"inception{level}.1", outputs, outputs)
        soft = f"ha{level}.soft_attn"
        conv(f"{soft}.spatial_attn.conv1", 1, 1, 3)
        conv(f"{soft}.spatial_attn.conv2", 1, 1, 1)
        conv(f"{soft}.channel_attn.conv1", outputs, outputs // 16, 1)
        conv(f"{soft}.channel_attn.conv2", outputs // 16, outputs, 1)
        conv(f"{soft}.conv", outputs, outputs, 1)
        linear(f"ha{level}.hard_attn.fc", outputs, 8, 0.3)
        if local:
            b(f"local_conv{level}", inputs, outputs)
    for name, inputs in (("global", 384), *((("local", 1536),) if local else ())):
        linear(f"fc_{name}.0", inputs, 512, inputs**-0.5)
        norm(f"fc_{name}.1", 512)
        linear(f"classifier_{name}", 512, people, 0.1)
    return state
