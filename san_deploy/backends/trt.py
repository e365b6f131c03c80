"""TensorRT's Python module, whichever is there: found, loaded, and its log kept for our messages.

TensorRT and TensorRT-RTX have one API under two names. This is the one place that imports either.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections import deque
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ..errors import SanError, UsageError
from ..io.extras import install

#: Our name of a runtime, as in `artefact.Engine.runtime`, and the module that it is.
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

_INSTALL = {
    "tensorrt": (
        "on a Jetson use JetPack's own (sudo apt install python3-libnvinfer, and a virtual environment made "
        f"with --system-site-packages); elsewhere {install('tensorrt-cu12')} for a driver of CUDA 12, "
        "[tensorrt-cu13] for CUDA 13"
    ),
    "tensorrt-rtx": f"{install('rtx')}, which is there for RTX GPUs in x86-64 machines alone",
}
#: Log lines of each kind that are kept: TensorRT repeats itself.
_KEPT = 20
#: Characters of a log line that go into a message of ours.
_SHOWN = 300

_lock = threading.Lock()
_loggers: dict[str, Any] = {}
_listeners: list[Messages] = []


def available() -> list[str]:
    """The runtimes that are installed, of `MODULES`; nothing is imported, so one of them may still fail to load."""
    return [runtime for runtime, module in MODULES.items() if _is_installed(module)]


def load(runtime: str) -> ModuleType:
    """Import a runtime's module.

    Args:
        runtime: `tensorrt` or `tensorrt-rtx`.

    Raises:
        UsageError: `runtime` is neither.
        SanError: it is not installed, its libraries do not load, or it is too old to build and run our files.
    """
    if runtime not in MODULES:
        raise UsageError(f"'{runtime}' is no TensorRT; there are {' and '.join(MODULES)}")
    name = MODULES[runtime]
    if not _is_installed(name):
        raise SanError(f"{runtime} is not installed (Python module {name})", do=_INSTALL[runtime])
    try:
        trt = importlib.import_module(name)
    except (ImportError, OSError) as error:
        # Its libraries come in packages of their own, and need CUDA's.
        raise SanError(
            f"{runtime} is installed, but does not load", why=one_line(str(error)), do=_INSTALL[runtime]
        ) from error
    if not hasattr(trt, "Builder") or not hasattr(trt, "IProgressMonitor"):
        raise SanError(
            f"the Python module {name} is not a {runtime} that works here",
            why=f"version {version(trt)} of {getattr(trt, '__file__', None) or 'a folder without a module'}",
            do=_INSTALL[runtime],
        )
    return trt


def version(trt: ModuleType) -> str:
    """For example `10.16.1.11`; `unknown` where the module does not say."""
    return str(getattr(trt, "__version__", "unknown"))


class Messages:
    """What TensorRT said meanwhile, the newest lines alone.

    Attributes:
        errors, warnings: lines, oldest first. TensorRT writes them from threads of its own.
    """

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self.warnings: deque[str] = deque(maxlen=_KEPT)

    def why(self, count: int = 3) -> str:
        """The last `count` different errors as one line, for `SanError(why=...)`; empty where there are none."""
        different = list(dict.fromkeys(one_line(line) for line in list(self.errors)))
        return "; ".join(different[-count:])


@contextlib.contextmanager
def collected() -> Iterator[Messages]:
    """Collect what any TensorRT of this process logs while the block runs; from all threads.

    Example:
        with collected() as messages:
            engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise SanError("...", why=messages.why())
    """
    messages = Messages()
    with _lock:
        _listeners.append(messages)
    try:
        yield messages
    finally:
        with _lock:
            _listeners.remove(messages)


def logger(trt: ModuleType) -> Any:
    """The one logger of a module, a `trt.ILogger` that prints nothing; see `collected`.

    TensorRT keeps the first logger that it is given for the whole process and warns of any other, and never
    owns it: so there is one, and it lives as long as the process.
    """
    with _lock:
        if trt.__name__ not in _loggers:
            _loggers[trt.__name__] = _make_logger(trt)
        return _loggers[trt.__name__]


def one_line(text: str) -> str:
    """A log line as part of one of ours: no line breaks, no more than 300 characters."""
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN else words[: _SHOWN - 3] + "..."


def _make_logger(trt: ModuleType) -> Any:
    base: Any = trt.ILogger
    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
    warning = trt.ILogger.Severity.WARNING

    class Collector(base):
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            # Without the lock: TensorRT may log while it holds locks of its own. Both lists bear it.
            for messages in list(_listeners):
                if severity in errors:
                    messages.errors.append(text)
                elif severity == warning:
                    messages.warnings.append(text)

    return Collector()


def _is_installed(module: str) -> bool:
    if module in sys.modules:
        return True
    spec = importlib.util.find_spec(module)
    # A folder of that name in the working directory is a namespace package, which has no origin.
    return spec is not None and spec.origin is not None
