"""The one progress bar: on stderr, and only where somebody watches."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Progress:
    """A callable that moves a progress bar on; as a context manager it also puts the bar away.

    Example:
        with bar(len(crops), "embedding", "crop") as advance:
            advance(32)
    """

    def __init__(self, total: int | None, label: str, unit: str, *, quiet: bool = False) -> None:
        # A log file or a pipe gets no bar: carriage returns would make one long line of it.
        disable = quiet or not sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=label,
            unit=" " + unit,
            file=sys.stderr,
            disable=disable,
            leave=False,
            dynamic_ncols=True,
        )

    def __call__(self, count: int) -> None:
        """`count` more are done."""
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def bar(total: int | None, label: str, unit: str, *, quiet: bool = False) -> Progress:
    """A progress bar on stderr; silent where stderr is no terminal, or `quiet`.

    Args:
        total: how many there are to do; None where nobody knows, which shows a count and a rate only.
        label: what is being done, for example `embedding`.
        unit: one of them, for example `crop`.
        quiet: show nothing.
    """
    return Progress(total, label, unit, quiet=quiet)
