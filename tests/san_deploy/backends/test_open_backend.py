"""Which runtime opens which file, on which device, and what is refused. The command line's side: tests/cli."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from san_deploy.artefact import Calibration
from san_deploy.backends import BACKENDS, open_backend
from san_deploy.backends import onnxruntime as module
from san_deploy.backends.cuda import Device
from san_deploy.backends.onnxruntime import CPU, CUDA, TENSORRT, OnnxRuntime
from san_deploy.errors import SanError, UsageError
from tests.fakes.cuda import fake_cuda
from tests.fakes.tensorrt import FakeTensorRT, fake_plan
from tests.san_deploy.backends.test_onnxruntime import CROPS, slow
from tests.tiny_models import save_model, tiny_artefact, tiny_model

GPUS = [Device("NVIDIA T4", "sm75", 0), Device("NVIDIA L4", "sm89", 1)]


class Sessions:
    """ONNX Runtime as if it were built for GPUs; what the GPU is to run, the CPU does.

    Attributes:
        made: (providers, session options, other options) of every session.
        broken: providers whose libraries do not load: they are left out without an error, as is.
        refuse: what a session says that is asked for a GPU; empty for nothing.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[list[Any], Any, dict[str, Any]]] = []
        self.runs: list[tuple[str, int]] = []
        self.broken: set[str] = set()
        self.refuse = ""
        self.preloaded = 0
        real = onnxruntime.InferenceSession
        outer = self

        class Session:
            def __init__(self, data: bytes, options: Any, providers: list[Any], **more: Any) -> None:
                names = [item if isinstance(item, str) else item[0] for item in providers]
                outer.made.append((providers, options, more))
                if names != [CPU] and outer.refuse:
                    raise RuntimeError(outer.refuse + "\nand more")
                self._names = [name for name in names if name not in outer.broken]
                if CPU not in self._names:
                    self._names.append(CPU)
                quiet = onnxruntime.SessionOptions()
                quiet.log_severity_level = 4
                self._session = real(data, options if names == [CPU] else quiet, providers=[CPU])

            def get_providers(self) -> list[str]:
                return self._names

            def run(self, names: list[str], feed: dict[str, np.ndarray]) -> Any:
                outer.runs.append((self._names[0], len(feed["crops"])))
                return self._session.run(names, feed)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._session, name)

        def preload() -> None:
            print("Failed to load libcudnn.so.9")
            self.preloaded += 1

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: (GPUS, ""))
        cuda, _ = fake_cuda(devices=("sm75", "sm89"))
        monkeypatch.setattr("san_deploy.backends.cuda.load", lambda: cuda)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    return Sessions(monkeypatch)


def test_cuda(sessions: Sessions, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = open_backend(model, device="cuda:1")
    assert backend.name == "onnxruntime (CUDA, cuda:1 Fake GPU 1, sm89)" and backend.note == ""
    (on_cpu, _, _), (providers, options, more) = sessions.made
    assert on_cpu == [CPU], "the file is read without a GPU"
    assert providers == [(CUDA, {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})]
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert more == {"enable_fallback": 0} and sessions.preloaded == 1
    rows = backend(CROPS)
    np.testing.assert_allclose(rows, slow(CROPS), atol=2e-6)
    # Whole, not in the parts that are for the threads of a CPU.
    assert sessions.runs == [(CUDA, 70)]
    assert capfd.readouterr() == ("", "")


def test_the_tensorrt_provider_finds_pips_libnvinfer(
    sessions: Sessions, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("san_deploy.backends.trt.load", loaded.append)
    open_backend(model, backend="onnxruntime-tensorrt")
    open_backend(model, device="cuda:0")
    assert loaded == ["tensorrt"], "for its own provider alone"
    sessions.broken = {TENSORRT}
    with pytest.raises(SanError, match="libnvinfer was loaded, so it is CUDA, cuDNN or another version"):
        open_backend(model, backend="onnxruntime-tensorrt")


def test_without_libnvinfer_it_says_what_to_set(
    sessions: Sessions, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("san_deploy.backends.trt._is_installed", lambda module: False)
    sessions.broken = {TENSORRT}
    with pytest.raises(SanError) as caught:
        open_backend(model, backend="onnxruntime-tensorrt")
    told = str(caught.value)
    assert "libnvinfer was not found: tensorrt is not installed" in told and "LD_LIBRARY_PATH" in told


def test_the_tensorrt_provider(sessions: Sessions, model: Path) -> None:
    backend = open_backend(model, backend="onnxruntime-tensorrt")
    assert backend.name == "onnxruntime (TensorRT, cuda:0 Fake GPU 0, sm75)"
    providers, options, _ = sessions.made[1]
    assert [name for name, _ in providers] == [TENSORRT, CUDA]
    assert providers[0][1] == {"device_id": "0", "trt_engine_cache_enable": "0"}
    assert providers[1][1]["use_tf32"] == "0"
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    np.testing.assert_allclose(backend(CROPS[:3]), slow(CROPS[:3]), atol=2e-6)


def test_the_options_are_known_to_onnx_runtime(model: Path) -> None:
    """The session's own options are set on a real session; the providers' are in libraries that are not here."""
    options = module._options()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # A session that was asked for nothing but the CPU has it refused, and so the option does something.
    with pytest.raises(Exception, match=r"(?i)fallback"):
        onnxruntime.InferenceSession(model.read_bytes(), options, providers=[CPU], enable_fallback=0)


@pytest.mark.parametrize(
    ("arguments", "broken"),
    [({"device": "cuda"}, CUDA), ({"backend": "onnxruntime-tensorrt"}, TENSORRT)],
)
def test_a_provider_that_is_left_out_is_an_error(
    sessions: Sessions, model: Path, arguments: dict[str, str], broken: str
) -> None:
    """ONNX Runtime goes on with the next one, and says so in its log alone."""
    sessions.broken = {broken}
    with pytest.raises(SanError, match=rf"ONNX Runtime was asked for {broken} and took .*\[cuda\]"):
        open_backend(model, **arguments)


def test_a_session_that_is_refused_is_an_error(sessions: Sessions, model: Path) -> None:
    sessions.refuse = "This session contains graph nodes that are assigned to the default CPU EP"
    with pytest.raises(
        SanError, match=r"does not run .*tiny\.onnx with CUDAEx.* assigned to the default CPU EP\."
    ):
        open_backend(model, device="cuda")


def test_auto_takes_the_gpu(sessions: Sessions, model: Path) -> None:
    backend = open_backend(model)
    assert backend.name == "onnxruntime (CUDA, cuda:0 Fake GPU 0, sm75)"
    assert backend.note == "--device auto took the GPU"


def test_auto_takes_the_cpu_where_the_gpu_does_not_work(sessions: Sessions, model: Path) -> None:
    sessions.broken = {CUDA}
    backend = open_backend(model, threads=2)
    assert backend.name == "onnxruntime (CPU, 2 threads)"
    assert backend.note.startswith(
        "--device auto took the CPU: ONNX Runtime was asked for CUDAExecutionProvider"
    )
    np.testing.assert_allclose(backend(CROPS), slow(CROPS), atol=2e-6)


def test_a_broken_file_is_told_of_the_file(sessions: Sessions, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(model.read_bytes()[:500])
    for device in ("auto", "cuda", "cpu"):
        with pytest.raises(SanError, match="cut short, or not an ONNX file"):
            open_backend(path, device=device)


def int8(path: Path, form: str) -> Path:
    calibration = Calibration(crops=1, crops_sha256="0" * 64, folder="x", seed=0, method="minmax", form=form)
    artefact = tiny_artefact(precision="int8", calibration=calibration)
    tiny_model(path)
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, artefact.metadata_props())
    save_model(graph, path)
    return path


def test_int8_of_the_cpu_is_for_no_gpu(sessions: Sessions, tmp_path: Path) -> None:
    path = int8(tmp_path / "m.onnx", "cpu")
    assert open_backend(path, device="cpu").note == ""
    for arguments in ({"device": "cuda"}, {"backend": "onnxruntime-tensorrt"}):
        with pytest.raises(
            SanError, match=r"form for CPUs.*san export FP32.onnx --int8 --calib DIR"
        ) as caught:
            open_backend(path, **arguments)
        assert str(path) in str(caught.value)
    assert all(providers == [CPU] for providers, _, _ in sessions.made)
    backend = open_backend(path)
    assert "CPU" in backend.name and backend.note.endswith("form for CPUs, which does not run on a GPU")


def test_int8_of_tensorrt_is_slow_elsewhere(sessions: Sessions, tmp_path: Path) -> None:
    path = int8(tmp_path / "m.onnx", "tensorrt")
    note = open_backend(path, device="cpu").note
    assert "slower than FP32 on a CPU" in note and "--runtime cpu" in note
    assert "no INT8 convolutions" in open_backend(path, device="cuda").note
    assert open_backend(path, backend="onnxruntime-tensorrt").note == ""
    assert "took the GPU; ONNX Runtime's CUDA" in open_backend(path).note


def test_the_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: ([], "no NVIDIA driver is installed"))
    backend = open_backend()
    assert backend.artefact.arch.startswith("san-")
    assert backend.note == ""
    with pytest.raises(UsageError, match="--backend torch takes"):
        open_backend(backend="torch")


@pytest.mark.parametrize("suffix", [".engine", ".plan"])
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_is_run_by_what_built_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, suffix: str
) -> None:
    rtx = runtime == "tensorrt-rtx"
    version = "1.7.1.116" if rtx else "10.16.1.11"
    path = fake_plan(tmp_path / f"m{suffix}", told={"runtime": runtime, "version": version})
    cuda, cudart = fake_cuda(devices=("sm86", "sm86"))
    trt = FakeTensorRT(cudart, version=version, rtx=rtx)
    asked: list[str] = []
    monkeypatch.setattr("san_deploy.backends.tensorrt.load", lambda: cuda)
    monkeypatch.setattr("san_deploy.backends.cuda.load", lambda: cuda)
    monkeypatch.setattr("san_deploy.backends.trt.load", lambda name: asked.append(name) or trt)
    for backend in ("auto", runtime):
        for device in ("auto", "cuda", "cuda:1"):
            opened = open_backend(path, backend=backend, device=device)
            assert opened.name.startswith(f"{runtime} {version} (cuda:{1 if device == 'cuda:1' else 0} ")
            np.testing.assert_allclose(opened(CROPS), slow(CROPS), atol=2e-6)
    assert set(asked) == {runtime}
    other = "tensorrt" if rtx else "tensorrt-rtx"
    with pytest.raises(UsageError, match=f"--backend {other} does not run .* It was built with {runtime}"):
        open_backend(path, backend=other)


def test_every_kind_refuses_the_files_of_others(tmp_path: Path) -> None:
    for suffix in {suffix for kind in BACKENDS.values() for suffix in kind.suffixes}:
        (tmp_path / f"m{suffix}").touch()
        for name, kind in BACKENDS.items():
            if suffix not in kind.suffixes:
                with pytest.raises(UsageError, match=f"--backend {name} takes"):
                    open_backend(tmp_path / f"m{suffix}", backend=name)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(SanError, match="does not exist"):
        open_backend(tmp_path / "none.engine")
    with pytest.raises(SanError, match="is not a file"):
        open_backend(tmp_path)
    (tmp_path / "m.pt").touch()
    with pytest.raises(SanError, match=r"of no kind that runs here\. Give an \.onnx or \.engine file"):
        open_backend(tmp_path / "m.pt")


def test_opened_by_hand(sessions: Sessions, model: Path) -> None:
    """Without `open_backend`, which is how an export checks its file."""
    backend = OnnxRuntime(model)
    assert backend.note == "" and backend.name.startswith("onnxruntime (CPU")
    assert dataclasses.replace(backend.artefact, sha256="") == tiny_artefact()
