"""Views of crops with the teachers' answers to them: made once, kept in a folder, learned from for many epochs.

The teachers see the very view that the network will see, at their own size. So a view may be anything that they
have an answer to: a cut-out, another garment, the upper half of one person on the lower half of another. More
different people, whom nobody needs to name, are what a student lacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from san_deploy.artefact import sha256_file
from san_deploy.datasets import Crop
from san_deploy.errors import SanError
from san_deploy.io.atomic import atomic_file, atomic_folder
from san_deploy.io.typed_json import read_record
from san_deploy.preprocess import resize_crop

from ..loader.images import CropCache, PixelFile
from .personas import Cast, Persona
from .settings import ViewSettings
from .teacher import GRIDS, Answers, Teacher

#: Views are kept at the height of the crop, this at most: what no network of ours needs is not worth the disk.
_TALLEST = 208
#: Maps are kept with so many channels, by level, the last map first.
_CHANNELS = (128, 64, 32)
_CHUNK = 64
#: The largest number of a map that is kept; what lies beyond half precision is as large as that.
_HALF = float(np.finfo(np.float16).max)
_INDEX, _PIXELS, _NOTE = "views.npz", "pixels.bin", "views.json"
_FILES = (_INDEX, _PIXELS, _NOTE, "map0.npy", "map1.npy", "map2.npy")


@dataclass(frozen=True, eq=False)
class TaughtViews:
    """Views and what the teachers said of them.

    Attributes:
        folder: where the pixels lie.
        crop: `(N,)` the crop that each is of: an index into the crops that it was chosen for.
        first: `(N,)` bool, whether it is the crop as it is, or flipped.
        persona: `(N,)` whom it shows, a number: views of one persona show the same clothes, by whichever camera.
        rows: `(N, D)` float32 for each teacher, unit rows.
        maps: of the first teacher, the last map first, `(N, C, h, w)` float16 each; on disk.
        index: `(N,)` places in the folder.
        told: what made them, in words.
        images: by number, read-only.
        settings: by which they were drawn.
    """

    folder: Path
    crop: np.ndarray
    first: np.ndarray
    persona: np.ndarray
    rows: tuple[np.ndarray, ...]
    maps: tuple[np.ndarray, ...]
    index: np.ndarray
    told: str
    images: PixelFile
    settings: ViewSettings

    def __len__(self) -> int:
        return len(self.index)

    def image(self, number: int) -> np.ndarray:
        """`(H, W, 3)` uint8 BGR of one view; read-only."""
        return self.images[number]


def make_views(
    crops: Sequence[Crop],
    domain: Sequence[int],
    teachers: Sequence[Teacher],
    folder: Path,
    *,
    settings: ViewSettings,
    seed: int,
    workers: int = 2,
    progress: Callable[[int], Any] = lambda count: None,
) -> None:
    """Draw views of crops, ask the teachers, and write a folder of them that appears whole.

    Each view has a generator of its own, seeded by (seed, crop, view): it does not depend on the others. What it
    wears is drawn for a persona (`personas.Cast`): the same halves and the same garments before every camera.

    Args:
        crops: of every person whom a network may learn from; `open_views` leaves out those that it may not. The
            crops of one person are one persona; who has no name is one by each tracklet.
        domain: `(N,)` the data set that each is from. Composites stay within a data set and a camera.
        teachers: one or more.
        folder: to write; replaced where it is one of ours.
        settings: of the views.
        seed: of all draws.
        workers: threads that draw.
        progress: called with the number of views that are done since the last call.

    Raises:
        SanError: a crop cannot be read, a teacher's answer is not finite, the disk is full.
    """
    cache = CropCache([crop.path for crop in crops])
    cast = Cast(crops, domain, settings, seed)
    jobs = [(number, crop) for number in range(settings.each) for crop in range(len(crops))]

    def draw(job: tuple[int, int]) -> tuple[np.ndarray, int, Persona]:
        return _draw(job, cache, cast, settings, seed)

    with atomic_folder(folder, force=True, ours=_FILES) as temporary, ThreadPoolExecutor(workers) as pool:
        stored = _write(temporary, _chunks(jobs, draw, pool), len(jobs), teachers, progress)
        np.savez(
            temporary / _INDEX,
            source=np.array([_key(crop) for crop in crops]),
            crop=np.array([crop for _, crop in jobs], np.int64),
            first=np.array([number == 0 for number, _ in jobs]),
            **stored,
        )
        note = {
            "teachers": [teacher.name for teacher in teachers],
            "seed": seed,
            "settings": asdict(settings),
            "sha256": {path.name: sha256_file(path) for path in sorted(temporary.iterdir())},
        }
        with atomic_file(temporary / _NOTE) as file:
            file.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _write(
    folder: Path,
    chunks: Iterable[list[tuple[np.ndarray, int, Persona]]],
    count: int,
    teachers: Sequence[Teacher],
    progress: Callable[[int], Any],
) -> dict[str, Any]:
    """Write the pixels of `count` views and the maps that the first teacher saw there.

    Returns:
        What the index says of each view, by the name that it has there; `rows0` and on are the teachers' unit rows.
    """
    offsets, shapes, other, shown = [], [], [], []
    rows: list[list[np.ndarray]] = [[] for _ in teachers]
    maps: list[BinaryIO] = []
    end = 0
    with ExitStack() as files:
        pixels = files.enter_context((folder / _PIXELS).open("wb"))
        for drawn in chunks:
            images = [image for image, _, _ in drawn]
            # One after the other: OpenVINO 2026.4 locked up when two Python threads inferred at once.
            answers = [teacher(images) for teacher in teachers]
            for kept, answer in zip(rows, answers, strict=True):
                norm = np.linalg.norm(answer.rows, axis=1, keepdims=True)
                kept.append(answer.rows / np.maximum(norm, 1e-12))
            small = _reduced(answers[0])
            if not maps:
                maps = [
                    files.enter_context(_map_file(folder / f"map{level}.npy", (count, *part.shape[1:])))
                    for level, part in enumerate(small)
                ]
            for whole, part in zip(maps, small, strict=True):
                whole.write(np.clip(part, -_HALF, _HALF).astype(np.float16).tobytes())
            for image, partner, persona in drawn:
                pixels.write(np.ascontiguousarray(image).tobytes())
                offsets.append(end)
                end += image.nbytes
                shapes.append(image.shape[:2])
                other.append(partner)
                shown.append(persona)
            progress(len(images))
    return {
        "other": np.array(other, np.int64),
        "persona": np.unique([persona.name for persona in shown], return_inverse=True)[1].reshape(-1),
        "offset": np.array(offsets, np.int64),
        "shape": np.array(shapes, np.int64).reshape(-1, 2),
        "maps": np.int64(len(maps)),
        **{f"rows{number}": np.concatenate(part) for number, part in enumerate(rows)},
    }


def open_views(folder: Path, crops: Sequence[Crop]) -> TaughtViews:
    """The views of `crops` that a folder holds, and no others.

    A view is taken only where every crop that it was made of is among `crops`, so that views made once of all
    people serve many runs, each of which holds other people out.

    Raises:
        SanError: no such folder, a damaged one, or no view of these crops in it.
    """
    folder = Path(folder)
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        for path in sorted(folder.iterdir()):
            # Every byte of gigabytes: a few seconds, before hours of learning from what may be damaged.
            if (
                path.name in _FILES
                and path.name != _NOTE
                and sha256_file(path) != note["sha256"].get(path.name)
            ):
                raise ValueError(f"{path.name} is not what was written with {_NOTE}")
        with np.load(folder / _INDEX) as stored:
            data = {name: stored[name] for name in stored.files}
        maps = [np.load(folder / f"map{level}.npy", mmap_mode="r") for level in range(int(data["maps"]))]
        rows = [data[f"rows{number}"] for number in range(len(note["teachers"]))]
        told = ", ".join(note["teachers"])
        settings = read_record(ViewSettings, note["settings"])
        _check_whole(data, rows, maps, (folder / _PIXELS).stat().st_size)
    except Exception as error:  # zipfile, zlib, NumPy and what a malformed file leads to
        raise SanError(
            f"{folder} holds no whole views",
            why=str(error).split("\n")[0],
            do="have them made again: --teacher FILE",
        ) from error
    place = {_key(crop): number for number, crop in enumerate(crops)}
    here = np.array([place.get(key, -1) for key in data["source"].tolist()], np.int64)
    index = np.flatnonzero((here[data["crop"]] >= 0) & (here[data["other"]] >= 0))
    if not len(index):
        raise SanError(f"{folder} holds no view of these crops", do="have them made again: --teacher FILE")
    return TaughtViews(
        folder=folder,
        crop=here[data["crop"][index]],
        first=data["first"][index],
        persona=data["persona"][index],
        rows=tuple(part[index] for part in rows),
        maps=tuple(maps),
        index=index,
        told=told,
        settings=settings,
        images=PixelFile(folder / _PIXELS, data["offset"][index], data["shape"][index]),
    )


def _check_whole(
    data: Mapping[str, np.ndarray], rows: Sequence[np.ndarray], maps: Sequence[np.ndarray], size: int
) -> None:
    """Refuse what does not fit together, before an index reads beyond an array; ValueError.

    Args:
        data: of the index.
        rows: of the teachers.
        maps: likewise.
        size: bytes of all pixels.
    """
    if not rows:
        raise ValueError("no teacher answered")
    count, sources = len(data["crop"]), len(data["source"])
    each = [data[name] for name in ("crop", "other", "first", "persona", "offset", "shape")]
    if any(len(part) != count for part in (*each, *rows, *maps)):
        raise ValueError("its arrays are of different lengths")
    if data["shape"].shape != (count, 2) or any(part.ndim != 1 for part in each[:-1]):
        raise ValueError("its arrays have other shapes")
    for name in ("crop", "other"):
        if data[name].dtype != np.int64 or not ((data[name] >= 0) & (data[name] < sources)).all():
            raise ValueError(f"a view is of no crop: {name}")
    # In floats: a product of damaged numbers does not wrap round.
    ends = data["offset"] + 3.0 * data["shape"][:, 0] * data["shape"][:, 1]
    if not ((data["offset"] >= 0) & (data["shape"].min(axis=1, initial=1) >= 1) & (ends <= size)).all():
        raise ValueError("a view lies outside the pixels")
    if not all(np.isfinite(part).all() for part in rows):
        raise ValueError("an answer is not finite")


def is_views(folder: Path) -> bool:
    """Whether a folder holds views of ours."""
    return (Path(folder) / _NOTE).is_file() and (Path(folder) / _INDEX).is_file()


def _key(crop: Crop) -> str:
    """What a crop is known by, wherever it lies and whatever it is called: a data set may move between machines."""
    return sha256_file(crop.path)


def _map_file(path: Path, shape: tuple[int, ...]) -> BinaryIO:
    """A .npy file of float16 with its header; to be written, not mapped: a full disk kills a process that maps."""
    file = path.open("wb")
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return file


def _chunks(
    jobs: list[tuple[int, int]], draw: Callable[[tuple[int, int]], Any], pool: ThreadPoolExecutor
) -> Iterator[list[tuple[np.ndarray, int, Persona]]]:
    """Chunks of drawn views; the next one is drawn while the teachers look at this one."""
    following = pool.map(draw, jobs[:_CHUNK])
    for start in range(0, len(jobs), _CHUNK):
        drawn = list(following)
        following = pool.map(draw, jobs[start + _CHUNK : start + 2 * _CHUNK])
        yield drawn


def _draw(
    job: tuple[int, int], cache: CropCache, cast: Cast, settings: ViewSettings, seed: int
) -> tuple[np.ndarray, int, Persona]:
    """One view, the other crop in it (itself where there is none), and whom it shows."""
    number, crop = job
    rng = np.random.default_rng([seed, number, crop, 5])
    image, other, persona = cache[crop], crop, cast.persona(number, crop)
    if number:
        if persona.partner is not None:
            other = cast.crop_of(persona.partner, crop, rng)
            halves = (image, cache[other]) if persona.above else (cache[other], image)
            image = composite(*halves, rng)
        if persona.garments is not None:
            image = other_garments(image, np.random.default_rng(persona.garments))
        image = _cut_out(image, settings.area, rng)
    if rng.random() < settings.flip:
        image = image[:, ::-1]
    if image.shape[0] > _TALLEST:
        width = max(1, round(image.shape[1] * _TALLEST / image.shape[0]))
        image = resize_crop(np.ascontiguousarray(image), (_TALLEST, width))
    return np.ascontiguousarray(image), other, persona


def composite(upper: np.ndarray, lower: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The upper half of one crop above the lower half of another, with a soft seam near the belt.

    Args:
        upper: `(H, W, 3)` uint8; the result has its size.
        lower: `(H', W', 3)` uint8.
        rng: of the seam.
    """
    height, width = upper.shape[:2]
    below = resize_crop(np.ascontiguousarray(lower), (height, width))
    share = _seam(height, rng.uniform(0.42, 0.58), rng.uniform(0.008, 0.03))[:, None, None]
    mixed = upper * share + below * (1 - share)
    return np.clip(mixed + np.float32(0.5), 0, 255).astype(np.uint8)


def other_garments(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The person in clothes of other colours: hue, saturation and lightness of what is above and below the belt.

    Args:
        image: `(H, W, 3)` uint8 BGR.
        rng: of the colours; each garment keeps its own in two of five draws.
    """
    height, width = image.shape[:2]
    up = _seam(height, rng.uniform(0.42, 0.56), 0.02)
    below_chin = 1 - _seam(height, 0.17, 0.02)
    x = (np.arange(width, dtype=np.float32) - width / 2) / (width * np.float32(rng.uniform(0.3, 0.6)))
    middle = np.exp(-(x**4))
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(image[:, :, ::-1])).convert("HSV"), np.float32)
    result = image.astype(np.float32)
    for part in (up * below_chin, 1 - up):
        if rng.random() >= 0.6:
            continue
        hue = (hsv[..., 0] + rng.uniform(0, 256)) % 256
        lift = rng.uniform(0, 90) * (rng.random() < 1 / 3)
        saturation = np.clip(hsv[..., 1] * np.exp(rng.uniform(-1.0, 1.1)) + lift, 0, 255)
        value = 255 * (hsv[..., 2] / 255) ** np.exp(rng.uniform(-0.8, 0.8))
        turned = Image.fromarray(np.stack([hue, saturation, value], 2).astype(np.uint8), "HSV").convert("RGB")
        share = (part[:, None] * middle[None, :])[..., None]
        result = result * (1 - share) + np.asarray(turned, np.float32)[:, :, ::-1] * share
    return np.clip(result + np.float32(0.5), 0, 255).astype(np.uint8)


def _seam(height: int, at: float, softness: float) -> np.ndarray:
    """`(height,)` float32, 1 above the part `at` of the height and 0 below it."""
    y = (np.arange(height, dtype=np.float32) / max(1, height) - np.float32(at)) / np.float32(softness)
    return (1 / (1 + np.exp(np.clip(y, -60, 60)))).astype(np.float32)


def _cut_out(image: np.ndarray, area: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A part of the crop, of about its own shape."""
    height, width = image.shape[:2]
    for _ in range(10):
        size, stretch = height * width * rng.uniform(*area), np.exp(rng.uniform(-0.2, 0.2))
        h, w = (
            round((size * height / width * stretch) ** 0.5),
            round((size * width / height / stretch) ** 0.5),
        )
        if 0 < h <= height and 0 < w <= width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return image[top : top + h, left : left + w]
    return image


def _reduced(answer: Answers) -> list[np.ndarray]:
    """Maps at the size and with the channels that are kept, `(N, C, h, w)` float32.

    Channels are mixed by a fixed random orthonormal matrix: it looks at no crop, so that nothing of people who
    are held out gets into what the others are learned with.
    """
    found = []
    for level, values in enumerate(answer.maps):
        pooled = _pooled(values, GRIDS[level])
        channels = pooled.shape[1]
        if channels > _CHANNELS[level]:
            mixer = np.random.default_rng([level, channels]).standard_normal((channels, _CHANNELS[level]))
            orthonormal = np.linalg.qr(mixer)[0].astype(np.float32)
            pooled = np.einsum("nchw,cd->ndhw", pooled, orthonormal, optimize=True)
        found.append(pooled)
    return found


def _pooled(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Means over equal blocks, down to `grid` where the size is a multiple of it; else as it is."""
    count, channels, height, width = values.shape
    down, across = height // grid[0], width // grid[1]
    if height % grid[0] or width % grid[1] or down * across <= 1:
        return values
    return values.reshape(count, channels, grid[0], down, grid[1], across).mean((3, 5), dtype=np.float32)
