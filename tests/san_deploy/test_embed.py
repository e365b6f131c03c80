"""From folders to embeddings: order, completeness, bounded memory, and files that survive a round trip."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy import embed
from san_deploy.artefact import Artefact
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.embed import Embeddings, Unreadable, embed_folder, read_embeddings, write_embeddings
from san_deploy.errors import SanError, UsageError
from san_deploy.images import list_crops, read_image
from san_deploy.preprocess import resize_crop
from tests.tiny_models import tiny_artefact


class Recorder:
    """A backend that keeps what it was given. A crop's embedding points to its first pixel's blue."""

    name = "recorder"

    def __init__(self, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.artefact: Artefact = tiny_artefact(embedding_dim=2)
        self.batches: list[int] = []
        self.delay = delay

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        time.sleep(self.delay())
        angle = crops[:, 0, 0, 0].astype(np.float32) / 100
        return np.stack([np.cos(angle), np.sin(angle)], 1)


def flat_crops(folder: Path, count: int) -> np.ndarray:
    """`count` grey crops whose level is their number; returns the embeddings they should have."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((8, 4, 3), i, np.uint8)).save(folder / f"{i:03d}.png")
    angle = np.arange(count, dtype=np.float32) / 100
    return np.stack([np.cos(angle), np.sin(angle)], 1)


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("workers", [None, 1, 4])
def test_equals_one_crop_at_a_time(crops: Path, model: Path, batch: int, workers: int | None) -> None:
    backend = OnnxRuntime(model)
    result = embed_folder(crops, backend, batch=batch, workers=workers)
    paths = list(list_crops(crops))
    assert result.path.tolist() == [path.as_posix() for path in paths]
    expected = [backend(resize_crop(read_image(crops / path), (32, 16))[None])[0] for path in paths]
    np.testing.assert_allclose(result.embedding, expected, atol=1e-6)
    assert result.embedding.dtype == np.float32 and result.seconds > 0
    assert result.tracks == ["loose0.png", "loose1.png", "t1", "t10", "t2"]
    assert result.track.tolist() == ["loose0.png", "loose1.png", *["t1"] * 5, *["t10"] * 3, "t2"]
    assert result.model == backend.artefact.as_dict() and result.unreadable == result.lost_tracks == []


def test_same_bits_in_every_run(crops: Path, model: Path) -> None:
    runs = [embed_folder(crops, OnnxRuntime(model), batch=4, workers=n).embedding for n in (1, 2, 3, 4, 5)]
    assert all(np.array_equal(run, runs[0]) for run in runs)


def test_order_does_not_depend_on_who_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = flat_crops(tmp_path, 100)
    real, rng = embed.read_crop, random.Random(0)

    def read_crop(path: Path, size_hw: tuple[int, int], resize: str) -> np.ndarray:
        time.sleep(rng.random() * 0.004)
        return real(path, size_hw, resize)

    monkeypatch.setattr(embed, "read_crop", read_crop)
    monkeypatch.setattr(embed, "_CHUNK", 3)
    backend = Recorder(lambda: rng.random() * 0.01)
    told: list[int] = []
    result = embed_folder(tmp_path, backend, batch=7, workers=5, progress=told.append)
    np.testing.assert_array_equal(result.embedding, expected)
    assert sorted(backend.batches) == [2] + [7] * 14
    assert sum(told) == 100


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the network is, no more than a few batches wait decoded, and no more paths are listed."""
    flat_crops(tmp_path, 250)
    real, real_list, lock = embed.read_crop, embed.list_crops, threading.Lock()
    decoded = listed = done = most_decoded = most_listed = 0

    def read_crop(path: Path, size_hw: tuple[int, int], resize: str) -> np.ndarray:
        nonlocal decoded, most_decoded
        crop = real(path, size_hw, resize)
        with lock:
            decoded += 1
            most_decoded = max(most_decoded, decoded - done)
        return crop

    def list_all(folder: Path, *, per_track: int | None) -> object:
        nonlocal listed, most_listed
        for path in real_list(folder):
            listed += 1
            most_listed = max(most_listed, listed - done)
            yield path

    def progress(count: int) -> None:
        nonlocal done
        with lock:
            done += count

    monkeypatch.setattr(embed, "read_crop", read_crop)
    monkeypatch.setattr(embed, "list_crops", list_all)
    monkeypatch.setattr(embed, "_CHUNK", 2)
    embed_folder(tmp_path, Recorder(lambda: 0.004), batch=4, workers=2, progress=progress)
    assert done == decoded == listed == 250
    # Two batches in the network, one being put together, two and a chunk for each worker ahead, and slack.
    assert most_decoded <= 5 * 4 + 2 * 2 + 4 and most_listed <= 5 * 4 + 2 * 2 + 4


def broken(folder: Path) -> list[str]:
    (folder / "t1" / "0.jpg").write_bytes(b"no image")
    (folder / "t2" / "1.png").write_bytes((folder / "t2" / "1.png").read_bytes()[:50])
    return ["t1/0.jpg", "t2/1.png"]


def test_unreadable_crops_are_left_out_and_reported(crops: Path) -> None:
    names = broken(crops)
    told: list[int] = []
    result = embed_folder(crops, Recorder(), batch=4, progress=told.append)
    assert [item.path for item in result.unreadable] == names
    assert (
        result.unreadable[0].reason
        == "cannot be read. The file is not an image, or not in a format read here"
    )
    assert not set(names) & set(result.path.tolist()) and len(result.path) == 10
    assert result.lost_tracks == ["t2"] and "t2" not in result.tracks
    assert sum(told) == 12


def test_strict_stops_at_the_first(crops: Path) -> None:
    broken(crops)
    with pytest.raises(SanError, match=r"t1/0\.jpg cannot be read\. .* or leave out --strict"):
        embed_folder(crops, Recorder(), strict=True)


def test_nothing_readable(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"no image")
    with pytest.raises(
        SanError, match=r"none of the 2 crops in .* is readable\. The first, a\.jpg, cannot be read"
    ):
        embed_folder(tmp_path, Recorder())


def test_crops_without_content_are_named(crops: Path, tmp_path: Path) -> None:
    for name, level in (("t1/9.png", 0), ("t10/9.png", 200)):
        Image.fromarray(np.full((40, 20, 3), (level, 0, level), np.uint8)).save(crops / name)
    almost = np.zeros((40, 20, 3), np.uint8)
    almost[21, 11] = 255
    Image.fromarray(almost).save(crops / "t1" / "8.png")
    result = embed_folder(crops, Recorder())
    assert result.blank == ["t1/9.png", "t10/9.png"] and len(result.path) == 14
    write_embeddings(result, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        # NumPy before 2.2 stored its own option as an array.
        assert "allow_pickle" not in file.files


def test_a_tracklet_that_is_removed_meanwhile_stops_nothing(
    crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live recorder deletes what is old."""
    real = embed.list_crops

    def listing(folder: Path, *, per_track: int | None) -> Iterator[Path]:
        for number, path in enumerate(real(folder, per_track=per_track)):
            if number == 3:
                shutil.rmtree(crops / "t10")
            yield path

    monkeypatch.setattr(embed, "list_crops", listing)
    result = embed_folder(crops, Recorder(), batch=2, workers=1)
    assert [item.path for item in result.unreadable] == ["t10"] and "does not exist" in result.unreadable[
        0
    ].reason
    assert result.tracks == ["loose0.png", "loose1.png", "t1", "t2"]
    for name in ("1", "2"):
        (crops / "t10").mkdir(exist_ok=True)
        (crops / "t10" / f"{name}.png").write_bytes((crops / "t1" / "1.png").read_bytes())
    with pytest.raises(SanError, match=r"t10 does not exist.*--strict"):
        embed_folder(crops, Recorder(), batch=2, workers=1, strict=True)


def test_missing_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SanError, match="does not exist"):
        embed_folder(tmp_path / "none", Recorder())
    with pytest.raises(SanError, match="holds no image"):
        embed_folder(tmp_path, Recorder())


@pytest.mark.parametrize("options", [{"batch": 0}, {"workers": 0}, {"batch": -1}])
def test_senseless_numbers(crops: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        embed_folder(crops, Recorder(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [SanError("the model failed"), KeyboardInterrupt()])
def test_a_failure_ends_all_threads(tmp_path: Path, error: BaseException) -> None:
    flat_crops(tmp_path, 200)
    before = threading.active_count()
    calls: list[int] = []

    class Failing(Recorder):
        def __call__(self, crops: np.ndarray) -> np.ndarray:
            calls.append(len(crops))
            if len(calls) == 3:
                raise error
            return super().__call__(crops)

    with pytest.raises(type(error)):
        embed_folder(tmp_path, Failing(), batch=4, workers=3)
    assert threading.active_count() == before and len(calls) < 10


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    flat_crops(tmp_path / "crops", 2)
    strange = b"\xff.png".decode("utf-8", "surrogateescape")
    try:
        (tmp_path / "crops" / "001.png").rename(tmp_path / "crops" / strange)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    result = embed_folder(tmp_path / "crops", Recorder())
    write_embeddings(result, tmp_path / "a.npz")
    assert read_embeddings(tmp_path / "a.npz").path.tolist() == ["000.png", strange]


def sample() -> Embeddings:
    rows = np.eye(3, 8, dtype=np.float32)
    model = tiny_artefact(sha256="ab" * 32).as_dict()
    lost = [Unreadable("t2/1.jpg", "is cut")]
    return Embeddings(rows, np.array(["a/1", "a/2", "b"]), np.array(["a", "a", "b"]), model, lost, 1.5)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.npz"
    write_embeddings(sample(), path)
    read = read_embeddings(path)
    assert np.array_equal(read.embedding, sample().embedding) and read.embedding.dtype == np.float32
    assert read.path.tolist() == ["a/1", "a/2", "b"] and read.track.tolist() == ["a", "a", "b"]
    assert read.model == json.loads(json.dumps(sample().model))
    assert [item.name for item in path.parent.iterdir()] == ["a.npz"]


def test_the_file_needs_no_pickle(tmp_path: Path) -> None:
    write_embeddings(sample(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        model = {"model", "model_sha256", "space", "precision"}
        assert set(file.files) == {"embedding", "path", "track", "content_sha256"} | model
        assert str(file["model_sha256"]) == "ab" * 32 and str(file["precision"]) == "fp32"
        assert str(file["space"]) == "5" * 64
        assert json.loads(str(file["model"]))["arch"] == "tiny"


def test_name_is_kept_whatever_its_ending(tmp_path: Path) -> None:
    write_embeddings(sample(), tmp_path / "a.embeddings")
    assert [item.name for item in tmp_path.iterdir()] == ["a.embeddings"]
    assert len(read_embeddings(tmp_path / "a.embeddings").path) == 3


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    write_embeddings(sample(), tmp_path / "a.npz")
    data = (tmp_path / "a.npz").read_bytes()
    path = tmp_path / "b.npz"
    damaged = [b"", b"hello", data[:-1], data[: len(data) // 2], data[:100], b"PK" + data[2:30]]
    # A byte inside the embedding is caught by zip's checksum.
    place = data.index(sample().embedding.tobytes()) + 3
    damaged.append(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(SanError, match=r"b\.npz is not a whole file of embeddings") as caught:
            read_embeddings(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(SanError, match="does not exist"):
        read_embeddings(tmp_path / "none.npz")
    with pytest.raises(SanError, match="not a whole file"):
        read_embeddings(tmp_path)


def test_a_row_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Written anew by NumPy, so that zip's own checksums are right; files from before the hash are read."""
    write_embeddings(sample(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = {name: file[name] for name in file.files}
    swapped = {**arrays, "embedding": arrays["embedding"][::-1]}
    np.savez(tmp_path / "b.npz", **swapped)
    with pytest.raises(SanError, match="was changed after it was written"):
        read_embeddings(tmp_path / "b.npz")
    old = {name: arrays[name] for name in ("embedding", "path", "track", "model", "model_sha256")}
    np.savez(tmp_path / "old.npz", **old)
    assert len(read_embeddings(tmp_path / "old.npz").path) == 3


def test_a_file_that_calls_itself_encrypted_or_packed_is_refused(tmp_path: Path) -> None:
    """Flags and methods of a .zip that lead its reader elsewhere: found by fuzzing."""
    write_embeddings(sample(), tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    central = whole.index(b"PK\x01\x02")
    for flags, method in ((1, 0), (0x41, 0), (0x20, 0), (0, 1), (0, 8), (0, 12), (0, 14), (0, 99)):
        damaged = bytearray(whole)
        for flags_at, method_at in ((6, 8), (central + 8, central + 10)):
            damaged[flags_at], damaged[method_at] = flags, method
        (tmp_path / "a.npz").write_bytes(bytes(damaged))
        with pytest.raises(SanError, match=r"a\.npz is not a whole file of embeddings"):
            read_embeddings(tmp_path / "a.npz")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    good = sample()
    arrays = {
        "embedding": good.embedding,
        "path": good.path,
        "track": good.track,
        "model": np.array(json.dumps(good.model)),
        "model_sha256": np.array("ab" * 32),
    }
    np.savez(path, **arrays)
    read_embeddings(path)
    for changes in (
        {"embedding": good.embedding.astype(np.float64)},
        {"embedding": good.embedding[:2]},
        {"embedding": good.embedding[0]},
        {"embedding": np.eye(3, 9, dtype=np.float32)},
        {"path": np.array(3)},
        {"track": np.array([1, 2, 3])},
        {"track": np.array([None, {}, []], dtype=object)},
        {"model": np.array("[]")},
        {"model": np.array("{")},
        {"model_sha256": np.array("other")},
    ):
        np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
        with pytest.raises(SanError, match="not a whole file of embeddings"):
            read_embeddings(path)
    for value in (np.nan, 2.0):
        np.savez(path, **(arrays | {"embedding": good.embedding * np.float32(value)}))
        with pytest.raises(SanError, match="not finite or not of norm 1"):
            read_embeddings(path)
    with path.open("wb") as file:
        np.save(file, good.embedding)
    with pytest.raises(SanError, match="not a whole file of embeddings"):
        read_embeddings(path)


def test_threads_of_two_folders_do_not_mix(tmp_path: Path, model: Path) -> None:
    """Two folders at once on one backend."""
    expected = {name: flat_crops(tmp_path / name, 40) for name in "ab"}
    backend = Recorder()
    with ThreadPoolExecutor(2) as pool:
        for name, result in zip(
            "ab", pool.map(lambda n: embed_folder(tmp_path / n, backend), "ab"), strict=True
        ):
            np.testing.assert_array_equal(result.embedding, expected[name])
