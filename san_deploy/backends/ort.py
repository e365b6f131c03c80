"""ONNX Runtime as this package opens it: in silence, without telemetry, and reading nothing besides the model.

The one place that imports it, since what it sends and stores is decided at its import, and since it is not there by
itself: it comes in several builds, of which pip can keep only one whole.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import SanError
from ..io import extras

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["onnxruntime", "quiet_options"]

_FATAL_ONLY = 4
#: Nothing can lie below a device, whoever the working directory belongs to. ASCII alone: a path of the user's
#: need not be Unicode, which this setting wants.
_NOWHERE = f"{os.devnull}/none"


@cache
def _load() -> ModuleType:
    """Import ONNX Runtime; `SanError` where it is not whole, a warning where it may not stay so."""
    # Microsoft's builds since 1.31 keep an identifier of the machine and a database of events below the home folder,
    # and warn where they cannot. Only the variable keeps them from it; who wants them sets it to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as loaded
    except ImportError as error:
        if mend := extras.reinstall("onnxruntime"):
            raise SanError(f"ONNX Runtime does not load: {error}", do=mend) from error
        raise SanError(
            "ONNX Runtime, which runs ONNX files, is not installed",
            do=f"{extras.install('cpu')}, or [cuda] in its place for an NVIDIA GPU",
        ) from error
    if not hasattr(loaded, "InferenceSession"):
        # A folder without most of its files: what is left where one of two builds was uninstalled.
        raise SanError(
            "ONNX Runtime has lost its files, as when one of two builds was uninstalled",
            do=extras.reinstall("onnxruntime") or extras.install("cpu"),
        )
    if two := extras.conflict("onnxruntime"):
        warnings.warn(two, extras.InstallWarning, stacklevel=2)
    # Where another module imported it first, this stops at least the events.
    if os.environ["ORT_DISABLE_TELEMETRY"] == "1" and hasattr(loaded, "disable_telemetry_events"):
        loaded.disable_telemetry_events()
    return loaded


class _OnFirstUse:
    """The module, imported when something of it is asked for: an engine is opened without ONNX Runtime."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_load(), name)


if not TYPE_CHECKING:
    onnxruntime = _OnFirstUse()


def quiet_options() -> onnxruntime.SessionOptions:
    """Options of a session that prints nothing, as errors are raised, and finds no weights outside of its model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Else they are looked for in the working directory.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    return options
