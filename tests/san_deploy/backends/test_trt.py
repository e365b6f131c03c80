"""Finding TensorRT's module, and keeping what it logs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from san_deploy.backends import trt
from san_deploy.errors import SanError, UsageError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`package("import nothing")`: a Python module `tensorrt` of that text is installed, and nothing else."""

    def install(text: str) -> None:
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    yield install
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed", exc_type=ImportError)


def test_what_is_there_is_found_without_importing_it() -> None:
    code = (
        "import json, sys\n"
        "from san_deploy.backends import trt\n"
        "print(json.dumps([trt.available(), [name for name in trt.MODULES.values() if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [trt.available(), []]
    assert set(trt.available()) <= set(trt.MODULES)


def test_an_installed_one_is_loaded_by_our_name(rtx: Any) -> None:
    assert "tensorrt-rtx" in trt.available()
    assert trt.load("tensorrt-rtx") is rtx
    assert trt.version(rtx) == rtx.__version__


@pytest.mark.parametrize("runtime", ["trt", "tensorrt_rtx", ""])
def test_another_runtime_is_wrong_usage(runtime: str) -> None:
    with pytest.raises(UsageError, match="there are tensorrt and tensorrt-rtx"):
        trt.load(runtime)


@pytest.mark.parametrize(
    "runtime, advice",
    [
        (
            "tensorrt",
            ["JetPack", "--system-site-packages", "pip install '.[tensorrt-cu12]'", "[tensorrt-cu13]"],
        ),
        ("tensorrt-rtx", ["pip install '.[rtx]'", "x86-64"]),
    ],
)
def test_a_missing_one_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, runtime: str, advice: list[str]
) -> None:
    monkeypatch.setattr(trt, "_is_installed", lambda module: False)
    with pytest.raises(SanError, match=f"{runtime} is not installed") as caught:
        trt.load(runtime)
    assert all(part in str(caught.value) for part in advice) and "\n" not in str(caught.value)
    assert trt.available() == []


@pytest.mark.parametrize(
    "text, why",
    [
        (
            "import tensorrt_bindings_that_are_not_there",
            "No module named 'tensorrt_bindings_that_are_not_there'",
        ),
        (
            "raise ImportError('libnvinfer.so.10: cannot\\nopen shared object file')",
            "libnvinfer.so.10: cannot open",
        ),
        ("raise OSError('libcudart.so.13: cannot open')", "libcudart.so.13"),
        ("raise FileNotFoundError('Could not find: nvinfer')", "Could not find: nvinfer"),
    ],
)
def test_one_that_does_not_load(package: Callable[[str], None], text: str, why: str) -> None:
    package(text)
    assert "tensorrt" in trt.available()
    with pytest.raises(SanError, match="tensorrt is installed, but does not load") as caught:
        trt.load("tensorrt")
    assert why in str(caught.value) and "pip install" in str(caught.value) and "\n" not in str(caught.value)


def test_a_bug_in_it_keeps_its_traceback(package: Callable[[str], None]) -> None:
    package("1 / 0")
    with pytest.raises(ZeroDivisionError):
        trt.load("tensorrt")


@pytest.mark.parametrize("text", ["__version__ = '8.5.2'\nclass Builder: pass", ""])
def test_one_that_is_too_old_or_something_else(package: Callable[[str], None], text: str) -> None:
    package(text)
    with pytest.raises(SanError, match="is not a tensorrt that works here") as caught:
        trt.load("tensorrt")
    assert ("ersion 8.5.2" if text else "ersion unknown") in str(caught.value)


def test_a_folder_of_that_name_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Callable[[str], None]
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "samples.txt").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not trt._is_installed("tensorrt")
    with pytest.raises(SanError, match="is not installed"):
        trt.load("tensorrt")


def test_a_module_without_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trt.version(ModuleType("tensorrt")) == "unknown"


# The logger


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A logger of a simulated module, fresh."""
    from tests.fakes.tensorrt import FakeTensorRT

    monkeypatch.setattr(trt, "_loggers", {})
    return trt.logger(FakeTensorRT("10.16.1"))


def levels() -> Any:
    from tests.fakes.tensorrt import ILogger

    return ILogger.Severity


def test_one_logger_for_the_whole_process(rtx: Any) -> None:
    assert trt.logger(rtx) is trt.logger(rtx) and isinstance(trt.logger(rtx), rtx.ILogger)
    found = []
    threads = [threading.Thread(target=lambda: found.append(trt.logger(rtx))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(item) for item in found}) == 1


def test_tensorrts_errors_are_collected_and_not_printed(rtx: Any, capfd: pytest.CaptureFixture[str]) -> None:
    builder = rtx.Builder(trt.logger(rtx))
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, trt.logger(rtx))
    with trt.collected() as messages:
        assert not parser.parse(b"no onnx file")
    assert "Failed to parse the ONNX model" in messages.why() and "\n" not in messages.why()
    # What comes later belongs to nobody.
    count = len(messages.errors)
    parser.parse(b"again")
    assert len(messages.errors) == count
    assert capfd.readouterr() == ("", "")


def test_errors_and_warnings_alone_are_kept(made: Any) -> None:
    level = levels()
    with trt.collected() as messages:
        for severity in level:
            made.log(severity, f"of {severity.name}")
    assert list(messages.errors) == ["of INTERNAL_ERROR", "of ERROR"] and list(messages.warnings) == [
        "of WARNING"
    ]
    made.log(level.ERROR, "when nobody listens")


def test_who_listens_within_another_hears_both(made: Any) -> None:
    error = levels().ERROR
    with trt.collected() as outer:
        made.log(error, "one")
        with trt.collected() as inner:
            made.log(error, "two")
        made.log(error, "three")
    assert list(outer.errors) == ["one", "two", "three"] and list(inner.errors) == ["two"]


def test_listening_ends_with_an_error_too(made: Any) -> None:
    with pytest.raises(ZeroDivisionError), trt.collected():
        1 / 0  # noqa: B018
    assert trt._listeners == []


def test_all_threads_are_heard_and_the_newest_lines_kept(made: Any) -> None:
    def log(name: str) -> None:
        for index in range(500):
            made.log(levels().ERROR, f"{name} {index}")

    with trt.collected() as messages:
        threads = [threading.Thread(target=log, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made.log(levels().ERROR, "the last")
    assert len(messages.errors) == 20 and messages.errors[-1] == "the last"


def test_why_is_one_line_of_the_last_different_errors(made: Any) -> None:
    with trt.collected() as messages:
        assert messages.why() == ""
        for text in ("first", "a\n  b\t c", "a b c", "x" * 400, "last"):
            made.log(levels().ERROR, text)
    assert messages.why() == f"a b c; {'x' * 297}...; last"
    assert messages.why(1) == "last"
