"""Reading crops from untrusted files: a closed list of formats, a limit on pixels, one layout for all."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from .errors import SanError
from .io.paths import StrPath

#: File name endings that are taken for crops.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
#: Only these decoders ever see a file, so that a `.jpg` cannot start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
#: A person crop has well under a million pixels; the limit stops decompression bombs before decoding.
MAX_PIXELS = 32_000_000


class UnreadableImage(SanError):
    """A file that gives no crop. Callers count it and go on, or stop when the user asked for --strict."""


# What Pillow warns of, a bomb above its limit or a cut TIFF, is refused here with a message of its own.
# Silenced once: around each call, several threads would change and restore a global list at a time.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode one image file.

    Grey, palette, CMYK, RGBA (alpha is dropped) and 16-bit files are brought to 8-bit colour; EXIF
    orientation is applied, as OpenCV does.

    Returns:
        `(H, W, 3)` uint8, BGR, C-contiguous, owned by the caller.

    Raises:
        UnreadableImage: missing, not an image, truncated, or of more than `max_pixels` pixels.
    """
    return np.ascontiguousarray(np.asarray(open_rgb(path, max_pixels=max_pixels))[:, :, ::-1])


def open_rgb(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`read_image` as a decoded Pillow image in RGB, for those who go on with Pillow.

    Raises:
        UnreadableImage: as `read_image`.
    """
    try:
        # Opening a pipe or a device would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnreadableImage(f"{path} is not a file")
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImage(
                    f"{path} has {width} x {height} pixels", why=f"the limit is {max_pixels} in all"
                )
            ImageOps.exif_transpose(image, in_place=True)
            rgb = _to_rgb(image)
            rgb.load()
            return rgb
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: Pillow's own conversion clips at 255 and would give a white picture.
        grey = np.asarray(image).astype(np.float32)
        if not np.isfinite(grey).all():
            raise ValueError("it holds NaN or infinity")
        top = 65535.0 if image.mode.startswith("I") else max(float(grey.max(initial=0.0)), 1.0)
        image = Image.fromarray(np.clip(grey * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def list_crops(folder: StrPath) -> Iterator[Path]:
    """Yield the image files below `folder`, as paths relative to it, in sorted order.

    Hidden names are skipped. Links to folders are followed, but not round in circles.

    Raises:
        SanError: `folder` is missing, is no folder, or holds no image file; a folder in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise SanError(f"{folder} {what}", do="give a folder of crops, one sub-folder per tracklet")
    found = False
    for crop in _walk(folder, Path(), ()):
        found = True
        yield crop
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise SanError(f"{folder} holds no image", do=f"give a folder of crops ({kinds})")


def _walk(root: Path, below: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Files of `root / below`, then its folders. `above` are the folders on the way, against circles."""
    try:
        here = os.stat(root / below)
        if (here.st_dev, here.st_ino) in above:
            return
        with os.scandir(root / below) as entries:
            names = sorted((entry.is_dir(), entry.name) for entry in entries if entry.name[0] != ".")
    except OSError as error:
        # os.walk would leave the folder out without a word.
        raise SanError(f"cannot read folder {root / below}: {error.strerror or error}") from error
    for is_folder, name in names:
        if is_folder:
            yield from _walk(root, below / name, (*above, (here.st_dev, here.st_ino)))
        elif os.path.splitext(name)[1].lower() in SUFFIXES:
            yield below / name


def track_of(crop: Path) -> str:
    """The tracklet that a crop belongs to: its folder, or itself where it lies loose. `crop` is relative."""
    return crop.as_posix() if crop.parent == Path() else crop.parent.as_posix()
