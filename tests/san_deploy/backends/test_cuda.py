"""libcudart through ctypes: found, loaded, every status looked at, everything freed once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from san_deploy.backends import cuda as module
from san_deploy.backends.cuda import (
    Cuda,
    Device,
    candidates,
    devices,
    load,
    probe,
    require,
    runtime_version,
)
from san_deploy.errors import SanError
from tests.fakes.cuda import fake_cuda


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for anew, before and after."""
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture
def real() -> Cuda:
    """libcudart itself."""
    try:
        return load()
    except SanError as error:
        pytest.skip(f"no CUDA runtime here: {error}")


@pytest.fixture
def no_driver(real: Cuda) -> Cuda:
    if real.driver_version():
        pytest.skip("a driver is here")
    return real


def test_the_real_library_loads(real: Cuda) -> None:
    """With every function that we call, whatever its version."""
    version = real.runtime_version()
    assert version.split(".")[0].isdecimal() and version == runtime_version()
    assert real.path


def test_without_a_driver(no_driver: Cuda) -> None:
    assert devices() == [] and probe() == ([], "no NVIDIA driver is installed")
    with pytest.raises(SanError, match=r"there is no GPU cuda:0 here\. No NVIDIA driver.* Install"):
        require(0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("device_memory", (100,)),
        ("pinned_memory", (100,)),
        ("stream", ()),
        ("event", ()),
        ("device_count", ()),
        ("device", (0,)),
        ("set_device", (0,)),
    ],
)
def test_the_real_library_refuses_without_a_driver(
    no_driver: Cuda, name: str, arguments: tuple[int, ...]
) -> None:
    with pytest.raises(SanError, match=r"cuda\w+ failed: cudaErrorInsufficientDriver \(35\): CUDA driver"):
        getattr(no_driver, name)(*arguments)


def test_unknown_status(real: Cuda) -> None:
    assert real.words(99_999).endswith("(99999): unrecognized error code")


@pytest.mark.parametrize("number, words", [(13020, "13.2"), (12060, "12.6"), (11080, "11.8"), (0, "")])
def test_versions(number: int, words: str) -> None:
    assert module._version(number) == words


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels first, then what the environment names, then the system's folders, then the loader."""
    wheel = tmp_path / "site" / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    newer = tmp_path / "site" / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
    jetson = tmp_path / "home [1]" / "targets" / "aarch64-linux" / "lib" / "libcudart.so.12"
    for path in (wheel, newer, jetson):
        path.parent.mkdir(parents=True)
        path.touch()
    (jetson.parent / "libcudart.so").symlink_to(jetson)
    monkeypatch.setattr("sys.path", [str(tmp_path / "site"), str(tmp_path / "none")])
    monkeypatch.setattr(module, "_is_loaded", lambda name: name == "libcudart.so.12")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home [1]"))
    found = list(candidates())
    assert found[:4] == ["libcudart.so.12", str(wheel), str(newer), str(jetson)]
    assert found[-3:] == ["libcudart.so.13", "libcudart.so.12", "libcudart.so"]
    assert all(path.startswith("/usr/local/cuda") for path in found[4:-3])


def test_what_does_not_load_is_passed_over(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "libcudart.so.13"
    broken.write_bytes(b"\x7fELF no library")
    monkeypatch.setattr(module, "candidates", lambda: iter([str(broken), str(tmp_path / "none.so")]))
    with pytest.raises(
        SanError, match=r"cannot be loaded\. .*libcudart\.so\.13.* pip install nvidia-cuda-runtime"
    ):
        load()
    assert probe()[0] == [] and "libcudart" in probe()[1] and runtime_version() == ""
    with pytest.raises(SanError, match="there is no GPU cuda:0 here"):
        require(0)


def test_a_library_that_is_none_of_cuda(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one too old: a function is missing."""
    monkeypatch.setattr(module, "candidates", lambda: iter(["libc.so.6"]))
    with pytest.raises(SanError, match="undefined symbol: cudaRuntimeGetVersion"):
        load()


def test_the_library_that_fits_the_driver_is_taken(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """libcudart 13 beside a driver of CUDA 12 answers every call with an error."""
    libraries = {
        "13": fake_cuda(driver=0)[1],
        "12": fake_cuda()[1],
        "11": fake_cuda()[1],
    }
    monkeypatch.setattr(module, "candidates", lambda: iter(libraries))
    monkeypatch.setattr(module.ctypes, "CDLL", libraries.__getitem__)
    assert load().path == "12"
    load.cache_clear()
    del libraries["12"], libraries["11"]
    assert load().path == "13"


def test_devices(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, _ = fake_cuda(devices=("sm87", "sm120"))
    monkeypatch.setattr(module, "load", lambda: cuda)
    expected = [Device("Fake GPU 0", "sm87", 0), Device("Fake GPU 1", "sm120", 1)]
    assert devices() == expected and probe() == (expected, "")
    assert str(require(1)) == "cuda:1 Fake GPU 1 (sm120)"
    with pytest.raises(SanError, match=r"there is no GPU cuda:2\. Found: cuda:0 Fake GPU 0 \(sm87\), cuda:1"):
        require(2)


def test_a_driver_without_a_gpu(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, _ = fake_cuda(devices=())
    monkeypatch.setattr(module, "load", lambda: cuda)
    found, why = probe()
    assert found == [] and "cudaErrorNoDevice (100): no CUDA-capable device is detected" in why


def test_buffers() -> None:
    cuda, library = fake_cuda()
    with cuda.pinned_memory(100) as pinned, cuda.device_memory(100) as memory, cuda.stream() as stream:
        view = pinned.array((5, 5), np.float32)
        view[:] = np.arange(25).reshape(5, 5)
        stream.copy_to_device(memory, pinned, 100)
        stream.synchronise()
        view[:] = 0
        stream.copy_to_host(pinned, memory, 40)
        stream.synchronise()
        assert view.ravel().tolist() == [*map(float, range(10))] + [0.0] * 15
        for size in (0, 101, -1):
            with pytest.raises(ValueError, match="bytes between buffers of 100 and 100"):
                stream.copy_to_host(pinned, memory, size)
        with pytest.raises(ValueError, match="needs 104 bytes, here are 100"):
            pinned.array((26,), np.float32)
    assert not library.alive()
    # A view of freed memory would end the process.
    with pytest.raises(ValueError, match="here are 0"):
        pinned.array((1,), np.float32)


@pytest.mark.parametrize("name", ["device_memory", "pinned_memory", "stream", "event"])
def test_freed_once(name: str) -> None:
    cuda, library = fake_cuda()
    arguments = (10,) if "memory" in name else ()
    owner = getattr(cuda, name)(*arguments)
    with owner:
        assert sum(library.alive().values()) == 1
    owner.close()
    forgotten = getattr(cuda, name)(*arguments)
    assert sum(library.alive().values()) == 1
    del owner, forgotten
    gc.collect()
    assert not library.alive()
    freed = [call for call in library.log if "Free" in call or "Destroy" in call]
    assert len(freed) == 2


def test_freeing_is_looked_at_where_somebody_waits_for_it() -> None:
    cuda, library = fake_cuda()
    memory = cuda.device_memory(10)
    library.fail["cudaFree"] = (0, 700)
    with pytest.raises(SanError, match="cudaFree failed: cudaErrorIllegalAddress"):
        memory.close()
    memory.close()
    assert library.log.count("cudaFree") == 1
    # Where nobody does, at the end of its life, it is quiet.
    memory = cuda.device_memory(10)
    del memory
    gc.collect()
    assert library.log.count("cudaFree") == 2


def test_success_without_a_handle_is_an_error() -> None:
    cuda, library = fake_cuda()
    library.cudaMalloc = lambda out, size: 0  # type: ignore[attr-defined]
    with pytest.raises(SanError, match="cudaMalloc reported success but gave nothing"):
        cuda.device_memory(10)


def test_times() -> None:
    cuda, _ = fake_cuda()
    with cuda.stream() as stream, cuda.event(timing=True) as begin, cuda.event(timing=True) as end:
        with cuda.pinned_memory(8) as pinned, cuda.device_memory(8) as memory:
            stream.record(begin)
            stream.copy_to_device(memory, pinned, 8)
            stream.record(end)
            end.wait()
            assert end.milliseconds_since(begin) == 3.0
        with cuda.event() as quick, pytest.raises(SanError, match="cudaEventElapsedTime failed"):
            quick.milliseconds_since(begin)


def test_a_recording_that_fails_leaves_the_stream_usable() -> None:
    cuda, library = fake_cuda()
    with cuda.stream() as stream, cuda.event() as event:

        def fails() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stream.capture(fails)
        # Waiting for the stream while it is recorded is not allowed, and tells only at the end.
        with pytest.raises(SanError, match="cudaStreamSynchronize failed"):
            stream.capture(stream.synchronise)
        with stream.capture(lambda: None) as graph:
            stream.launch(graph)
        stream.record(event)
        event.wait()
    assert not library.alive()


def test_no_failure_is_left_for_the_next_who_asks() -> None:
    """TensorRT asks for the last error after its launches, and takes an old one for its own."""
    cuda, library = fake_cuda()
    library.fail["cudaMalloc"] = (0, 2)
    with pytest.raises(SanError, match="out of memory"):
        cuda.device_memory(8)
    library.fail.clear()
    assert library.last_error() == 0
    with cuda.stream() as stream:
        with pytest.raises(SanError, match="cudaErrorStreamCaptureInvalidated"):
            stream.capture(lambda: library.spoil(stream.handle))
        assert library.last_error() == 0

        def fails() -> None:
            library.spoil(stream.handle)
            raise SanError("refused while recording")

        with pytest.raises(SanError, match="refused while recording"):
            stream.capture(fails)
        assert library.last_error() == 0
    # Nobody closes this one; its failure is nobody's.
    memory = cuda.device_memory(8)
    library.fail["cudaFree"] = (0, 1)
    del memory
    gc.collect()
    assert library.last_error() == 0
