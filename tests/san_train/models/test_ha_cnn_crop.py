"""The separable cut against affine grid, grid_sample and resize."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from san_train.models.ha_cnn_crop import RegionCrop  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.san_train.models.ha_cnn_oracle import cut_literally  # noqa: E402

#: Source and region of each level at 160 x 64.
LEVELS = [((80, 32), (24, 28)), ((40, 16), (12, 14)), ((20, 8), (6, 7))]


def literal(x: Tensor, places: Tensor, target: tuple[int, int], align_corners: bool) -> Tensor:
    regions = [cut_literally(x, places[:, k], target, align_corners) for k in range(4)]
    return torch.stack(regions, 1).flatten(0, 1)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("source", "target"), LEVELS)
def test_the_networks_own_sizes(
    source: tuple[int, int], target: tuple[int, int], align_corners: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, *source, generator=generator)
    # Anywhere in the tanh's range: most regions lie partly outside the image.
    places = 2 * torch.rand(3, 4, 2, generator=generator) - 1
    places[0, 0] = torch.tensor([0.999, -0.999])
    crop = RegionCrop(source, target, align_corners=align_corners)
    cut = crop(x, places)
    assert cut.shape == (12, 5, *target) and cut.dtype == torch.float32
    expected = literal(x, places, target, align_corners)
    assert (cut - expected).abs().max() < 1e-4
    outside = (expected == 0).all(1).float().mean()
    assert 0.1 < outside < 0.9


@settings(max_examples=80, deadline=None)
@given(
    source=st.tuples(st.integers(2, 40), st.integers(2, 20)),
    target=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    align_corners=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_size(source: tuple[int, int], target: tuple[int, int], align_corners: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, *source, generator=generator)
    # Wider than the tanh allows, so that whole regions lie outside.
    places = 4 * torch.rand(2, 4, 2, generator=generator) - 2
    cut = RegionCrop(source, target, align_corners=align_corners)(x, places)
    assert (cut - literal(x, places, target, align_corners)).abs().max() < 1e-4


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradients(align_corners: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    source, target = LEVELS[1]
    weigh = torch.randn(8, 3, *target, generator=generator)
    grown = []
    for cut in (
        RegionCrop(source, target, align_corners=align_corners),
        lambda x, places: literal(x, places, target, align_corners),
    ):
        generator.manual_seed(3)
        x = torch.randn(2, 3, *source, generator=generator).requires_grad_()
        places = (1.6 * torch.rand(2, 4, 2, generator=generator) - 0.8).requires_grad_()
        (cut(x, places) * weigh).sum().backward()
        grown.append((x.grad, places.grad))
    for ours, theirs in zip(*grown, strict=True):
        assert ours is not None and theirs is not None
        torch.testing.assert_close(ours, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=0)


def test_two_steps_are_not_one() -> None:
    """Sampling at the region's size is another function: on smooth maps it differs by a tenth and more."""
    x = torch.nn.functional.interpolate(
        torch.randn(4, 8, 40, 16, generator=torch.Generator().manual_seed(4)), (80, 32), mode="bilinear"
    )
    places = torch.tensor([[0, -0.6351], [0, -0.2449], [0, 0.2449], [0, 0.6351]]).expand(4, 4, 2)
    cut = RegionCrop((80, 32), (24, 28), align_corners=False)(x, places)
    theta = torch.zeros(16, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = 1.0, 0.25, places.reshape(16, 2)
    grid = torch.nn.functional.affine_grid(theta, [16, 8, 24, 28], align_corners=False)
    direct = torch.nn.functional.grid_sample(x.repeat_interleave(4, 0), grid, align_corners=False)
    assert (cut - direct).square().mean().sqrt() > 0.1 * direct.square().mean().sqrt()


def test_nothing_is_saved() -> None:
    assert not RegionCrop((8, 4), (3, 3), align_corners=False).state_dict()
