"""Measuring itself: what the figures mean, with backends whose speed is known, and small real ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.bench.engine import batches, measure_engines
from san_deploy.bench.folder import decoding_cpu_ms, files_per_run, measure_folders, open_crops
from san_deploy.bench.interleaved import Schedule
from san_deploy.bench.models import Opened, bench, open_model
from san_deploy.cli.bench import as_text
from san_deploy.errors import SanError
from tests.san_deploy.backends.test_tensorrt import Bench as Simulated
from tests.tiny_models import tiny_artefact, tiny_model


class Timed:
    """A backend that takes so many milliseconds per crop of a clock that it moves itself."""

    name = "timed"
    note = ""

    def __init__(self, ms_per_crop: float, clock: list[float]) -> None:
        self.artefact = tiny_artefact()
        self.ms_per_crop = ms_per_crop
        self.clock = clock
        self.seen: list[bytes] = []

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        self.artefact.to_input(crops)
        self.clock[0] += len(crops) * self.ms_per_crop / 1e3
        self.seen.append(crops.tobytes())
        return np.eye(8, dtype=np.float32)[np.zeros(len(crops), int)]


class Profiled(Timed):
    """Which also tells its parts; the run takes longer with each call, so the median is known."""

    def profile(self, crops: np.ndarray) -> dict[str, float]:
        self.clock[0] += 1.0
        return {"copy_in": 0.5, "run": self.clock[0], "copy_out": len(crops) / 8}


def crops_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 16, 3), dtype=np.uint8)


QUICK = Schedule(warmup_s=0.0, seconds=0.2)


def test_speed_and_ratio_of_backends_whose_speed_is_known() -> None:
    clock = [0.0]
    slow, quick = Timed(4.0, clock), Timed(1.0, clock)
    figures = measure_engines(
        [slow, quick], [crops_of(20)] * 2, 8, Schedule(warmup_s=1.0, seconds=60.0), clock=lambda: clock[0]
    )
    first, second = figures
    assert first.crops_per_second == pytest.approx(250) and second.crops_per_second == pytest.approx(1000)
    assert first.latency.percentiles_ms == pytest.approx({"p50": 32, "p90": 32, "p95": 32, "p99": 32})
    assert first.settled and first.spread == pytest.approx(0, abs=1e-9) and first.ended == "settled"
    assert first.speed is None and second.speed is not None
    assert (second.speed.median, second.speed.low, second.speed.high) == pytest.approx((4, 4, 4))
    assert first.split_ms is None
    # 0.25 s or three calls make a window, 100 calls are wanted for p99.
    assert first.latency.calls >= 100 and len(first.windows_ms) == second.speed.rounds


def test_split_is_the_median_of_what_the_backend_tells() -> None:
    clock = [0.0]
    (figures,) = measure_engines(
        [Profiled(1.0, clock)], [crops_of(8)], 4, Schedule(0.0, 10.0, rounds=1), clock=lambda: clock[0]
    )
    assert figures.split_ms is not None and list(figures.split_ms) == ["copy_in", "run", "copy_out"]
    assert figures.split_ms["copy_in"] == 0.5 and figures.split_ms["copy_out"] == 0.5
    # It is asked 20 times, each a second later, behind one call to warm up and the window.
    assert figures.split_ms["run"] == pytest.approx(clock[0] - 9.5)


def test_different_batches_are_run() -> None:
    clock = [0.0]
    backend = Timed(1.0, clock)
    measure_engines([backend], [crops_of(64)], 4, Schedule(0.0, 10.0, rounds=1), clock=lambda: clock[0])
    assert len(set(backend.seen)) == 4


def test_a_batch_larger_than_the_crops_repeats_them() -> None:
    crops = crops_of(3)
    found = batches(crops, 8)
    assert {batch.shape for batch in found} == {(8, 32, 16, 3)}
    assert np.array_equal(found[0], crops[[0, 1, 2, 0, 1, 2, 0, 1]])
    assert np.array_equal(found[1][:2], crops[[2, 0]])


@pytest.mark.parametrize(
    ("rate", "batch", "seconds", "files"),
    [
        (1000.0, 32, 10.0, 1024),  # a tenth of the time, in whole batches
        (1.0, 32, 10.0, 64),  # two batches at least
        (1e6, 64, 10.0, 4096),
        (1e6, 4096, 10.0, 8192),
    ],
)
def test_files_of_a_run(rate: float, batch: int, seconds: float, files: int) -> None:
    assert files_per_run(rate, batch, seconds) == files


def test_crops_are_spread_over_the_folder_and_unreadable_ones_counted(crops: Path) -> None:
    (crops / "t1" / "1.png").write_bytes(b"no image")
    with open_crops(crops, 5) as found:
        names = [path.relative_to(crops.resolve()).as_posix() for path in found.paths]
    # Of loose0, loose1, t1/1..5, t10/1..3, t2/1: every second or third, from the first to the last.
    assert names == ["loose0.png", "t1/4.png", "t10/2.png", "t2/1.png"] and found.unreadable == 1
    assert found.source == "crops of crops"


def test_no_readable_crop(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(SanError, match="none of the crops"), open_crops(tmp_path, 5):
        pass


def test_sample_crops_are_the_same_every_time_and_go_away() -> None:
    with open_crops(None, 3) as first:
        data = [path.read_bytes() for path in first.paths]
        folder = first.paths[0].parents[2]
        assert len(data) == 3 and first.source == "sample crops"
    assert not folder.exists()
    with open_crops(None, 3) as again:
        assert [path.read_bytes() for path in again.paths] == data


def test_decoding_costs_what_it_costs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "small.jpg", tmp_path / "large.jpg"]
    for path, size in zip(paths, (32, 640), strict=True):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    small, large = (decoding_cpu_ms([path] * 4, (32, 16)) for path in paths)
    # 400 times the pixels: noise leaves a wide margin.
    assert large[0] > 10 * small[0] > 0 and large[1] > 2 * small[1] > 0


class Slow:
    """A backend that waits, as for a GPU: 5 ms a batch, whoever else works."""

    name = "slow"
    note = ""
    artefact = tiny_artefact()

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        time.sleep(0.005)
        self.sizes.append(len(crops))
        return np.eye(8, dtype=np.float32)[np.zeros(len(crops), int)]


def test_a_folder_beside_crops_in_memory(crops: Path) -> None:
    backend = Slow()
    (figures,) = measure_folders(
        [backend],
        [crops_of(8)],
        sorted(path.resolve() for path in crops.rglob("*.png")),
        batch=4,
        workers=2,
        files=24,
        schedule=Schedule(0.0, 10.0, rounds=3),
    )
    # Each run is 6 batches of 4; one run of either kind to warm up, then three.
    assert set(backend.sizes) == {4} and len(backend.sizes) == 6 * 2 * 4
    assert (figures.runs, figures.files, figures.ended, figures.speed) == (3, 24, "rounds", None)
    # Two callers at a time: 3 x 5 ms at least.
    assert 0 < figures.crops_per_second < 24 / 0.015
    assert 0 < figures.share.low <= figures.share.median <= figures.share.high
    assert figures.decode_cpu_ms > 0 and figures.resize_cpu_ms > 0 and figures.cpu_ms > 0


def test_the_whole_measurement(crops: Path, tmp_path: Path) -> None:
    paths = [
        tiny_model(tmp_path / "a.onnx"),
        tiny_model(tmp_path / "b.onnx", size_hw=(64, 32), input="float"),
    ]
    models = [open_model(path, OnnxRuntime) for path in paths]
    steps: list[str] = []
    with open_crops(crops, 6) as chosen:
        result = bench(
            models,
            chosen,
            batch_sizes=(1, 3),
            schedule=Schedule(0.0, 0.2, rounds=2),
            workers=1,
            report=steps.append,
        )
    first, second = result.models
    assert [item.batch for item in first.engine] == [1, 3] and first.folder.batch == 3
    assert first.engine[1].speed is None and second.engine[1].speed is not None
    assert second.folder.speed is not None and second.folder.speed.rounds == 2
    assert (first.bytes, first.artefact.sha256) == (
        paths[0].stat().st_size,
        models[0].backend.artefact.sha256,
    )
    assert first.open_s > 0 and "onnxruntime" in first.runtime and "onnxruntime" in result.versions
    assert result.setting["rounds"] == 2 and result.setting["warmup_s"] == 0.0
    assert result.crops == {"source": "crops of crops", "count": 6, "unreadable": 0}
    assert len(steps) == 3 and "batch 3" in steps[1]
    (note,) = [note for note in result.notes if note.startswith("not settled")]
    assert (
        "a.onnx batch 1 (2 windows), a.onnx batch 3 (2 windows), a.onnx files to embeddings, b.onnx" in note
    )
    told = result.as_dict()
    assert told["models"][1]["engine"][0]["speed"]["rounds"] == 2 and told["machine"]["cores"] >= 1
    assert told["models"][0]["artefact"]["size_hw"] == (32, 16)


def test_too_few_calls_for_a_percentile_are_noted(crops: Path, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "a.onnx")
    with open_crops(crops, 4) as chosen:
        slow = Slow()
        result = bench([Opened(path, slow, 0.0)], chosen, batch_sizes=(2,), schedule=Schedule(0.0, 0.01))
    told = result.models[0].engine[0].latency
    assert told.calls < 100 and "p99" not in told.percentiles_ms
    (note,) = [note for note in result.notes if note.startswith("too few calls")]
    assert "p95 takes 20, p99 takes 100" in note and note.endswith(f": batch 2 ({told.calls})")


def test_an_engine_on_simulated_devices_tells_its_steps(crops: Path, tmp_path: Path) -> None:
    simulated = Simulated(tmp_path, batch=(2, 4, 8))
    with simulated.open() as engine, open_crops(crops, 6) as chosen:
        model = Opened(simulated.path, engine, 0.1)
        result = bench([model], chosen, batch_sizes=(1, 9), schedule=Schedule(0.0, 0.1, rounds=3))
    (figures,) = result.models
    for item in figures.engine:
        assert item.split_ms is not None and list(item.split_ms) == ["copy_in", "run", "copy_out"]
    assert figures.artefact.engine is not None and "tensorrt" in figures.runtime
    assert [note for note in result.notes if "the engine takes" in note] == [
        "batch 1 is filled up: the engine takes 2 at least",
        "batch 9 is run in parts: the engine takes 8 at most",
    ]
    told = as_text(result, "san bench", [(figures.artefact, "")])
    assert "  batch 9: copy-in " in told and ", copy-out " in told
