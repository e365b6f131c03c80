"""The TensorRT runner on simulated devices: what it computes, in what order, and what it refuses."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from san_deploy.artefact import read_sidecar, sha256_file, write_sidecar
from san_deploy.backends.cuda import Cuda
from san_deploy.backends.tensorrt import TensorRT
from san_deploy.errors import SanError
from tests.fakes.cuda import COPY_IN, COPY_OUT, RUN, FakeCudart, fake_cuda
from tests.fakes.tensorrt import (
    CudaGraphStrategy,
    EngineValidity,
    FakeTensorRT,
    fake_plan,
)
from tests.san_deploy.backends.test_onnxruntime import CROPS, slow
from tests.tiny_models import restamp


class Bench:
    """A plan, and the fakes to open it with."""

    def __init__(
        self, folder: Path, *, rtx: bool = False, cuda: dict[str, Any] | None = None, **plan: Any
    ) -> None:
        told = {"runtime": "tensorrt-rtx", "version": "1.7.1.116"} if rtx else {}
        plan["told"] = told | plan.get("told", {})
        self.path = fake_plan(folder / "model.engine", **plan)
        self.cuda: Cuda
        self.cudart: FakeCudart
        self.cuda, self.cudart = fake_cuda(**(cuda or {}))
        version = "1.7.1.116" if rtx else "10.16.1.11"
        self.trt = FakeTensorRT(self.cudart, version=version, rtx=rtx)

    def open(self, **arguments: Any) -> TensorRT:
        return TensorRT(self.path, trt=self.trt, cuda=self.cuda, **arguments)


@pytest.mark.parametrize("seed", [None, *range(6)])
@pytest.mark.parametrize("graphs", [None, False])
@pytest.mark.parametrize("input", ["uint8", "float"])
def test_any_number_of_crops(tmp_path: Path, input: str, graphs: bool | None, seed: int | None) -> None:
    """Around the profile's ends, several parts, and an order of events that the seed draws."""
    bench = Bench(tmp_path, batch=(2, 4, 8), input=input, cuda={"seed": seed})
    with bench.open(graphs=graphs) as model:
        for count in (1, 2, 3, 7, 8, 9, 16, 17, 40, 70):
            crops = CROPS[-count:]
            rows = model(crops)
            assert rows.shape == (count, 8) and rows.dtype == np.float32 and rows.flags.owndata
            np.testing.assert_allclose(rows, slow(crops), atol=2e-6)
    assert not bench.cudart.alive()


@pytest.mark.parametrize("batch", [(1, 1, 1), (5, 5, 5)])
def test_an_engine_of_one_size(tmp_path: Path, batch: tuple[int, int, int]) -> None:
    bench = Bench(tmp_path, batch=batch, cuda={"seed": 1})
    with bench.open() as model:
        for count in (1, 4, 5, 6, 23):
            np.testing.assert_allclose(model(CROPS[:count]), slow(CROPS[:count]), atol=2e-6)
        # Every run is the recorded one.
        assert len(bench.trt.engine.contexts) == 2 and bench.cudart.log.count("run") == 2
    assert bench.cudart.log.count("graph") == sum(-(-count // batch[0]) for count in (1, 4, 5, 6, 23))


def test_each_call_gives_a_new_array(tmp_path: Path) -> None:
    with Bench(tmp_path).open() as model:
        first = model(CROPS[:3])
        kept = first.copy()
        model(CROPS[3:6])
        assert np.array_equal(first, kept) and first.flags.writeable


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_calls_from_several_threads_do_not_mix(tmp_path: Path, seed: int | None) -> None:
    """More threads than slots, calls of one part and of several; on the second GPU, which no thread begins with."""
    bench = Bench(tmp_path, cuda={"seed": seed, "devices": ("sm75", "sm86")})
    starts = [(start, count) for start in range(0, 50, 3) for count in (1, 8, 20)]
    with bench.open(device=1) as model, ThreadPoolExecutor(5) as pool:
        bench.trt.engine.pause_s = 1e-4
        found = list(pool.map(lambda item: model(CROPS[item[0] : item[0] + item[1]]), starts))
    for (start, count), rows in zip(starts, found, strict=True):
        np.testing.assert_allclose(rows, slow(CROPS[start : start + count]), atol=2e-6)
    assert not bench.cudart.alive()


def test_parts_overlap(tmp_path: Path) -> None:
    """On the device's clock: while one part runs, the next is copied in and the last one is copied back."""
    bench = Bench(tmp_path)
    with bench.open(graphs=False) as model:
        before = bench.cudart.now()
        model(CROPS[:64])
        took = bench.cudart.now() - before
    # The device never waits for a copy but for the first one in and the last one out.
    assert took == pytest.approx(COPY_IN + 8 * RUN + COPY_OUT)
    assert took < 0.75 * 8 * (COPY_IN + RUN + COPY_OUT)


def test_the_next_part_is_there_before_the_last_one_is_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open(graphs=False) as model:
        bench.cudart.log.clear()
        model(CROPS[:24])
    seen = [
        name for name in bench.cudart.log if name in ("copy in", "run", "copy out", "cudaEventSynchronize")
    ]
    part = ["copy in", "run", "copy out"]
    assert seen[:10] == [*part, *part, "cudaEventSynchronize", *part]


def test_nothing_is_allocated_while_it_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, batch=(2, 4, 8))
    with bench.open() as model:
        held = bench.cudart.alive()
        bench.cudart.log.clear()
        for count in (1, 8, 13, 64):
            model(CROPS[:count])
        assert not {"cudaMalloc", "cudaHostAlloc", "cudaEventCreateWithFlags"} & set(bench.cudart.log)
        assert bench.cudart.alive() == held
        # Two slots with an input and an output each, one memory for all that lies between.
        assert held["device"] == 5 and held["pinned"] == 4 and held["streams"] == 3


def test_what_is_copied_is_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that fill a batch up are copied in, as they are run, but not back."""
    bench = Bench(tmp_path, batch=(4, 4, 8))
    sizes: list[tuple[int, int]] = []
    copy = bench.cudart.cudaMemcpyAsync  # type: ignore[attr-defined]

    def noted(target: int, source: int, size: int, kind: int, stream: int) -> int:
        sizes.append((kind, size))
        return int(copy(target, source, size, kind, stream))

    with bench.open() as model:
        monkeypatch.setattr(bench.cudart, "cudaMemcpyAsync", noted)
        model(CROPS[:10])
    row = 32 * 16 * 3
    assert sizes == [(1, 8 * row), (2, 8 * 8 * 4), (1, 4 * row), (2, 2 * 8 * 4)]


def test_graphs_are_recorded_after_a_first_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as model:
        log = bench.cudart.log
        begin, end = log.index("cudaStreamBeginCapture"), log.index("cudaStreamEndCapture")
        first = log.index("run")
        assert first < log.index("cudaStreamSynchronize", first) < begin < end
        assert "run" not in log[begin:end]
        assert log[end + 1 : end + 3] == ["cudaGraphInstantiateWithFlags", "cudaGraphDestroy"]
        log.clear()
        model(CROPS[:8])
        model(CROPS[:7])
        # A part of the largest size is launched, another one is run, and neither disturbs the other.
        model(CROPS[:8])
        assert [name for name in log if name in ("graph", "run")] == ["graph", "run", "graph"]
        assert model.note == ""


def test_graphs_that_cannot_be(tmp_path: Path) -> None:
    bench = Bench(tmp_path, content={"refuse": "capture"})
    with bench.open() as model:
        assert model.note.startswith("without CUDA graphs, since TensorRT refused to run")
        np.testing.assert_allclose(model(CROPS), slow(CROPS), atol=2e-6)
    with pytest.raises(SanError, match="not permitted when stream is capturing"):
        bench.open(graphs=True)
    assert not bench.cudart.alive()


def test_no_graphs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open(graphs=False) as model:
        model(CROPS[:8])
        assert "cudaStreamBeginCapture" not in bench.cudart.log and len(bench.trt.engine.contexts) == 2


@pytest.mark.parametrize(
    ("graphs", "strategy"),
    [(None, "WHOLE_GRAPH_CAPTURE"), (True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")],
)
def test_rtx_records_by_itself(tmp_path: Path, graphs: bool | None, strategy: str) -> None:
    bench = Bench(tmp_path, rtx=True)
    with bench.open(graphs=graphs) as model:
        np.testing.assert_allclose(model(CROPS), slow(CROPS), atol=2e-6)
        configs = {id(context.strategy): context.strategy for context in bench.trt.engine.contexts}
        # One for all, with one cache: kernels are compiled once.
        (config,) = configs.values()
        assert config.cuda_graph_strategy == CudaGraphStrategy[strategy] and config.cache is not None
        assert "cudaStreamBeginCapture" not in bench.cudart.log
        assert model.name == "tensorrt-rtx 1.7.1.116 (cuda:0 Fake GPU 0, sm86)"
    assert not bench.cudart.alive()


def test_profile(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as model:
        held = bench.cudart.alive()
        assert model.profile(CROPS[:8]) == {"copy_in": COPY_IN, "run": RUN, "copy_out": COPY_OUT}
        assert model.profile(CROPS[:20]) == pytest.approx(
            {"copy_in": 3 * COPY_IN, "run": 3 * RUN, "copy_out": 3 * COPY_OUT}
        )
        assert bench.cudart.alive() == held
        np.testing.assert_allclose(model(CROPS), slow(CROPS), atol=2e-6)


def test_says_what_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, batch=(2, 4, 8), told={"gpu": "NVIDIA T4"})
    with bench.open() as model:
        assert model.name == "tensorrt 10.16.1.11 (cuda:0 Fake GPU 0, sm86)"
        assert model.note == (
            "the engine was built on NVIDIA T4; one built here may be faster; "
            "batches of fewer than 2 crops take as long as 2"
        )
        assert model.artefact.engine is not None and model.artefact.engine.batch == (2, 4, 8)


def test_refuses_crops_that_do_not_fit(tmp_path: Path) -> None:
    with Bench(tmp_path).open() as model:
        for crops in (CROPS[:, :16], CROPS[0], CROPS.astype(np.float32)):
            with pytest.raises(SanError, match="the model takes crops"):
                model(crops)
        with pytest.raises(SanError, match="no crops"):
            model(CROPS[:0])
        with pytest.raises(SanError, match="no crops"):
            model.profile(CROPS[:0])


@pytest.mark.parametrize("scale", [float("nan"), 0.0, 1.01])
def test_an_output_that_is_no_unit_row_is_an_error(tmp_path: Path, scale: float) -> None:
    with (
        Bench(tmp_path, content={"scale": scale}).open() as model,
        pytest.raises(SanError, match=r"9 of 9 rows: 0, 1, 2, 3, 4 and more\. See whether model\.onnx gives"),
    ):
        model(CROPS[:9])


# Failures on the way. Whatever fails, nothing may stay allocated, and no thread may wait for ever.

STEPS = (
    "cudaSetDevice",
    "cudaStreamCreateWithFlags",
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaEventCreateWithFlags",
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "cudaGraphInstantiateWithFlags",
)


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_while_opening(tmp_path: Path, step: str) -> None:
    """At every single call of that function, one after the other."""
    bench = Bench(tmp_path)
    with bench.open(graphs=True):
        calls = bench.cudart.log.count(step)
    assert calls
    for successes in range(calls):
        bench.cudart.fail = {step: (successes, 2)}
        with pytest.raises(SanError, match=rf"{step} failed: cudaErrorMemoryAllocation \(2\): out of memory"):
            bench.open(graphs=True)
        bench.cudart.fail = {}
        gc.collect()
        assert not bench.cudart.alive(), (step, successes)


@pytest.mark.parametrize(
    "step",
    ["cudaMemcpyAsync", "cudaEventRecord", "cudaStreamWaitEvent", "cudaGraphLaunch", "cudaEventSynchronize"],
)
def test_a_failure_while_running(tmp_path: Path, step: str) -> None:
    bench = Bench(tmp_path, cuda={"seed": 3})
    with bench.open() as model:
        bench.cudart.log.clear()
        model(CROPS[:30])
        for successes in range(bench.cudart.log.count(step)):
            bench.cudart.fail = {step: (successes, 1)}
            with pytest.raises(SanError, match=rf"{step} failed: cudaErrorInvalidValue"):
                model(CROPS[:30])
            bench.cudart.fail = {}
            # Every slot is free again, and the device does nothing with them any more.
            np.testing.assert_allclose(model(CROPS[30:60]), slow(CROPS[30:60]), atol=2e-6)
    assert not bench.cudart.alive()


def test_a_lost_context_says_so_in_every_call_and_still_closes(tmp_path: Path) -> None:
    """After an illegal address the GPU refuses all work of the process: no call clears that."""
    bench = Bench(tmp_path)
    with bench.open() as model:
        model(CROPS[:3])
        bench.cudart.fail = {"cudaMemcpyAsync": (0, 700)}
        with pytest.raises(SanError, match=r"cudaErrorIllegalAddress \(700\).*[Ss]tart the program again"):
            model(CROPS[:3])
        bench.cudart.fail = {}
        with pytest.raises(SanError):
            model(CROPS[:3])


def test_a_failure_while_profiling(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as model:
        for successes in range(9):
            bench.cudart.fail = {"cudaEventRecord": (successes, 1)}
            with pytest.raises(SanError, match="cudaEventRecord failed"):
                model.profile(CROPS[40:48])
            bench.cudart.fail = {}
            np.testing.assert_allclose(model(CROPS[:16]), slow(CROPS[:16]), atol=2e-6)


@pytest.mark.parametrize("runs", [0, 1, 3])
def test_tensorrt_fails_while_running(tmp_path: Path, runs: int) -> None:
    bench = Bench(tmp_path)
    with bench.open(graphs=False) as model:
        bench.trt.engine.fail_after = runs
        with pytest.raises(SanError, match=r"refused to run, for .*model\.engine\. enqueueV3: Error Code 1"):
            model(CROPS[:40])
        bench.trt.engine.fail_after = None
        np.testing.assert_allclose(model(CROPS[:40]), slow(CROPS[:40]), atol=2e-6)
        bench.trt.engine.refuse = "shape"
        with pytest.raises(SanError, match="outside the optimization profile"):
            model(CROPS[:40])


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        ("context", "made no execution context for .* CreateExecutionContext: out of memory"),
        ("address", "refused the address of crops"),
        ("shape", r"refused the input shape \(8, 32, 16, 3\).* outside the optimization profile"),
    ],
)
def test_tensorrt_fails_while_opening(tmp_path: Path, refuse: str, message: str) -> None:
    bench = Bench(tmp_path, content={"refuse": refuse})
    with pytest.raises(SanError, match=message):
        bench.open()
    gc.collect()
    assert not bench.cudart.alive()


def test_a_failed_call_disturbs_no_other_thread(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open(graphs=False) as model:
        stop = threading.Event()
        wrong: list[int] = []

        def good() -> None:
            while not stop.is_set():
                if not np.allclose(model(CROPS[:20]), slow(CROPS[:20]), atol=2e-6):
                    wrong.append(1)

        def bad(_: int) -> bool:
            try:
                model(CROPS[:20].astype(np.float32))
            except SanError:
                return True
            return False

        threads = [threading.Thread(target=good) for _ in range(3)]
        for thread in threads:
            thread.start()
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(bad, range(30)))
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    assert not wrong and not bench.cudart.alive()


def test_out_of_memory_says_what_to_do(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.cudart.free = 20_000
    with pytest.raises(SanError, match=r"out of memory\. Give a smaller engine \(san export --batch\)"):
        bench.open()
    assert not bench.cudart.alive() and bench.cudart.free == 20_000


def test_closed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.open()
    engine, bench.trt.engine = weakref.ref(bench.trt.engine), None
    assert len(engine().contexts) == 4
    model.close()
    model.close()
    # The engine too, which holds the weights, though the model is still here.
    gc.collect()
    assert not bench.cudart.alive() and engine() is None
    with pytest.raises(SanError, match=r"model\.engine was closed"):
        model(CROPS[:1])
    with pytest.raises(SanError, match="was closed"):
        model.profile(CROPS[:1])


def test_closing_waits_for_the_calls(tmp_path: Path) -> None:
    bench = Bench(tmp_path, cuda={"seed": 5})
    model = bench.open()
    started = threading.Barrier(4)
    outcomes: list[str] = []

    def call() -> None:
        started.wait()
        try:
            for _ in range(200):
                np.testing.assert_allclose(model(CROPS[:30]), slow(CROPS[:30]), atol=2e-6)
        except SanError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    model.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert all("was closed" in outcome for outcome in outcomes) and not bench.cudart.alive()


def test_a_forgotten_model_frees_its_memory(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.open()
    model(CROPS[:3])
    bench.trt.engine = None
    del model
    gc.collect()
    assert not bench.cudart.alive()


# What is refused before TensorRT sees the plan.


def refusal(bench: Bench, **arguments: Any) -> str:
    with pytest.raises(SanError) as caught:
        bench.open(**arguments)
    message = str(caught.value)
    assert "\n" not in message and str(bench.path) in message
    assert bench.trt.deserialised == 0 and bench.trt.engine is None and not bench.cudart.alive()
    return message


REBUILD = "san export {onnx} --engine --batch 1,4,8 --force"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"system": "linux-aarch64"}, "was built for linux-aarch64, but this machine is"),
        ({"version": "10.3.0.26"}, "with tensorrt 10.3.0.26, but this machine has 10.16.1.11"),
        ({"version": "10.16.1.12"}, "with tensorrt 10.16.1.12, but this machine has 10.16.1.11"),
        ({"version": "10.16.1"}, None),
        ({"version": "10.16"}, "with tensorrt 10.16, but"),
        ({"version": "unknown"}, "with tensorrt unknown, but"),
        (
            {"version": "11.0.0.1", "version_compatible": True},
            "version compatible, with tensorrt 11.0.0.1, but",
        ),
        ({"version": "10.3.0.26", "version_compatible": True}, None),
        ({"version": "8.6.1.6", "version_compatible": True}, "with tensorrt 8.6.1.6, but this machine has"),
        ({"sm": ("sm75",)}, "was built for sm75, on Fake GPU 0, but this GPU is cuda:0 Fake GPU 0 (sm86)"),
        ({"sm": ("sm75", "sm86")}, None),
        ({"sm": ("sm80",), "hardware_compatibility": "ampere+"}, None),
        ({"sm": ("sm80",), "hardware_compatibility": "same-sm"}, "sm80 (hardware compatibility same-sm)"),
        ({"sm": ()}, "was built for no GPU"),
    ],
)
def test_a_plan_of_another_machine(tmp_path: Path, told: dict[str, Any], words: str | None) -> None:
    bench = Bench(tmp_path, told=told)
    if words is None:
        bench.open().close()
        return
    message = refusal(bench)
    assert words in message
    command = REBUILD.format(onnx=tmp_path / "model.onnx").removesuffix(" --force")
    assert (
        command in message
        and "copy model.onnx (SHA-256 abababababab) beside it"
        in message.lower().replace("sha-256", "SHA-256")
    )


def test_ampere_and_later_is_no_turing(tmp_path: Path) -> None:
    told = {"sm": ("sm80",), "hardware_compatibility": "ampere+"}
    bench = Bench(tmp_path, told=told, cuda={"devices": ("sm75",)})
    assert "sm80 (hardware compatibility ampere+), on Fake GPU 0, but this GPU is" in refusal(bench)


def test_version_compatible_plans_bring_code(tmp_path: Path) -> None:
    """They are allowed to, and no others are."""
    bench = Bench(tmp_path, told={"version_compatible": True}, content={"host_code": True})
    bench.open().close()
    assert bench.trt.host_code
    (tmp_path / "other").mkdir()
    bench = Bench(tmp_path / "other", content={"host_code": True})
    with pytest.raises(SanError, match="Host code is not allowed"):
        bench.open()
    assert not bench.trt.host_code


def test_rtx_wants_its_own_version(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rtx=True, told={"version": "1.6.0.50", "version_compatible": True})
    message = refusal(bench)
    assert "with tensorrt-rtx 1.6.0.50, but this machine has 1.7.1.116" in message
    assert "--batch 1,4,8 --runtime tensorrt-rtx --version-compatible --force" in message


def test_rtx_judges_the_header(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rtx=True)
    bench.trt.validity = (EngineValidity.INVALID, 3)
    assert "sm86. VERSION_MISMATCH, UNSUPPORTED_CC." in refusal(bench)
    bench.trt.validity = (EngineValidity.INVALID, 0)
    assert "it does not say why" in refusal(bench).lower()
    bench.trt.validity = (EngineValidity.SUBOPTIMAL, 0)
    with bench.open() as model:
        assert "slower here than one built here" in model.note


def test_the_command_that_rebuilds(tmp_path: Path) -> None:
    told = {"sm": ("sm75",), "tf32": True, "hardware_compatibility": "same-sm", "version_compatible": True}
    bench = Bench(tmp_path, batch=(2, 3, 8), told=told)
    bench.path = fake_plan(tmp_path / "a model.plan", batch=(2, 3, 8), told=told)
    onnx = tmp_path / "a model.onnx"
    command = (
        f"san export '{onnx}' --engine --batch 2,3,8 --tf32 --hardware-compatibility same-sm "
        f"--version-compatible -o '{bench.path}' --force"
    )
    onnx.write_bytes(b"another")
    assert f"which is not the one it was built from: {command}" in refusal(bench)
    told["onnx_sha256"] = hashlib.sha256(b"another").hexdigest()
    fake_plan(bench.path, batch=(2, 3, 8), told=told)
    assert refusal(bench).endswith(f"Rebuild it here: {command}.")


def test_the_command_that_rebuilds_names_the_gpu(tmp_path: Path) -> None:
    bench = Bench(tmp_path, told={"sm": ("sm75",)}, cuda={"devices": ("sm75", "sm86")})
    with pytest.raises(SanError, match=r"san export .* --batch 1,4,8 --device cuda:1 .*--force"):
        bench.open(device=1)


def test_the_onnx_file_of_another_name(tmp_path: Path) -> None:
    """What is named is what was there, not what the engine's own name suggests."""
    told = {"sm": ("sm75",), "onnx": "model-fp16.onnx"}
    bench = Bench(tmp_path, told=told)
    onnx = tmp_path / "model-fp16.onnx"
    message = refusal(bench)
    assert "Copy model-fp16.onnx (SHA-256 abababababab) beside it" in message
    onnx.write_bytes(b"model")
    told["onnx_sha256"] = hashlib.sha256(b"model").hexdigest()
    fake_plan(bench.path, told=told)
    command = f"san export {onnx} --engine --batch 1,4,8 -o {bench.path} --force"
    assert refusal(bench).endswith(f"Rebuild it here: {command}.")


def test_a_plan_that_is_not_what_its_sidecar_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    data = bench.path.read_bytes()
    for length in (0, 4, len(data) - 1):
        bench.path.write_bytes(data[:length])
        assert "is cut short, or is not the one that model.engine.json describes" in refusal(bench)
    bench.path.write_bytes(data.replace(b"8", b"9"))
    assert "SHA-256" in refusal(bench)


def test_no_sidecar_no_plan(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sidecar = tmp_path / "model.engine.json"
    text = sidecar.read_text()
    sidecar.unlink()
    assert "has no description model.engine.json beside it" in refusal(bench)
    sidecar.write_text(text[: len(text) // 2])
    assert "is not readable as the description" in refusal(bench)
    values = json.loads(text)
    restamp(sidecar, values | {"engine": None})
    assert "is not described as a TensorRT engine" in refusal(bench)
    sidecar.write_text(text)
    bench.path.unlink()
    assert "cannot read engine" in refusal(bench)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("san_deploy.backends.plan._MAX_BYTES", 10)
    assert "larger than" in refusal(Bench(tmp_path))


def test_no_such_gpu(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(SanError, match=r"there is no GPU cuda:1\. Found: cuda:0 Fake GPU 0 \(sm86\)"):
        bench.open(device=1)
    bench = Bench(tmp_path, cuda={"driver": 0, "devices": ()})
    with pytest.raises(SanError, match="cudaErrorInsufficientDriver"):
        bench.open()
    assert bench.trt.deserialised == 0


def test_the_runtime_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr("san_deploy.backends.trt._is_installed", lambda module: module == "tensorrt_rtx")
    with pytest.raises(SanError) as caught:
        TensorRT(bench.path, cuda=bench.cuda)
    message = str(caught.value)
    assert "was built with tensorrt 10.16.1.11" in message and "tensorrt is not installed" in message.lower()
    assert "or use the tensorrt-rtx that is here" in message and "--runtime tensorrt-rtx" in message


# What TensorRT makes of it.


def test_tensorrt_refuses(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.path.write_bytes(b"no plan")
    artefact = read_sidecar(bench.path)
    write_sidecar(dataclasses.replace(artefact, sha256=sha256_file(bench.path)), bench.path)
    with pytest.raises(SanError) as caught:
        bench.open()
    # The logger's words, on one line.
    assert "Serialization assertion failed in header.cpp" in str(caught.value)
    assert "built with tensorrt 10.16.1.11 for sm86" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"input": "float"}, "found input crops FLOAT (3, 32, 16), batches (1, 4, 8)"),
        ({"input_name": "images"}, "found input images UINT8 (32, 16, 3), batches (1, 4, 8)"),
        ({"output": "HALF"}, "output embedding HALF (8,)"),
        ({"batch": (1, 4, 16)}, "batches (1, 4, 16)"),
        ({"profiles": 2}, "in 2 profiles"),
    ],
)
def test_an_engine_that_is_not_what_its_sidecar_says(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    bench = Bench(tmp_path, content=content)
    with pytest.raises(SanError, match="does not fit its own description") as caught:
        bench.open()
    assert words in str(caught.value) and not bench.cudart.alive()


def test_the_real_module_refuses_without_a_driver(tmp_path: Path) -> None:
    """TensorRT-RTX itself, where it is installed: its logger's words arrive."""
    trt = pytest.importorskip("tensorrt_rtx")
    told = {"runtime": "tensorrt-rtx", "version": trt.__version__}
    path = fake_plan(tmp_path / "model.engine", told=told)
    cuda, cudart = fake_cuda()
    with pytest.raises(SanError, match=r"TensorRT refuses engine .*built with tensorrt-rtx") as caught:
        TensorRT(path, trt=trt, cuda=cuda)
    assert "it does not say why" not in str(caught.value).lower() and "\n" not in str(caught.value)
    assert not cudart.alive()


def test_the_fakes_are_like_the_real_module() -> None:
    """Every method and attribute that the runner uses is there under its name; TensorRT-RTX follows TensorRT 11."""
    trt = pytest.importorskip("tensorrt_rtx")
    used = {
        trt.IExecutionContext: [
            *("active_optimization_profile", "set_optimization_profile_async", "set_device_memory"),
            *("set_tensor_address", "set_input_shape", "execute_async_v3"),
        ],
        trt.ICudaEngine: [
            *(
                "num_io_tensors",
                "get_tensor_name",
                "get_tensor_mode",
                "get_tensor_dtype",
                "get_tensor_location",
            ),
            *("get_tensor_shape", "get_tensor_profile_shape", "num_optimization_profiles"),
            *("device_memory_size_v2", "create_execution_context", "create_runtime_config"),
        ],
        trt.IRuntimeConfig: [
            *("set_execution_context_allocation_strategy", "cuda_graph_strategy"),
            *("create_runtime_cache", "set_runtime_cache"),
        ],
        trt.Runtime: ["engine_host_code_allowed", "deserialize_cuda_engine", "get_engine_validity"],
        trt.ExecutionContextAllocationStrategy: ["USER_MANAGED"],
        trt.CudaGraphStrategy: ["WHOLE_GRAPH_CAPTURE", "DISABLED"],
        trt.EngineValidity: ["INVALID", "SUBOPTIMAL"],
        trt.TensorLocation: ["DEVICE"],
        trt.TensorIOMode: ["INPUT"],
        trt.DataType: ["UINT8", "FLOAT"],
    }
    missing = [
        f"{kind.__name__}.{name}" for kind, names in used.items() for name in names if not hasattr(kind, name)
    ]
    assert not missing
    assert trt.DataType.UINT8.name == "UINT8" and int(trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC) == 2
