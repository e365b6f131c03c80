"""How a data set is to be read, where its folder alone does not say it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from ..errors import UsageError
from .records import Dataset


@dataclass(frozen=True)
class Options:
    """EvalConfig of the user. The defaults choose nothing.

    Attributes:
        layout: a name of `READERS`, where the folder is not to be recognised by what it holds.
        pattern: form of file names that carry labels, see `pattern.compile_pattern`; any folder can be read by one.
        no_camera: every crop counts as a camera of its own, so that nothing but the crop itself is left out.
        distractors: add Market-1501's 500k distractors to the gallery.
        boxes: CUHK03's boxes: `labelled` (by hand) or `detected`.
        protocol: CUHK03's: `old` (100 people to test on, 20 test sets) or `new` (767 / 700 people).
        testset: which of the test sets of CUHK03's old protocol, from 1; 0 takes the first.
        cache: folder where CUHK03's crops are extracted to, if not beside the .mat file.
    """

    layout: str = ""
    pattern: str = ""
    no_camera: bool = False
    distractors: bool = False
    boxes: str = ""
    protocol: str = ""
    testset: int = 0
    cache: Path | None = None


#: Options that go with every layout.
_GENERAL = {"layout", "no_camera"}


class Reader(Protocol):
    """A module that reads one layout.

    Attributes:
        LAYOUT: the expected folder tree in one line.
        OPTIONS: fields of `Options` that it takes, beside those that go with every layout.
        INSIDE: names that its folder has in the published archive; the folder around it may be given too.
    """

    LAYOUT: str
    OPTIONS: frozenset[str]
    INSIDE: tuple[str, ...]

    def matches(self, root: Path) -> bool:
        """Whether `root` looks like this layout. Cheap: one folder is listed at most, and no image opened."""

    def read(self, root: Path, options: Options) -> Dataset:
        """Read it. Crops are in a fixed order; no image is opened."""


def refuse_unused(options: Options, reader: Reader) -> None:
    """Raise UsageError for an option that was given and that `reader` would ignore."""
    for field in fields(options):
        given = getattr(options, field.name) != field.default
        if given and field.name not in _GENERAL | reader.OPTIONS:
            raise UsageError(
                f"--{field.name} does not go with this data set", why=f"it was read as {reader.LAYOUT}"
            )
