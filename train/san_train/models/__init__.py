"""Architectures by name. A new one is one file here and one line in `ARCHITECTURES`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from . import fmn, ha_cnn, osnet, residual_attention, rga, san
from .fmn import FeatureMaskNetwork, FmnSettings
from .ha_cnn import HaCnnSettings, HarmoniousAttentionNetwork
from .osnet import OmniScaleNetwork, OsNetSettings
from .outputs import Head, Outputs, SoftMask
from .protocol import MASK_KINDS, Network, Settings, attention_blocks, backbone_of, std_of, variant_of
from .registry import Architecture
from .rga import RelationAwareNetwork, RgaSettings
from .san import SanSettings, SharpAttentionNetwork

__all__ = [
    "ARCHITECTURES",
    "MASK_KINDS",
    "Architecture",
    "Head",
    "Network",
    "Outputs",
    "SanSettings",
    "Settings",
    "SharpAttentionNetwork",
    "SoftMask",
    "architecture",
    "attention_blocks",
    "backbone_of",
    "build_model",
    "std_of",
    "variant_of",
]

ARCHITECTURES: dict[str, Architecture] = {
    "san": Architecture(SanSettings, SharpAttentionNetwork, san.RECIPES, sharp=True),
    "residual-attention": Architecture(
        SanSettings,
        SharpAttentionNetwork,
        residual_attention.RECIPES,
        fixed={"unit": "residual-attention", "gate": "soft"},
    ),
    "ha-cnn": Architecture(HaCnnSettings, HarmoniousAttentionNetwork, ha_cnn.RECIPES, floating=("spatial",)),
    "rga-sc": Architecture(
        RgaSettings,
        RelationAwareNetwork,
        rga.RECIPES,
        fixed={"variant": "sc"},
        floating=("weigh",),
        min_int8=0.35,
    ),
    "rga-s": Architecture(
        RgaSettings,
        RelationAwareNetwork,
        rga.RECIPES,
        fixed={"variant": "s"},
        floating=("weigh",),
        min_int8=0.35,
    ),
    "rga-c": Architecture(
        RgaSettings,
        RelationAwareNetwork,
        rga.RECIPES,
        fixed={"variant": "c"},
        floating=("weigh",),
        min_int8=0.35,
    ),
    "osnet": Architecture(OsNetSettings, OmniScaleNetwork, osnet.RECIPES),
    "fmn": Architecture(FmnSettings, FeatureMaskNetwork, fmn.RECIPES, floating=("mask_head",)),
}


def architecture(name: str) -> Architecture:
    """An architecture by its name.

    Raises:
        ValueError: there is none of that name; names the nearest.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(str(name).lower(), ARCHITECTURES, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"architecture '{name}' is none of {', '.join(ARCHITECTURES)}{guess}")
    return ARCHITECTURES[name]


def build_model(arch: str, settings: Mapping[str, Any]) -> Network:
    """Build a network from what a checkpoint's JSON says.

    Raises:
        ValueError: an unknown architecture, an unknown setting or a value out of range.
    """
    registered = architecture(arch)
    try:
        return registered.network(registered.make_settings(settings))
    except TypeError as error:
        raise ValueError(f"the settings do not fit architecture '{arch}': {error}") from error
