"""ONNX Runtime as this package opens it: in silence, without telemetry, and reading nothing besides the model.

The one place that imports it, since what it sends and stores is decided at its import, and since it is not there by
itself: it comes in several builds, of which pip can keep only one whole.
"""

from __future__ import annotations

import os
import warnings

from ..errors import SanError
from ..io import extras

# Microsoft's builds since 1.31 keep an identifier of the machine and a database of events below the home folder,
# and warn where they cannot. Only the variable keeps them from it; who wants them sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime
except ImportError as error:
    if mend := extras.reinstall("onnxruntime"):
        raise SanError(f"ONNX Runtime does not load: {error}", do=mend) from error
    raise SanError(
        "ONNX Runtime is not installed, which runs ONNX files",
        do=f"{extras.install('cpu')}, or [cuda] in its place for an NVIDIA GPU",
    ) from error
if not hasattr(onnxruntime, "InferenceSession"):
    # What is left where one of two builds was uninstalled: a folder without most of its files.
    raise SanError(
        "the files of ONNX Runtime are not complete, as when one of two builds was uninstalled",
        do=extras.reinstall("onnxruntime") or extras.install("cpu"),
    )
if two := extras.conflict("onnxruntime"):
    warnings.warn(two, extras.InstallWarning, stacklevel=2)

__all__ = ["onnxruntime", "quiet_options"]

_FATAL_ONLY = 4
#: Nothing can lie below a device, whoever the working directory belongs to. ASCII alone: a path of the user's
#: need not be Unicode, which this setting wants.
_NOWHERE = f"{os.devnull}/none"

# Where another module imported it first, this stops at least the events.
if os.environ["ORT_DISABLE_TELEMETRY"] == "1" and hasattr(onnxruntime, "disable_telemetry_events"):
    onnxruntime.disable_telemetry_events()


def quiet_options() -> onnxruntime.SessionOptions:
    """Options of a session that prints nothing, as errors are raised, and finds no weights outside of its model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Else they are looked for in the working directory.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    return options
