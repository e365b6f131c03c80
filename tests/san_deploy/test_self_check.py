"""A machine is held against the rows that a network gave for the package's sample crops."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from san_deploy import self_check
from san_deploy.artefact import Artefact, Samples, sidecar_path
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import GateError, SanError
from san_deploy.self_check import check, check_once, keep_samples, sample_crops, skipped
from tests.tiny_models import tiny_artefact, tiny_model

GATE = {"gate": {"min_cosine": 0.999}}


class Noisy:
    """The tiny network with some noise on its rows."""

    note = ""

    def __init__(
        self, path: Path, artefact: Artefact, noise: float = 0.0, name: str = "tensorrt (cuda:0 T4)"
    ) -> None:
        self.artefact, self.name, self.noise, self.calls = artefact, name, noise, 0
        self._exact = OnnxRuntime(path)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        self.calls += 1
        rows = self._exact(crops) + np.random.default_rng(0).normal(0, self.noise, (len(crops), 8))
        unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit


@pytest.fixture
def artefact(model: Path) -> Artefact:
    plain = tiny_artefact(checks=GATE, sha256="7" * 64)
    return dataclasses.replace(plain, samples=keep_samples(plain, OnnxRuntime(model), source="onnx fp32"))


def test_the_rows_of_the_network(model: Path, artefact: Artefact) -> None:
    found = check(Noisy(model, artefact))
    assert found.crops == found.same_nearest == 12 and found.same_pixels and found.failures == ()
    assert found.min_cosine == pytest.approx(1.0) and found.allowance == {"min_cosine": 0.999}
    assert found.source in found.lines()[0] and "within the gate of the file" in found.lines()[-1]


def test_other_rows_fail(model: Path, artefact: Artefact) -> None:
    backend = Noisy(model, artefact, noise=0.2)
    found = check(backend)
    cosine = (backend(sample_crops(artefact)) * OnnxRuntime(model)(sample_crops(artefact))).sum(axis=1)
    assert found.min_cosine == pytest.approx(float(cosine.min()), abs=1e-6) and found.min_cosine < 0.999
    assert found.failures and found.same_nearest < 12


def test_other_pixels_are_said(model: Path, artefact: Artefact) -> None:
    assert artefact.samples is not None
    other = dataclasses.replace(artefact.samples, crops_sha256="0" * 64)
    found = check(Noisy(model, dataclasses.replace(artefact, samples=other)))
    assert not found.same_pixels and any("slightly other pixels" in line for line in found.lines())


def test_the_allowance_is_that_of_its_precision(model: Path, artefact: Artefact) -> None:
    checks = {**GATE, "fp16": {"gate": {"p1_cosine": 0.98, "mean_cosine": 0.99}}}
    for precision, names in (("fp16", {"p1_cosine", "mean_cosine"}), ("fp32", {"min_cosine"})):
        changed = dataclasses.replace(artefact, precision=precision, checks=checks)
        assert set(check(Noisy(model, changed)).allowance) == names
    assert check(Noisy(model, dataclasses.replace(artefact, checks={}))).allowance == {}


def test_other_sample_crops_say_nothing(model: Path, artefact: Artefact, tmp_path: Path) -> None:
    assert artefact.samples is not None
    other = dataclasses.replace(artefact.samples, files_sha256="0" * 64)
    backend = Noisy(model, dataclasses.replace(artefact, samples=other), noise=0.5)
    with pytest.raises(SanError, match="rows of other sample crops"):
        check(backend)
    check_once(backend, tmp_path / "model.engine")


def test_an_old_file_keeps_no_rows(model: Path) -> None:
    with pytest.raises(SanError, match="keeps no rows of the sample crops"):
        check(Noisy(model, tiny_artefact()))


def test_the_first_load_is_checked_and_kept(model: Path, artefact: Artefact, tmp_path: Path) -> None:
    plan = tmp_path / "model.engine"
    first = Noisy(model, artefact)
    check_once(first, plan)
    kept = json.loads((tmp_path / "model.engine.checked.json").read_text())
    assert first.calls == 1 and list(kept) == [f"{'7' * 64} on tensorrt (cuda:0 T4)"]
    check_once(first, plan)
    assert first.calls == 1
    # Another device, another engine under the same name.
    for other in (
        Noisy(model, artefact, name="tensorrt (cuda:1 A2)"),
        Noisy(model, dataclasses.replace(artefact, sha256="8" * 64)),
    ):
        check_once(other, plan)
        assert other.calls == 1
    assert len(json.loads((tmp_path / "model.engine.checked.json").read_text())) == 3


def test_a_first_load_that_fails(model: Path, artefact: Artefact, tmp_path: Path) -> None:
    bad = Noisy(model, artefact, noise=0.2)
    with pytest.raises(
        GateError, match="gives other rows on this device than the network did: least cosine is 0"
    ):
        check_once(bad, tmp_path / "model.engine")
    assert not list(tmp_path.glob("*.checked.json"))
    with skipped():
        check_once(bad, tmp_path / "model.engine")
    assert bad.calls == 1
    check_once(Noisy(model, tiny_artefact()), tmp_path / "model.engine")


def test_the_users_cache_where_the_folder_cannot_be_written(
    model: Path, artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "read-only", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and real(path, mode))
    backend = Noisy(model, artefact)
    for _ in range(2):
        check_once(backend, folder / "model.engine")
    assert backend.calls == 1 and list(folder.iterdir()) == []
    assert (cache / "san-deploy" / "model.engine.checked.json").is_file()


def test_damaged_notes_are_no_notes(model: Path, artefact: Artefact, tmp_path: Path) -> None:
    for text in ("{", "[]", "[" * 10_000):
        (tmp_path / "model.engine.checked.json").write_text(text)
        backend = Noisy(model, artefact)
        check_once(backend, tmp_path / "model.engine")
        assert backend.calls == 1


def test_info_run(san: Callable[..., object], tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.onnx")
    samples = keep_samples(tiny_artefact(), OnnxRuntime(path), source="onnx fp32")
    right = tiny_model(tmp_path / "right.onnx", told={"samples": samples, "checks": GATE})
    out = san("info", right, "--run").out  # type: ignore[attr-defined]
    assert (
        "12 sample crops against onnx fp32: cosine 1.0000000 at least" in out
        and "within the gate of the file" in out
    )
    assert json.loads(san("info", right, "--run", "--json").out)["same_nearest"] == 12  # type: ignore[attr-defined]
    other = Samples.of(
        sample_crops(tiny_artefact()), samples.array()[::-1], files_sha256=samples.files_sha256, source=""
    )
    wrong = tiny_model(tmp_path / "wrong.onnx", told={"samples": other, "checks": GATE})
    assert "gives other rows here than the network did" in san("info", wrong, "--run", code=3).err  # type: ignore[attr-defined]
    assert "keeps no rows" in san("info", path, "--run", code=1).err  # type: ignore[attr-defined]
    assert "are of a file" in san("info", "--run", code=2).err  # type: ignore[attr-defined]


def test_the_starter_proves_itself(san: Callable[..., object]) -> None:
    from san_deploy.data import STARTER

    result = json.loads(san("info", STARTER, "--run", "--json", "--device", "cpu").out)  # type: ignore[attr-defined]
    assert (
        result["source"] == "torch fp32" and result["failures"] == [] and result["crops"] == self_check.COUNT
    )


def test_adopt(san: Callable[..., object], tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "old.onnx"
    tiny_model(path)
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, dataclasses.replace(tiny_artefact(), space="").metadata_props())
    onnx.save(graph, path)
    crops = sample_crops(tiny_artefact())
    before = OnnxRuntime(path)
    assert "nothing vouches" in san("info", path).out  # type: ignore[attr-defined]
    assert "old.onnx.json beside it agrees" in san("info", path, "--adopt").out  # type: ignore[attr-defined]
    after = OnnxRuntime(path)
    assert after.note == "" and after.artefact.space == before.artefact.space
    np.testing.assert_array_equal(after(crops), before(crops))
    sidecar_path(path).unlink()
    assert OnnxRuntime(path).integrity.state == "whole"
    assert "carries its hash already" in san("info", path, "--adopt", code=2).err  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is damaged" in san("info", path, "--adopt", code=1).err  # type: ignore[attr-defined]
