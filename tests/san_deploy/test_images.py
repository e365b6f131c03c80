"""Every kind of file that a user's folder may hold."""

from __future__ import annotations

import itertools
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy.errors import SanError
from san_deploy.images import UnreadableImage, decode, left_out, list_crops, read_image, spread, track_of
from san_deploy.preprocess import read_crop, resize_crop

RGB = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)  # type: ignore[arg-type]
    return path


def test_gives_bgr_that_the_caller_owns(tmp_path: Path) -> None:
    read = read_image(save(tmp_path / "a.png", RGB))
    assert np.array_equal(read, RGB[:, :, ::-1])
    assert read.dtype == np.uint8 and read.flags.c_contiguous and read.flags.owndata and read.flags.writeable


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_formats(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(read_image(save(tmp_path / f"a.{suffix}", RGB)), RGB[:, :, ::-1])


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(read_image(save(tmp_path / f"a.{suffix}", flat)).astype(int) - (50, 100, 200)).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (33, 17), (128, 64), (201, 67)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_have_the_pixels_that_pillow_gives(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    """Every subsampling, quality and kind of scan; simplejpeg decodes them, not Pillow."""
    rng = np.random.default_rng(1)
    rough = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    smooth = rough.resize((4, 4)).resize(size[::-1], Image.Resampling.BICUBIC)
    path = tmp_path / "a.jpg"
    for image, quality, subsampling, progressive, restart in itertools.product(
        (rough, smooth), (5, 50, 95, 100), (0, 1, 2, "4:1:1"), (False, True), (0, 3)
    ):
        image.convert(mode).save(
            path,
            quality=quality,
            subsampling=subsampling,
            progressive=progressive,
            restart_marker_blocks=restart,
        )
        pixels = decode(path)
        assert isinstance(pixels, np.ndarray) and pixels.flags.c_contiguous and pixels.flags.writeable
        with Image.open(path) as expected:
            assert np.array_equal(pixels[:, :, ::-1], np.asarray(expected.convert("RGB")))
        assert np.array_equal(read_crop(path, (32, 16)), resize_crop(read_image(path), (32, 16)))


def test_what_simplejpeg_does_not_decode_is_pillows(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    for name, mode, options in (("cmyk", "CMYK", {}), ("turned", "RGB", {"exif": exif})):
        path = save(tmp_path / f"{name}.jpg", picture, mode, **options)
        assert isinstance(decode(path), Image.Image)
        assert np.abs(read_image(path).astype(int) - (50, 100, 200)).max() <= 6
    assert read_image(tmp_path / "turned.jpg").shape == (24, 16, 3)
    # A bad marker that libjpeg warns of and goes on: so does Pillow, and so it is read.
    data = save(tmp_path / "a.jpg", RGB).read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:-2] + b"\0\0\0\0" + data[-2:])
    with Image.open(tmp_path / "a.jpg") as expected:
        assert np.array_equal(read_image(tmp_path / "a.jpg")[:, :, ::-1], np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1"])
def test_grey_and_palette_become_three_channels(tmp_path: Path, mode: str) -> None:
    grey = np.repeat(np.array([[0, 255, 0, 255]], np.uint8), 3, 0)
    read = read_image(save(tmp_path / "a.png", grey, mode))
    assert np.array_equal(read, np.repeat(grey[:, :, None], 3, 2))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    assert np.array_equal(read_image(save(tmp_path / "a.png", rgba)), RGB[:, :, ::-1])


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", np.full((16, 16, 3), (200, 100, 50), np.uint8), "CMYK")
    assert np.abs(read_image(path).astype(int) - (50, 100, 200)).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    read = read_image(save(tmp_path / f"a.{suffix}", deep))
    assert np.array_equal(read[:, :, 0], np.arange(256).reshape(16, 16))
    assert np.array_equal(read[:, :, 0], read[:, :, 2])


def test_16_bit_colour(tmp_path: Path) -> None:
    # Pillow cannot write it, so the PNG is put together here: one row of three pixels.
    deep = np.array([[[0, 257 * 10, 65535], [257 * 200, 0, 257], [1, 2, 3]]], ">u2")
    path = tmp_path / "a.png"
    path.write_bytes(png(3, 1, deep.tobytes(), depth=16, colour=2))
    assert np.array_equal(read_image(path), (deep >> 8).astype(np.uint8)[:, :, ::-1])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"])
def test_a_damaged_tiff_is_named_and_libtiff_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str
) -> None:
    """libtiff's own words go to the file descriptor, without the file's name."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 32, 3)).astype(np.uint8))
    path = tmp_path / "a.tif"
    (image.convert("1") if compression == "group4" else image).save(path, compression=compression)
    whole = path.read_bytes()
    refused = 0
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(damaged)))] ^= 255
        path.write_bytes(bytes(damaged))
        try:
            read_image(path)
        except UnreadableImage as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0 or compression not in ("tiff_lzw", "tiff_adobe_deflate")
    assert capfd.readouterr() == ("", "")


def test_float_tiff(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.array([[0.0, 0.5], [1.0, 0.25]], np.float32))
    assert read_image(path)[:, :, 0].tolist() == [[0, 128], [255, 64]]
    with pytest.raises(UnreadableImage, match="NaN"):
        read_image(save(tmp_path / "b.tif", np.array([[0.0, np.nan]], np.float32)))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    read = read_image(save(tmp_path / "a.png", RGB, exif=exif))
    assert np.array_equal(read, np.rot90(RGB, -1)[:, :, ::-1])


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff"]
)
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"a\.jpg cannot be read\. .*\.$") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "ppm"])
def test_truncated_at_every_length(tmp_path: Path, suffix: str) -> None:
    """A file cut short is refused, or (behind the last pixel) gives the same picture; never another one."""
    data = save(tmp_path / f"whole.{suffix}", np.tile(RGB, (5, 5, 1))).read_bytes()
    whole = read_image(tmp_path / f"whole.{suffix}")
    path = tmp_path / f"a.{suffix}"
    refused = 0
    for length in range(0, len(data) - 1, max(1, len(data) // 40)):
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(read_image(path), whole)
        except UnreadableImage:
            refused += 1
    assert refused >= 35


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG file, put together by hand. `rows` are the pixels without filter bytes, or nothing at all."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    step = len(rows) // height
    filtered = b"".join(b"\0" + rows[i * step : (i + 1) * step] for i in range(height if step else 0))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = block(b"IHDR", header) + block(b"IDAT", zlib.compress(filtered)) + block(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(6000, 6000), (10_000, 10_000), (60_000, 60_000)])
def test_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    """Above our limit, above that of Pillow's warning, above that of its error."""
    path = tmp_path / "a.png"
    path.write_bytes(png(*size, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage, match="limit is 32000000"):
            read_image(path)


def test_reading_in_threads_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [path] * 200))
    assert list(warnings.filters) == before


def test_missing_and_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="does not exist"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").mkdir()
    os.mkfifo(tmp_path / "c.jpg")
    for name in ("b.jpg", "c.jpg"):
        with pytest.raises(UnreadableImage, match="is not a file"):
            read_image(tmp_path / name)


def test_a_picture_outlives_its_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    image = decode(path)
    assert isinstance(image, Image.Image)
    path.unlink()
    assert np.array_equal(np.asarray(image.resize((5, 7))), RGB)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_list_crops_is_sorted_and_skips_the_rest(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/2.JPG",
        "b/1.png",
        "a/x/1.tif",
        "a/1.jpg",
        "z.jpg",
        "a/notes.txt",
        ".hidden/1.jpg",
        "a/.1.jpg",
    )
    found = [path.as_posix() for path in list_crops(tmp_path)]
    assert found == ["z.jpg", "a/1.jpg", "a/x/1.tif", "b/1.png", "b/2.JPG"]
    assert [track_of(Path(name)) for name in found] == ["z.jpg", "a", "a/x", "b", "b"]


def test_list_crops_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "store/t1/1.jpg", "cam/t2/2.jpg")
    (tmp_path / "cam/t1").symlink_to(tmp_path / "store/t1")
    (tmp_path / "cam/t2/up").symlink_to(tmp_path / "cam")
    assert [path.as_posix() for path in list_crops(tmp_path / "cam")] == ["t1/1.jpg", "t2/2.jpg"]


@pytest.mark.parametrize(
    ("name", "message"), [("none", "does not exist"), ("file", "not a folder"), ("empty", "no image")]
)
def test_list_crops_refuses(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, "file", "empty/notes.txt")
    with pytest.raises(SanError, match=message):
        next(list_crops(tmp_path / name))


def test_list_crops_does_not_leave_out_a_folder_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SanError, match=r"cannot read folder .*/b: Permission denied"):
        list(list_crops(tmp_path))


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(1, 4, [0]), (4, 4, [0, 1, 2, 3]), (10, 4, [0, 3, 6, 9]), (9, 1, [4]), (5, 2, [0, 4]), (0, 4, [])],
)
def test_spread(count: int, wanted: int, expected: list[int]) -> None:
    assert spread(range(count), wanted) == expected


def test_crops_of_every_name(tmp_path: Path) -> None:
    """By the ending, or where that says nothing by the content; the rest is named."""
    folder = tmp_path / "t1"
    folder.mkdir()
    for name, kind in (
        ("a.jfif", "JPEG"),
        ("b.jpe", "JPEG"),
        ("c.pgm", "PPM"),
        ("d", "PNG"),
        ("e.0001", "JPEG"),
    ):
        Image.fromarray(RGB).convert("L" if kind == "PPM" else "RGB").save(folder / name, kind)
    (folder / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "notes.txt").write_text("II came late")
    (folder / "loop").symlink_to("loop")
    (tmp_path / "t2").mkdir()
    (tmp_path / "tracks.csv").write_text("track,start,end")
    assert [path.name for path in list_crops(tmp_path)] == [
        "a.jfif",
        "b.jpe",
        "c.pgm",
        "d",
        "e.0001",
        "f.heic",
    ]
    for name in ("a.jfif", "b.jpe", "c.pgm", "d", "e.0001"):
        assert read_image(folder / name).shape == RGB.shape
    # It is a crop that cannot be read, and is counted as one.
    with pytest.raises(UnreadableImage, match=r"f\.heic cannot be read"):
        read_image(folder / "f.heic")
    assert left_out(tmp_path) == ["t1/loop", "t1/notes.txt", "t2/"]
