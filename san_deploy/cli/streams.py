"""The three standard streams, where a service closes them or nobody reads them any more."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO, cast

_STREAMS = ("stdin", "stdout", "stderr")


class _Messages:
    """stderr as it is, but what cannot be said does not end the work: its reader left, or the log's disk is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # What waits in the buffer would fail again when Python ends.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_streams() -> None:
    """Open what was closed (`2>&-`, pythonw) on the null device, and let messages fail without ending the work.

    Else the first file that is opened gets the number of stderr, and libraries write their messages into it.
    """
    for number, name in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8", errors="backslashreplace"))
    if not isinstance(sys.stderr, _Messages):
        sys.stderr = cast(TextIO, _Messages(sys.stderr))
