"""The public API: a model that embeds arrays, files and a tracker's boxes, and matching of cameras."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from .artefact import Artefact
from .backends import Backend, open_backend
from .errors import SanError, UsageError
from .io.cpu import usable_cores
from .io.paths import StrPath
from .io.prefetch import in_order, threads
from .preprocess import read_crop, resize_crop

if TYPE_CHECKING:
    from .embed import Embeddings
    from .matching.match import Matching

Images = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]
Boxes: TypeAlias = "npt.ArrayLike | Sequence[Sequence[float]]"


class Embedder:
    """A model that is open, and embeds what it is given.

    May be called from several threads at once. What was asked for is what runs: no backend, device or precision is
    replaced by another.

    Args:
        model: an .onnx file, a TensorRT plan with its sidecar, a checkpoint, or an open `Backend`; None takes the
            starter model that ships in the package.
        backend: a runtime by name; `auto` takes the one for the file.
        device: `cpu`, `cuda` or `cuda:1`; `auto` takes a GPU where there is one that the backend can use.
        num_threads: of the runtime on the CPU; None takes one for each core.
        mask: of a checkpoint; every other file has its own.
        batch: crops per call of the network, at most.

    Attributes:
        backend: the open model.
        batch: crops per call of the network, at most.

    Raises:
        UsageError: options that do not fit the file or each other.
        SanError: the model or the device is not there, or does not run.

    Example:
        >>> embedder = Embedder()
        >>> embedder(np.zeros((3, 128, 64, 3), np.uint8)).shape
        (3, 128)
    """

    def __init__(
        self,
        model: StrPath | Backend | None = None,
        *,
        backend: str = "auto",
        device: str = "auto",
        num_threads: int | None = None,
        mask: str | None = None,
        batch: int = 32,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch is at least 1; received {batch}")
        self.batch = batch
        self.backend: Backend = (
            open_backend(model, backend=backend, device=device, threads=num_threads, mask=mask)
            if model is None or isinstance(model, (str, os.PathLike))
            else model
        )

    @property
    def artefact(self) -> Artefact:
        """What the model is: size, mask, precision, threshold, checksums."""
        return self.backend.artefact

    @property
    def name(self) -> str:
        """What runs it, to print: `onnxruntime (CPU, 2 threads)`."""
        return self.backend.name

    @property
    def note(self) -> str:
        """What to know of how it runs here, to print; empty for nothing."""
        return self.backend.note

    @property
    def embedding_dim(self) -> int:
        """Length D of an embedding."""
        return self.artefact.embedding_dim

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width that crops are resized to, pixels."""
        return self.artefact.size_hw

    def __call__(self, crops: Images | Sequence[Images]) -> Rows:
        """Embed crops.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR, or N arrays `(H, W, 3)` uint8 BGR of any sizes; they are resized as in
                training where they do not have the network's size. N may be 0.

        Returns:
            `(N, D)` float32, rows of norm 1 in the order of `crops`; a new array.

        Raises:
            SanError: crops of another type or shape, or the runtime fails.
        """
        if isinstance(crops, np.ndarray) and crops.shape[1:] == (*self.size_hw, 3):
            return self._run(crops[start : start + self.batch] for start in range(0, len(crops), self.batch))
        return self._run(self._batches(self._resized(crop) for crop in crops))

    def embed_paths(self, paths: Iterable[StrPath], *, workers: int | None = None) -> Rows:
        """Embed image files, which threads decode ahead of the network.

        Args:
            paths: N image files.
            workers: threads that decode; None takes one for each core.

        Returns:
            `(N, D)` float32, rows of norm 1 in the order of `paths`.

        Raises:
            UnreadableImage: a file gives no crop; the message names it.
            SanError: the runtime fails.
        """
        count = usable_cores() if workers is None else workers
        if count < 1:
            raise UsageError(f"workers is at least 1; received {workers}")

        def read(path: StrPath) -> Images:
            return read_crop(path, self.size_hw, self.artefact.resize)

        with threads(count, "san-decode") as pool:
            return self._run(self._batches(in_order(pool, read, paths, ahead=2 * self.batch + count)))

    @overload
    def embed_boxes(
        self, frame_bgr: Images, boxes_xyxy: Boxes, *, empty: Literal["refuse"] = "refuse"
    ) -> Rows: ...

    @overload
    def embed_boxes(
        self, frame_bgr: Images, boxes_xyxy: Boxes, *, empty: Literal["mask"]
    ) -> tuple[Rows, npt.NDArray[np.bool_]]: ...

    def embed_boxes(
        self, frame_bgr: Images, boxes_xyxy: Boxes, *, empty: Literal["refuse", "mask"] = "refuse"
    ) -> Rows | tuple[Rows, npt.NDArray[np.bool_]]:
        """Embed the people in a frame, for a tracker's loop.

        Args:
            frame_bgr: `(H, W, 3)` uint8 BGR, as OpenCV delivers it.
            boxes_xyxy: `(N, 4)`, left, top, right and bottom in pixels, whole or not. Each is widened to whole pixels
                and clipped to the frame.
            empty: what to do with a box that has no pixel in the frame: `refuse` raises, `mask` leaves it out.

        Returns:
            `(N, D)` float32 rows of norm 1; with `mask` the rows of the K boxes that are not empty, `(K, D)`, and
            which those are, `(N,)` bool.

        Raises:
            UsageError: another shape or type, a coordinate that is not finite, or an empty box with `refuse`.
            SanError: the runtime fails.
        """
        if empty not in ("refuse", "mask"):
            raise UsageError(f"empty is 'refuse' or 'mask'; received {empty!r}")
        pixels = clip_boxes(boxes_xyxy, frame_bgr)
        kept = (pixels[:, 2] > pixels[:, 0]) & (pixels[:, 3] > pixels[:, 1])
        if empty == "refuse" and not kept.all():
            first = int(np.flatnonzero(~kept)[0])
            height, width = frame_bgr.shape[:2]
            raise UsageError(
                f"{int((~kept).sum())} of {len(kept)} boxes have no pixel in the frame",
                why=f"the first is box {first}, {np.asarray(boxes_xyxy)[first].tolist()}, in {width} x {height}",
                do="leave them out, or give empty='mask'",
            )
        rows = self([frame_bgr[top:bottom, left:right] for left, top, right, bottom in pixels[kept].tolist()])
        return rows if empty == "refuse" else (rows, kept)

    def embed_folder(
        self,
        folder: StrPath,
        *,
        workers: int | None = None,
        strict: bool = False,
        progress: Callable[[int], Any] | None = None,
    ) -> Embeddings:
        """Embed every crop below a folder, as `san embed` does; see `san_deploy.embed.embed_folder`."""
        from .embed import embed_folder

        return embed_folder(
            Path(folder), self.backend, batch=self.batch, workers=workers, strict=strict, progress=progress
        )

    def _resized(self, crop: Images) -> Images:
        try:
            return resize_crop(crop, self.size_hw, self.artefact.resize)
        except (ValueError, AttributeError) as error:
            what = f"{crop.shape} {crop.dtype}" if isinstance(crop, np.ndarray) else type(crop).__name__
            raise UsageError(f"a crop is (H, W, 3) uint8 BGR; received {what}") from error

    def _batches(self, crops: Iterable[Images]) -> Iterator[Images]:
        iterator = iter(crops)
        while group := list(islice(iterator, self.batch)):
            yield np.stack(group)

    def _run(self, batches: Iterable[Images]) -> Rows:
        rows = [self.backend(batch) for batch in batches]
        return np.concatenate(rows) if rows else np.empty((0, self.embedding_dim), np.float32)


def clip_boxes(boxes_xyxy: Boxes, frame: Images) -> npt.NDArray[np.int64]:
    """Boxes widened to whole pixels and clipped to a frame, `(N, 4)` int64, right and bottom exclusive.

    Raises:
        UsageError: the boxes are not (N, 4) finite numbers, or the frame is not (H, W, 3) uint8.
    """
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        what = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UsageError(f"a frame is (H, W, 3) uint8 BGR; received {what}")
    try:
        boxes = np.asarray(boxes_xyxy, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError("boxes are (N, 4) numbers: left, top, right, bottom", why=str(error)) from error
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        what = f"{boxes.shape}" if boxes.ndim != 2 or boxes.shape[1] != 4 else "NaN or infinity"
        raise UsageError(f"boxes are (N, 4) finite numbers: left, top, right, bottom; received {what}")
    height, width = frame.shape[:2]
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    return np.clip(np.hstack([low, high]), 0, [width, height, width, height]).astype(np.int64)


def load_artefact(path: StrPath) -> Artefact:
    """What an ONNX file or a TensorRT plan of ours is, without running it.

    Raises:
        SanError: it is missing, damaged, not ours, or not the file that its sidecar describes.
    """
    from .backends import read_file

    found = read_file(Path(path))
    if found.artefact is None:
        raise SanError(
            f"{path} is a {found.kind}, which is no exported model", do="export it: san export CHECKPOINT"
        )
    return found.artefact


def match(
    cameras: Sequence[StrPath],
    model: StrPath | Embedder | None = None,
    *,
    threshold: float | None = None,
    top: int = 5,
    workers: int | None = None,
    strict: bool = False,
) -> Matching:
    """Embed the crops of every camera and match each pair of cameras, as `san match` does.

    Args:
        cameras: one folder per camera, each with one folder of crops per tracklet, or with loose crops.
        model: a model file or an `Embedder`; None takes the starter model.
        threshold: cosine similarity, -1..1, below which nothing matches; None takes the model's own.
        top: runners-up to keep for each tracklet.
        workers: threads that decode; None takes one for each core.
        strict: raise at the first unreadable crop instead of leaving it out.

    Raises:
        UsageError: fewer than two cameras, two of one name, or no threshold.
        SanError: a folder is missing, empty or wholly unreadable; the model fails.
    """
    from .matching.match import match_folders
    from .matching.sources import Reading

    embedder = model if isinstance(model, Embedder) else Embedder(model)
    return match_folders(
        [Path(camera) for camera in cameras],
        embedder.backend,
        threshold=threshold,
        top=top,
        reading=Reading(embedder.batch, workers, strict),
    )
