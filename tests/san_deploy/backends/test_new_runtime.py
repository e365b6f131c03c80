"""A new runtime is one file and one row: everything else reads the table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from san_deploy import backends
from san_deploy.backends import BackendSpec, open_backend
from san_deploy.errors import UsageError
from tests.conftest import Result

San = Callable[..., Result]

#: The one file.
FILE = """
from pathlib import Path

import numpy as np

from san_deploy.backends.common import check_embeddings, other_files, prepare
from san_deploy.backends.info import Compatibility, FileInfo
from san_deploy.backends.spec import Installed
from tests.tiny_models import tiny_artefact


class Toy:
    name, note = "toy (an abacus)", ""

    def __init__(self, path, device):
        self.path, self.device = path, device
        self.artefact = tiny_artefact(sha256="5" * 64)

    def __call__(self, crops):
        batch = prepare(self.artefact, crops)
        rows = np.eye(8, dtype=np.float32)[batch.reshape(len(batch), -1).max(axis=1) % 8]
        return check_embeddings(rows, shape=(len(crops), 8), path=self.path, do="buy beads")


def open_model(spec, request):
    return Toy(request.path, request.device)


def installed(spec):
    return Installed(spec.name, "3.14")


def read_file(path):
    artefact = tiny_artefact(sha256="5" * 64)
    return FileInfo(path, "abacus", path.stat().st_size, "5" * 64, "", artefact=artefact)


def diagnose(spec, file):
    if not spec.takes(file.path):
        return other_files(spec, file)
    return [Compatibility(spec.name, "", True, "there are beads enough")]
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file of the new runtime."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "toy_runtime.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    row = BackendSpec(
        "toy", "toy_runtime", (".toy",), ("cpu",), packages=("pytest",), kind="abacus", int8_form="cpu"
    )
    monkeypatch.setitem(backends.BACKENDS, "toy", row)
    path = tmp_path / "model.toy"
    path.write_bytes(b"beads")
    return path


def test_it_opens_its_files(toy: Path, model: Path) -> None:
    crops = np.zeros((3, 32, 16, 3), np.uint8)
    for name in ("auto", "toy"):
        backend = open_backend(toy, backend=name, device="cpu")
        assert backend.name == "toy (an abacus)" and backend(crops).shape == (3, 8)
    assert open_backend(toy.rename(toy.with_name("M.TOY")), backend="toy").name.startswith("toy")
    with pytest.raises(UsageError, match=r"--device cuda does not fit: toy runs .* on cpu alone"):
        open_backend(toy.with_name("M.TOY"), device="cuda")
    with pytest.raises(UsageError, match=r"--backend toy takes \.toy, not"):
        open_backend(model, backend="toy")
    with pytest.raises(UsageError, match=r"one of auto, onnxruntime, .*, toy"):
        open_backend(model, backend="nonsense")


def test_the_commands_know_it(san: San, toy: Path, model: Path, crops: Path) -> None:
    assert "torch or toy" in " ".join(san("embed", "--help").out.split())
    out = san("info", toy).out
    assert f"{toy}: abacus" in out and "toy: yes, there are beads enough" in out
    assert "onnxruntime, onnxruntime-tensorrt, openvino: no, it takes .onnx files" in out
    assert "toy: no, it takes .toy files" in san("info", model).out
    machine = json.loads(san("info", "--json").out)
    assert machine["backends"]["toy"] == "3.14" and "pytest" in machine["packages"]
    quick = ("--rounds", 1, "--seconds", "0.01", "--warmup", 0, "--batch", "2")
    told = json.loads(san("bench", crops, "-m", toy, *quick, "--json").out)
    assert told["models"][0]["runtime"] == "toy (an abacus)" and "pytest" in told["versions"]
    san("embed", crops, "-m", toy, "-o", crops.parent / "rows.npz")
    assert len(np.load(crops.parent / "rows.npz")["embedding"]) == 11


def test_the_table_imports_no_runtime() -> None:
    code = (
        "import sys; from san_deploy.backends import BACKENDS;"
        "sys.exit(bool({'onnxruntime', 'torch', 'tensorrt'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
