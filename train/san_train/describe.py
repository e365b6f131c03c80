"""The artefact contract of a trained network: what an export of it says, and PyTorch when it runs the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from san_deploy.artefact import Artefact, Int8Rule, Threshold, mask_name, space_of
from san_deploy.errors import UsageError
from san_deploy.io.versions import versions
from san_deploy.preprocess import MEAN_RGB

from .checkpoint import CheckpointInfo
from .models import Network, architecture, std_of, variant_of


def resolve_mask(network: Network, asked: str | None) -> str:
    """The mask's name in the artefact: what was asked for, else the paper's deterministic form, argmax.

    Args:
        network: whose `mask_kind` says whether it has a choice.
        asked: None asks for none.

    Returns:
        `argmax`, `expected`, `ramp:EPS`; `none` without attention; `soft` for a sigmoid gate.

    Raises:
        UsageError: `asked` is no mask, or the network has no sharp mask to choose.
    """
    if asked is not None:
        try:
            asked = mask_name(asked)
        except ValueError as error:
            raise UsageError(f"--mask: {error}") from error
    if network.mask_kind == "sharp":
        return asked or "argmax"
    if asked is not None:
        what = "no attention" if network.mask_kind == "none" else "a soft gate"
        raise UsageError(
            f"--mask {asked} does not fit: the network has {what}, so no mask to choose",
            do="leave --mask out",
        )
    return network.mask_kind


def describe(
    network: Network,
    info: CheckpointInfo,
    *,
    mask: str,
    input_form: str,
    checkpoint_sha256: str,
    weights_sha256: str,
    tools: Sequence[str] = ("san-deploy", "torch"),
    sha256: str = "",
) -> Artefact:
    """The artefact contract of a trained network in FP32, without checks.

    Args:
        network: the trained network.
        info: of its checkpoint.
        mask: of `resolve_mask`.
        input_form: `uint8` or `float`.
        checkpoint_sha256: of the checkpoint's file.
        weights_sha256: of its tensors, `checkpoint_info.tensors_sha256`.
        tools: whose versions are written down.
        sha256: of the model file, where that is known.
    """
    settings, row = network.settings, architecture(info.arch)
    artefact = Artefact(
        arch="-".join(filter(None, (info.arch, variant_of(network)))),
        settings=settings.as_dict(),
        embedding_dim=settings.embedding_dim,
        size_hw=settings.size_hw,
        input=input_form,
        resize=info.resize,
        mean_rgb=MEAN_RGB,
        std_rgb=std_of(network),
        mask=mask,
        precision="fp32",
        checkpoint_sha256=checkpoint_sha256,
        weights_sha256=weights_sha256,
        versions=versions(*tools),
        threshold=_threshold(network, info, mask),
        int8=Int8Rule(row.floating, row.min_int8),
        sha256=sha256,
    )
    return replace(artefact, space=space_of(artefact))


def _threshold(network: Network, info: CheckpointInfo, mask: str) -> Threshold | None:
    """The checkpoint's threshold, where it was calibrated for this mask: another mask gives other similarities."""
    known = info.threshold
    if known is None or network.mask_kind != "sharp":
        return known
    return replace(known, mask=mask) if (known.mask or mask_name(info.named_mask)) == mask else None
