from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from san_deploy.embed import read_embeddings
from san_deploy.errors import SanError, UsageError
from san_deploy.shards import Shard, merge
from tests.conftest import Result
from tests.tiny_models import tiny_model

San = Callable[..., Result]


@pytest.fixture
def shards(san: San, crops: Path, model: Path, tmp_path: Path) -> list[Path]:
    """Seven shards of five tracklets, so that some are empty, in another order than the folder's."""
    paths = [tmp_path / f"{index}.npz" for index in (3, 1, 7, 2, 6, 5, 4)]
    for path in paths:
        san("embed", crops, "-o", path, "-m", model, "--shard", f"{path.stem}/7", "--batch", 3)
    return paths


def test_merged_shards_are_the_bytes_of_a_single_run(
    san: San, crops: Path, model: Path, shards: list[Path], tmp_path: Path
) -> None:
    san("embed", crops, "-o", tmp_path / "single.npz", "-m", model)
    result = san("embed", "--merge", *shards, "-o", tmp_path / "merged.npz")
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "single.npz").read_bytes()
    assert "11 crops in 5 tracklets, put together from 7 shards" in result.out
    told = json.loads(san("embed", "--merge", *shards, "-o", tmp_path / "b.npz", "--json").out)
    assert told["crops"] == 11 and len(told["shards"]) == 7


def test_unreadable_crops_leave_the_same_rows(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    (crops / "t2" / "1.png").write_bytes(b"no image")
    parts = [tmp_path / f"{index}.npz" for index in (1, 2)]
    for index, path in enumerate(parts, 1):
        san("embed", crops, "-o", path, "-m", model, "--shard", f"{index}/2")
    san("embed", crops, "-o", tmp_path / "single.npz", "-m", model)
    san("embed", "--merge", *parts, "-o", tmp_path / "merged.npz")
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "single.npz").read_bytes()


def test_every_tracklet_is_in_one_shard_by_its_hash() -> None:
    tracks = [f"cam{camera}/t{track:03d}" for camera in range(3) for track in range(100)]
    counts = np.zeros(8, int)
    for track in tracks:
        taken = [index for index in range(1, 9) if Shard(index, 8).takes(track)]
        # The rule in other words, so that machines with other versions agree.
        assert taken == [int(hashlib.sha256(track.encode()).hexdigest()[:16], 16) % 8 + 1]
        counts[taken[0] - 1] += 1
    assert counts.min() >= 20


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2"])
def test_a_shard_is_one_of_n(text: str) -> None:
    with pytest.raises(UsageError, match="--shard is I/N, I from 1 to N; received"):
        Shard.parse(text)


def test_missing_and_doubled_shards_are_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SanError, match="of 7 shards there are 5; missing: 3, 7") as caught:
        merge([path for path in shards if path.stem not in "37"])
    assert "--shard 3/7" in caught.value.do
    with pytest.raises(SanError, match=r"3.npz and .*again.npz are both shard 3/7"):
        again = tmp_path / "again.npz"
        again.write_bytes(shards[0].read_bytes())
        merge([*shards, again])


def test_shards_of_different_things_are_refused(san: San, crops: Path, model: Path, tmp_path: Path) -> None:
    def shard(name: str, index: str, folder: Path = crops, file: Path = model) -> Path:
        san("embed", folder, "-o", tmp_path / name, "-m", file, "--shard", index)
        return tmp_path / name

    one = shard("one.npz", "1/2")
    with pytest.raises(SanError, match=r"is shard 2/3 and .*one.npz is 1/2"):
        merge([one, shard("three.npz", "2/3")])
    with pytest.raises(SanError, match=r"other.npz and .*one.npz are of different (networks|model files)"):
        merge([one, shard("other.npz", "2/2", file=tiny_model(tmp_path / "other.onnx", seed=5))])
    (crops / "t2" / "more.png").write_bytes((crops / "t2" / "1.png").read_bytes())
    with pytest.raises(SanError, match="are of different crops"):
        merge([one, shard("two.npz", "2/2")])


def test_a_shard_is_no_camera_and_a_camera_no_shard(
    san: San, crops: Path, model: Path, shards: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(SanError, match="is a part of a folder's embeddings, shard 3/7") as caught:
        read_embeddings(shards[0])
    assert "--merge" in caught.value.do
    san("embed", crops, "-o", tmp_path / "whole.npz", "-m", model)
    with pytest.raises(SanError, match=r"whole.npz is no shard"):
        merge([tmp_path / "whole.npz"])


def test_options_that_do_nothing_are_refused(
    san: San, shards: list[Path], crops: Path, tmp_path: Path
) -> None:
    result = san("embed", "--merge", *shards, "-o", tmp_path / "m.npz", "--batch", 4, code=2)
    assert "--batch does nothing with --merge" in result.err
    result = san("embed", crops, crops, "-o", tmp_path / "m.npz", code=2)
    assert "takes one folder; received 2" in result.err
