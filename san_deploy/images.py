"""Reading crops from untrusted files: a closed list of formats, a limit on pixels, one layout for all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, _imaging

from .errors import SanError
from .io.paths import StrPath

#: File name endings that are taken for crops without a look inside. Those that are not read here are among them, so
#: that such a crop is reported and does not vanish.
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl"),
    }
)
#: Videos by their names: a camera is a folder of crops, which are cut out of one first.
_VIDEOS = frozenset({".mp4", ".mkv", ".avi", ".mov", ".m4v", ".webm"})
#: Files of ours that lie beside crops.
_BESIDE = frozenset({"identities.csv", "tracks.csv", "crops.json"})
#: How the formats begin, with their place in the file; for files of other names.
_SIGNATURES = (
    (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"II*\0"),
    (0, b"MM\0*"),
    (8, b"WEBP"),
    (4, b"ftypheic"),
    (4, b"ftypavif"),
    (0, b"GIF8"),
)
#: Only these decoders ever see a file, so that a `.jpg` cannot start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
#: A person crop has well under a million pixels; the limit stops decompression bombs before decoding.
MAX_PIXELS = 32_000_000


#: Files up to so many bytes are read at once.
_WHOLE = 1 << 26
_Item = TypeVar("_Item")


class UnreadableImage(SanError):
    """A file that gives no crop. Callers count it and go on, or stop when the user asked for --strict."""


# What Pillow warns of, a bomb above its limit or a cut TIFF, is refused here with a message of its own.
# Silenced once: around each call, several threads would change and restore a global list at a time.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# libtiff prints what it finds on stderr, hundreds of lines that name no file; what Pillow makes of it, it raises.
# Where libtiff is no library of its own, it cannot be silenced.
with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def read_image(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode one image file.

    Grey, palette, CMYK, RGBA (alpha is dropped) and 16-bit files are brought to 8-bit colour; EXIF
    orientation is applied, as OpenCV does.

    Returns:
        `(H, W, 3)` uint8, BGR, C-contiguous, owned by the caller.

    Raises:
        UnreadableImage: missing, not an image, truncated, or of more than `max_pixels` pixels.
    """
    image = decode(path, max_pixels=max_pixels)
    return image if isinstance(image, np.ndarray) else np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def decode(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8] | Image.Image:
    """`read_image` in the layout that comes out of the decoder: what goes on is spared a copy.

    Ordinary JPEGs are decoded by simplejpeg, twice as fast as Pillow with the same pixels (both are libjpeg-turbo, and
    a test holds them together); all else, and what simplejpeg refuses, by Pillow.

    Returns:
        `(H, W, 3)` uint8 BGR, C-contiguous, or a Pillow image in RGB.

    Raises:
        UnreadableImage: as `read_image`.
    """
    with _unreadable(path, max_pixels):
        status = os.stat(path)
        # Opening a pipe or a device would wait for ever.
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(f"{path} is not a file")
        if status.st_size <= _WHOLE:
            with open(path, "rb") as file:
                data = file.read()
            return _decode_bytes(data, path, max_pixels)
        return _decode_pillow(path, path, max_pixels)


def read_image_bytes(
    data: bytes, name: str = "the image", *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """`read_image` of a file's content, as a server receives it.

    Args:
        data: the content.
        name: for messages.
        max_pixels: as there.

    Raises:
        UnreadableImage: as `read_image`.
    """
    with _unreadable(name, max_pixels):
        image = _decode_bytes(data, name, max_pixels)
        return image if isinstance(image, np.ndarray) else np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


@contextlib.contextmanager
def _unreadable(path: StrPath, max_pixels: int) -> Iterator[None]:
    """What goes wrong while an image is decoded, as one kind of error that names it."""
    try:
        yield
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(f"{path} does not exist") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        why = f"the limit is {max_pixels} pixels"
        raise UnreadableImage(f"{path} is too large to be a crop", why=why) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = "the file is not an image, or not in a format read here"
        if not isinstance(error, Image.UnidentifiedImageError):
            reason = str(error) or type(error).__name__
        raise UnreadableImage(f"{path} cannot be read", why=reason) from error


def _decode_bytes(data: bytes, path: StrPath, max_pixels: int) -> npt.NDArray[np.uint8] | Image.Image:
    bgr = _decode_jpeg(data, max_pixels)
    return bgr if bgr is not None else _decode_pillow(path, BytesIO(data), max_pixels)


def _decode_jpeg(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    """The pixels of an ordinary JPEG; None for any other file, which is Pillow's to decode or to refuse."""
    # A picture that a camera turned says so in its EXIF or XMP data.
    if data[:3] != b"\xff\xd8\xff" or b"Exif" in data or b"rientation" in data:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray") or height * width > max_pixels:
            return None
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "BGR")
    except ValueError:
        # Also what libjpeg merely warns of: Pillow decides.
        return None
    return pixels


def _decode_pillow(path: StrPath, source: StrPath | BytesIO, max_pixels: int) -> Image.Image:
    with Image.open(source, formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnreadableImage(
                f"{path} has {width} x {height} pixels", why=f"the limit is {max_pixels} in all"
            )
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
        rgb.load()
        return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: Pillow's own conversion clips at 255 and would give a white picture.
        grey = np.asarray(image).astype(np.float32)
        if not np.isfinite(grey).all():
            raise ValueError("it holds NaN or infinity")
        top = 65535.0 if image.mode.startswith("I") else max(float(grey.max(initial=0.0)), 1.0)
        image = Image.fromarray(np.clip(grey * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def list_crops(folder: StrPath, *, per_track: int | None = None) -> Iterator[Path]:
    """Yield the image files below `folder`, as paths relative to it, in sorted order.

    Hidden names are skipped. Links to folders are followed, but not round in circles.

    Args:
        folder: one folder per tracklet, or loose crops, each its own tracklet.
        per_track: crops of a tracklet at most, spread evenly over it; None gives all.

    Raises:
        SanError: `folder` is missing, is no folder, or holds no image file; a folder in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        do = "give a folder of crops, one sub-folder per tracklet"
        if folder.suffix.lower() in _VIDEOS:
            do = "cut the people out of the video first, by your tracker's boxes: san crops --help"
        raise SanError(f"{folder} {what}", do=do)
    found = False
    crops = _walk(folder, Path(), ())
    if per_track is not None:
        crops = (crop for _, track in groupby(crops, track_of) for crop in spread(list(track), per_track))
    for crop in crops:
        found = True
        yield crop
    if not found:
        kinds = "JPEG, PNG, WebP, BMP, TIFF, PPM"
        raise SanError(f"{folder} holds no image", do=f"give a folder of crops ({kinds})")


def left_out(folder: StrPath) -> list[str]:
    """What `list_crops` passes over, relative to `folder`: files that are no images, and empty folders, `t9/`."""
    skipped: list[str] = []
    for _ in _walk(Path(folder), Path(), (), skipped):
        pass
    return skipped


def _walk(
    root: Path, below: Path, above: tuple[tuple[int, int], ...], skipped: list[str] | None = None
) -> Iterator[Path]:
    """Files of `root / below`, then its folders. `above` are the folders on the way, against circles."""
    try:
        here = os.stat(root / below)
        if (here.st_dev, here.st_ino) in above:
            return
        with os.scandir(root / below) as entries:
            names = sorted((_is_folder(entry), entry.name) for entry in entries if entry.name[0] != ".")
    except FileNotFoundError as error:
        if below == Path():
            raise SanError(f"{root} does not exist any more") from error
        # Removed since it was listed: reading it reports that, and the rest goes on.
        yield below
        return
    except OSError as error:
        # os.walk would leave the folder out without a word.
        raise SanError(f"cannot read folder {root / below}: {error.strerror or error}") from error
    if skipped is not None and not names and below != Path():
        skipped.append(f"{below.as_posix()}/")
    for is_folder, name in names:
        if is_folder:
            yield from _walk(root, below / name, (*above, (here.st_dev, here.st_ino)), skipped)
        elif is_image(root / below / name):
            yield below / name
        elif skipped is not None and name not in _BESIDE:
            skipped.append((below / name).as_posix())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_image(path: StrPath) -> bool:
    """Whether a file is taken for a crop: by the ending of its name, or where that says nothing by how it begins."""
    name = os.fspath(path)
    if os.path.splitext(name)[1].lower() in SUFFIXES:
        return True
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):
            return False
        with open(name, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return any(start[place : place + len(text)] == text for place, text in _SIGNATURES)


def track_of(crop: Path) -> str:
    """The tracklet that a crop belongs to: its folder, or itself where it lies loose. `crop` is relative."""
    return crop.as_posix() if crop.parent == Path() else crop.parent.as_posix()


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` of the items, evenly spread, first and last among them; the middle one where one is wanted."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]
