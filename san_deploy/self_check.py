"""Whether this machine gives the rows that the network gave where it was exported, for the sample crops of the package.

A file of ours carries those rows (`artefact.Samples`). Any backend, engine or server is held against them in a
second, without PyTorch; the decoder and the resize of this machine are part of what is tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .artefact import Artefact, Samples, pixels_sha256
from .errors import GateError, SanError
from .io.atomic import atomic_file
from .io.paths import cache_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Sample crops whose rows a file keeps.
COUNT = 12
#: Figures of row cosines, and how they are called.
_FIGURES = {
    "min_cosine": "least cosine",
    "p1_cosine": "1st percentile of the cosines",
    "mean_cosine": "mean cosine",
}
#: Beside a plan, or in the user's cache: what was checked on which device.
SUFFIX = ".checked.json"
_skipped: ContextVar[bool] = ContextVar("skipped", default=False)


class Embeds(Protocol):
    """What is checked: a `backends.Backend`, or whatever else embeds crops with a network of ours."""

    artefact: Artefact
    #: What runs it, the device included.
    name: str

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """`(N, H, W, 3)` uint8 BGR to `(N, D)` float32 rows of norm 1."""
        ...


class EmbedsFiles(Embeds, Protocol):
    """A model elsewhere (`backends.endpoint.Endpoint`), which may take image files and prepare them itself."""

    @property
    def takes_files(self) -> bool:
        """Whether it does."""
        ...

    def embed_files(self, files: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Image files to `(N, D)` float32."""
        ...


@dataclass(frozen=True)
class SelfCheck:
    """A backend's rows of the sample crops beside those of the network.

    Attributes:
        crops: how many.
        source: what gave the rows that are right: `torch fp32`.
        min_cosine: of a row with its own.
        p1_cosine: 1st percentile.
        mean_cosine: over the rows.
        same_nearest: crops whose most similar other crop is the same.
        same_pixels: whether this machine decodes and resizes the crops to the same pixels.
        allowance: what each figure must reach, by its name: the gate that the file passed when it was exported.
        failures: one phrase for each figure that does not.
    """

    crops: int
    source: str
    min_cosine: float
    p1_cosine: float
    mean_cosine: float
    same_nearest: int
    same_pixels: bool
    allowance: dict[str, float]
    failures: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What to print, a sentence a line."""
        rows = f"{self.crops} sample crops against {self.source}: cosine {self.min_cosine:.7f} at least"
        found = [
            f"{rows}, mean {self.mean_cosine:.7f}",
            f"the most similar other crop is the same for {self.same_nearest} of {self.crops}",
        ]
        if not self.same_pixels:
            found.append("this machine decodes or resizes the crops to slightly other pixels")
        wanted = ", ".join(f"{_FIGURES[name]} {value:g}" for name, value in self.allowance.items())
        found.append(
            "; ".join(self.failures)
            or (f"within the gate of the file: {wanted}" if wanted else "the file keeps no gate")
        )
        return found


def sample_crops(artefact: Artefact, count: int = COUNT) -> np.ndarray:
    """`(count, H, W, 3)` uint8 BGR, the sample crops as the network of `artefact` takes them.

    Raises:
        SanError: the installation lacks them.
    """
    import numpy as np

    from .data.samples import read_samples
    from .preprocess import resize_crop

    return np.stack(
        [resize_crop(sample.read(), artefact.size_hw, artefact.resize) for sample in read_samples(count)]
    )


def keep_samples(artefact: Artefact, embed: Callable[[np.ndarray], np.ndarray], *, source: str) -> Samples:
    """The rows that `embed`, which gives what is right, gives for the sample crops.

    Args:
        artefact: of the network.
        embed: `(N, H, W, 3)` uint8 BGR to `(N, D)`, of any length.
        source: what it is, in words.
    """
    import numpy as np

    crops = sample_crops(artefact)
    rows = _unit(np.asarray(embed(crops)))
    return Samples.of(crops, rows, files_sha256=_files_sha256(COUNT), source=source)


def _unit(rows: np.ndarray) -> np.ndarray:
    import numpy as np

    exact = rows.astype(np.float64)
    unit: np.ndarray = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return unit


def _files_sha256(count: int) -> str:
    from .data.samples import read_samples

    return hashlib.sha256(b"".join(sample.jpeg for sample in read_samples(count))).hexdigest()


def check(backend: Embeds) -> SelfCheck:
    """Run a backend on the sample crops.

    Raises:
        SanError: its file keeps no rows to compare with, or it fails.
    """
    samples = kept_samples(backend.artefact)
    crops = sample_crops(backend.artefact, samples.count)
    same_pixels = pixels_sha256(crops) == samples.crops_sha256
    return compare(backend.artefact, backend(crops), same_pixels=same_pixels)


def check_endpoint(endpoint: EmbedsFiles) -> SelfCheck:
    """Send the sample crops to a served model: prepared here, or as files where the server prepares them.

    Raises:
        SanError: the file keeps no rows to compare with, or the server fails.
    """
    from .data.samples import read_samples

    if not endpoint.takes_files:
        return check(endpoint)
    samples = kept_samples(endpoint.artefact)
    rows = endpoint.embed_files([sample.jpeg for sample in read_samples(samples.count)])
    return compare(endpoint.artefact, rows, same_pixels=True)


def kept_samples(artefact: Artefact) -> Samples:
    """The rows that a file keeps.

    Raises:
        SanError: it keeps none, or those of other sample crops.
    """
    samples = artefact.samples
    if samples is None:
        raise SanError(
            "the file keeps no rows of the sample crops",
            why="it is from before they were kept",
            do="export it again: san export CHECKPOINT",
        )
    if samples.files_sha256 != _files_sha256(samples.count):
        raise SanError(
            "the file keeps rows of other sample crops than this version of san-deploy ships",
            do="export it again: san export CHECKPOINT",
        )
    return samples


def compare(artefact: Artefact, found: np.ndarray, *, same_pixels: bool) -> SelfCheck:
    """Rows of the sample crops beside those that a file keeps.

    Args:
        artefact: of the file.
        found: `(N, D)`, in the order of the sample crops.
        same_pixels: whether the network was given the pixels that the kept rows are of, as far as is known here.
    """
    import numpy as np

    samples = kept_samples(artefact)
    rows, right = _unit(found), _unit(samples.array())
    cosine = np.minimum((rows * right).sum(axis=1), 1.0)
    figures = {
        "min_cosine": float(cosine.min()),
        "p1_cosine": float(np.percentile(cosine, 1)),
        "mean_cosine": float(cosine.mean()),
    }
    allowance = _allowance(artefact)
    return SelfCheck(
        crops=len(rows),
        source=samples.source,
        **figures,
        same_nearest=int((_nearest(rows) == _nearest(right)).sum()),
        same_pixels=same_pixels,
        allowance=allowance,
        failures=tuple(
            f"{_FIGURES[name]} is {figures[name]:.6f}, {least:g} is allowed"
            for name, least in allowance.items()
            if not figures[name] >= least
        ),
    )


def _allowance(artefact: Artefact) -> dict[str, float]:
    """The gate that the file passed: that of its own precision, where it has been changed."""
    checks = artefact.checks.get(artefact.precision, artefact.checks)
    gate = checks.get("gate") if isinstance(checks, dict) else None
    found = gate.items() if isinstance(gate, dict) else ()
    return {
        name: float(value) for name, value in found if name in _FIGURES and isinstance(value, (int, float))
    }


def _nearest(rows: np.ndarray) -> np.ndarray:
    import numpy as np

    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)


def check_once(backend: Embeds, path: Path) -> None:
    """Check an engine at its first load on a device, and keep that it passed.

    Raises:
        GateError: it gives other rows than the network did.
    """
    samples = backend.artefact.samples
    if _skipped.get() or samples is None or samples.files_sha256 != _files_sha256(samples.count):
        return
    key = f"{backend.artefact.sha256} on {backend.name}"
    places = [path.with_name(path.name + SUFFIX), cache_folder() / f"{path.name}{SUFFIX}"]
    if any(key in _read(place) for place in places):
        return
    found = check(backend)
    if found.failures:
        raise GateError(
            f"{path} gives other rows on this device than the network did: {'; '.join(found.failures)}",
            do="build the engine again here, or run it all the same: --no-self-check",
        )
    for place in places:
        try:
            _write(place, {**_read(place), key: found.as_dict()})
            return
        except (SanError, OSError):
            # A folder that cannot be written; the next load checks again where none can.
            continue


def _read(place: Path) -> dict[str, Any]:
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(place: Path, values: dict[str, Any]) -> None:
    if not os.access(place.parent, os.W_OK) and place.parent.exists():
        raise OSError
    with atomic_file(place) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def skipped() -> Iterator[None]:
    """Engines are not checked at their first load inside the block."""
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)
