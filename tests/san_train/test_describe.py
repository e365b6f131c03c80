"""What a trained network says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from san_train.checkpoint import CheckpointInfo
from san_train.describe import describe, resolve_mask
from san_train.models import SanSettings, SharpAttentionNetwork

from san_deploy.artefact import Threshold
from san_deploy.errors import UsageError
from san_deploy.preprocess import RESIZE

SIZES = {"depth": 18, "width": 0.125, "size_hw": (64, 32), "hidden": 32, "embedding_dim": 16}


def network(**settings: object) -> SharpAttentionNetwork:
    return SharpAttentionNetwork(SanSettings(**(SIZES | settings)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, "argmax"),
        ("argmax", "argmax"),
        ("expected", "expected"),
        ("ramp:0.0625", "ramp:0.0625"),
        ("ramp:1e-1", "ramp:0.1"),
    ],
)
def test_masks_of_a_sharp_network(asked: str | None, found: str) -> None:
    assert resolve_mask(network(), asked) == found


def test_masks_of_others() -> None:
    soft, none = network(gate="soft"), network(attention=(), context=())
    assert (resolve_mask(soft, None), resolve_mask(none, None)) == ("soft", "none")
    for model, what in ((soft, "a soft gate"), (none, "no attention")):
        with pytest.raises(UsageError, match=rf"--mask expected does not fit: the network has {what}"):
            resolve_mask(model, "expected")
    with pytest.raises(UsageError, match="--mask"):
        resolve_mask(network(), "sharp")


def test_describe() -> None:
    threshold = Threshold(0.5, 0.01, 0.9, 100, 10, "somebody", "ramp:0.1")
    model = network()
    info = CheckpointInfo("san", model.settings.as_dict(), RESIZE, 3, threshold=threshold)
    artefact = describe(
        model,
        info,
        mask="ramp:0.1",
        input_form="float",
        checkpoint_sha256="a" * 64,
        weights_sha256="c" * 64,
        tools=("torch",),
        sha256="b" * 64,
    )
    assert (artefact.arch, artefact.embedding_dim, artefact.size_hw) == ("san-resnet18", 16, (64, 32))
    assert (artefact.mask, artefact.input, artefact.precision) == ("ramp:0.1", "float", "fp32")
    assert (artefact.checkpoint_sha256, artefact.sha256) == ("a" * 64, "b" * 64)
    assert artefact.threshold == replace(threshold, mask="ramp:0.1") and list(artefact.versions) == ["torch"]
    assert artefact.settings == model.settings.as_dict()


@pytest.mark.parametrize(
    ("calibrated", "recommended", "mask", "kept"),
    [
        ("argmax", "ramp:0.0625", "argmax", True),
        ("argmax", "ramp:0.0625", "ramp:0.0625", False),
        # Files from before the threshold said its mask: the one that the recipe names.
        ("", "ramp:6.25e-2", "ramp:0.0625", True),
        ("", "ramp:0.0625", "argmax", False),
        ("", "", "argmax", True),
    ],
)
def test_a_threshold_goes_with_the_mask_that_it_was_calibrated_for(
    calibrated: str, recommended: str, mask: str, kept: bool
) -> None:
    model = network()
    threshold = Threshold(0.5, 0.01, 0.9, 100, 10, "somebody", calibrated)
    recipe = {"deploy_mask": recommended} if recommended else {}
    info = CheckpointInfo("san", model.settings.as_dict(), RESIZE, 3, recipe, threshold=threshold)
    artefact = describe(
        model, info, mask=mask, input_form="uint8", checkpoint_sha256="a" * 64, weights_sha256="c" * 64
    )
    assert artefact.threshold == (replace(threshold, mask=mask) if kept else None)


def test_a_network_without_a_choice_of_masks_keeps_its_threshold() -> None:
    model = network(gate="soft")
    threshold = Threshold(0.5, 0.01, 0.9, 100, 10, "somebody")
    info = CheckpointInfo("san", model.settings.as_dict(), RESIZE, 3, threshold=threshold)
    artefact = describe(
        model, info, mask="soft", input_form="uint8", checkpoint_sha256="a" * 64, weights_sha256="c" * 64
    )
    assert artefact.threshold == threshold
