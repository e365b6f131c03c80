"""The sharp attention block against literal forms of the paper's equations (arXiv 1805.02336)."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from san_train.attention import (  # noqa: E402
    MaskMode,
    SharpAttention,
    argmax_mask,
    attend_probability,
    mask_margin_loss,
    ramp_mask,
    relaxed_sample,
    temperature,
    tv_penalty,
)

from san_deploy.artefact import parse_mask  # noqa: E402


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def literal_eq3(x: np.ndarray) -> np.ndarray:
    out = np.zeros_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            low, high = x[n, c].min(), x[n, c].max()
            if high > low:
                out[n, c] = (x[n, c] - low) / (high - low)
    return out


def test_eq3_is_per_sample_and_per_channel() -> None:
    x = features(3, 4, 5, 6)
    x[1, 2] = 7.0  # a constant channel attends nowhere
    np.testing.assert_allclose(attend_probability(x).numpy(), literal_eq3(x.numpy()), atol=1e-6)
    assert attend_probability(x)[1, 2].abs().max() == 0


def test_constant_channel_gives_no_mask_and_a_finite_gradient() -> None:
    x = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    for mask in (
        argmax_mask(x),
        ramp_mask(x, 1 / 64),
        attend_probability(x),
        relaxed_sample(attend_probability(x), 0.5),
    ):
        assert mask.abs().max() == 0
    (relaxed_sample(attend_probability(x), 0.5).sum() + attend_probability(x).sum()).backward()
    assert torch.isfinite(x.grad).all()


def test_a_tie_at_the_threshold_gives_zero() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 1.0]).reshape(1, 1, 2, 2)
    assert argmax_mask(x).flatten().tolist() == [0.0, 0.0, 1.0, 0.0]


def test_argmax_mask_is_eq4_without_noise() -> None:
    x = features(4, 8, 6, 5)
    pi = literal_eq3(x.numpy().astype(np.float64))
    np.testing.assert_array_equal(argmax_mask(x).numpy(), (pi > 1 - pi).astype(np.float32))


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_eq5_has_the_distribution_of_the_literal_two_gumbel_form(tau: float) -> None:
    """The one-logistic-draw form against eq. 5 as it is written, by a two-sample Kolmogorov-Smirnov test."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for pi in (0.03, 0.4, 0.5, 0.9):
        g0, g1 = rng.gumbel(size=(2, 20_000))
        top = np.exp((np.log(pi) + g1) / tau)
        literal = top / (top + np.exp((np.log(1 - pi) + g0) / tau))
        ours = relaxed_sample(torch.full((20_000,), pi), tau).numpy()
        assert stats.ks_2samp(literal, ours).pvalue > 1e-3


def test_rounded_samples_are_bernoulli() -> None:
    torch.manual_seed(1)
    for pi in (0.1, 0.5, 0.8):
        hits = (relaxed_sample(torch.full((40_000,), pi), 0.5) > 0.5).float().mean().item()
        assert abs(hits - pi) < 4 * math.sqrt(pi * (1 - pi) / 40_000)


def test_eq7_is_the_gradient_of_eq6() -> None:
    a = features(2, 3, 5, 4).double().requires_grad_()
    tv_penalty(a).sum().backward()
    height, width = 5, 4
    d1 = np.eye(height)[:-1] - np.eye(height)[1:]  # (H - 1, H)
    d2 = (np.eye(width)[:-1] - np.eye(width)[1:]).T  # (W, W - 1)
    plain = a.detach().numpy()
    expected = 2 * (d1.T @ d1 @ plain + plain @ d2 @ d2.T)
    np.testing.assert_allclose(a.grad.numpy(), expected, atol=1e-5)
    literal = ((d1 @ plain) ** 2).sum((1, 2, 3)) + ((plain @ d2) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(tv_penalty(a).detach().numpy(), literal, rtol=1e-5)


def test_ramp_meets_the_two_masks_at_its_ends() -> None:
    x = features(2, 3, 6, 5)
    torch.testing.assert_close(ramp_mask(x, 1.0), attend_probability(x), atol=1e-5, rtol=0)
    far = (attend_probability(x) - 0.5).abs() > 1e-3
    torch.testing.assert_close(ramp_mask(x, 1e-3)[far], argmax_mask(x)[far])


@pytest.mark.parametrize(
    "name", ["", "argmin", "ramp", "ramp:0", "ramp:2", "ramp:x", "argmax:1", "expected:0.5"]
)
def test_unknown_masks_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="mask"):
        parse_mask(name)


def test_temperature_follows_eq9() -> None:
    assert temperature(0) == 1.0
    assert temperature(50) == pytest.approx(math.exp(-0.4))
    assert temperature(150) == 0.5


@pytest.mark.parametrize("train_mask", ["sample", "sample-hard", "straight-through", "expected"])
def test_training_masks(train_mask: str) -> None:
    torch.manual_seed(0)
    block = SharpAttention(MaskMode(train=train_mask)).train()
    trunk = features(2, 3, 6, 4).requires_grad_()
    out, attended, pi = block(trunk)
    torch.testing.assert_close(out, trunk + attended)  # eq. 2
    mask = attended / trunk
    if train_mask in ("sample-hard", "straight-through"):
        assert torch.minimum(mask.abs(), (mask - 1).abs()).max() < 1e-5
    if train_mask == "straight-through":
        torch.testing.assert_close((mask > 0.5).float(), argmax_mask(trunk))
    assert pi is not None and pi.min() >= 0 and pi.max() <= 1
    out.square().sum().backward()
    assert torch.isfinite(trunk.grad).all() and trunk.grad.abs().sum() > 0


def test_straight_through_gradient_is_that_of_pi() -> None:
    x = features(1, 2, 4, 4)
    grads = []
    for train_mask in ("straight-through", "expected"):
        leaf = x.clone().requires_grad_()
        mask, _ = SharpAttention(MaskMode(train=train_mask)).train().mask(leaf)
        mask.sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_an_embedding_does_not_depend_on_batch_mates() -> None:
    block = SharpAttention(MaskMode()).eval()
    x = features(4, 3, 6, 4)
    together = block(x)[0]
    alone = torch.cat([block(row[None])[0] for row in x])
    assert torch.equal(together, alone)


def test_soft_gate_is_a_sigmoid() -> None:
    x = features(1, 2, 3, 3)
    torch.testing.assert_close(SharpAttention(MaskMode(), gate="soft")(x)[1], torch.sigmoid(x) * x)


def test_masks_are_fp32_in_half_precision() -> None:
    mask, _ = SharpAttention(MaskMode()).eval().mask(features(1, 2, 4, 4).half())
    assert mask.dtype == torch.float32


def test_mask_margin_loss_counts_what_is_near_one_half() -> None:
    pi = torch.tensor([0.0, 0.5, 1.0, 0.55])
    assert mask_margin_loss(pi, 0.2).item() == pytest.approx((0 + 1 + 0 + 0.5) / 4, abs=1e-6)
