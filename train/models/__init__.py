"""Architectures by name. A new one is one file here and one line in `ARCHITECTURES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .san import SanOutput, SanSettings, SharpAttentionNetwork

__all__ = ["ARCHITECTURES", "SanOutput", "SanSettings", "SharpAttentionNetwork", "build_model"]

#: Name -> (settings class, network class).
ARCHITECTURES = {"san": (SanSettings, SharpAttentionNetwork)}


def build_model(arch: str, settings: Mapping[str, Any]) -> SharpAttentionNetwork:
    """Build a network from what a checkpoint's JSON says.

    Raises:
        ValueError: an unknown architecture, an unknown setting or a value out of range.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"architecture '{arch}' is none of {', '.join(sorted(ARCHITECTURES))}")
    make_settings, make_model = ARCHITECTURES[arch]
    try:
        return make_model(make_settings(**settings))
    except TypeError as error:
        raise ValueError(f"the settings do not fit architecture '{arch}': {error}") from error
