"""Teachers: what they answer, and what is no teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from san_train.distill.teacher import open_teacher

from san_deploy.backends import STARTER
from san_deploy.errors import SanError, UsageError
from tests.san_train.distill.conftest import write_toy_teacher

CROPS = [np.random.default_rng(n).integers(0, 256, (40 + 7 * n, 20, 3), dtype=np.uint8) for n in range(3)]


def test_a_foreign_onnx_file_answers_with_rows_and_maps(toy_teacher: Path) -> None:
    teacher = open_teacher(toy_teacher)
    answers = teacher(CROPS)
    assert answers.rows.shape == (3, 12) and answers.rows.dtype == np.float32
    # The last map of each size: the convolution's; the pooled one is below 2 places wide.
    assert [part.shape for part in answers.maps] == [(3, 6, 8, 4)]
    assert np.allclose(
        answers.maps[0][:, :, :4].mean((2, 3)), answers.rows.reshape(3, 6, 2)[:, :, 0], atol=1e-4
    )
    alone = np.concatenate([teacher([crop]).rows for crop in CROPS])
    assert np.allclose(alone, answers.rows, atol=1e-6)


def test_forms_of_input_differ_as_they_say(toy_teacher: Path) -> None:
    bgr, rgb = (open_teacher(toy_teacher, form=form) for form in ("bgr", "rgb"))
    turned = [np.ascontiguousarray(crop[:, :, ::-1]) for crop in CROPS]
    assert np.allclose(bgr(CROPS).rows, rgb(turned).rows, atol=1e-4)
    grey = np.full((32, 16, 3), 128, np.uint8)
    normalised = open_teacher(toy_teacher, form="imagenet")([grey]).rows
    assert np.abs(normalised).max() < np.abs(bgr([grey]).rows).max()


def test_a_file_of_ours_knows_what_it_takes() -> None:
    answers = open_teacher(STARTER, form="rgb", threads=1)(CROPS)
    assert answers.rows.shape == (3, 128) and len(answers.maps) == 3
    assert np.allclose(np.linalg.norm(answers.rows, axis=1), 1, atol=1e-5)


def test_what_is_no_teacher(toy_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(SanError, match="does not exist"):
        open_teacher(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="--teacher-input"):
        open_teacher(toy_teacher, form="yuv")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(SanError, match="no ONNX file"):
        open_teacher(tmp_path / "text.onnx")
    (tmp_path / "model.pt").write_text("")
    with pytest.raises(SanError, match=r"model\.pt"):
        open_teacher(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"bias": float("nan")}, "NaN or infinity"),
        ({"gain": 0.0}, "same row for every crop.*--teacher-input"),
        ({"batch": 4}, "takes 4 crops at a time"),
        ({"half": True}, "fails on a crop.*float16"),
        ({"outputs": ("row", "halves")}, r"2 outputs \(row, halves\).*san import .* --output NAME"),
        ({"outputs": ()}, "0 outputs"),
        ({"outside": True}, "weights in another file.*san import"),
    ],
)
def test_what_cannot_answer_ends_before_the_views(tmp_path: Path, form: dict[str, Any], message: str) -> None:
    path = write_toy_teacher(tmp_path / "theirs.onnx", **form)
    with pytest.raises(SanError, match=message):
        open_teacher(path)


def test_one_crop_at_a_time_is_the_same(toy_teacher: Path, tmp_path: Path) -> None:
    found = open_teacher(write_toy_teacher(tmp_path / "one.onnx", batch=1))(CROPS)
    wanted = open_teacher(toy_teacher)(CROPS)
    assert np.allclose(found.rows, wanted.rows, atol=1e-5)
    assert np.allclose(found.maps[0], wanted.maps[0], atol=1e-5)


def test_windows_of_a_map_are_no_map_of_the_crop(tmp_path: Path) -> None:
    """As a transformer that looks at windows has them: two for each crop, one size of map by themselves."""
    path = write_toy_teacher(tmp_path / "windows.onnx", windows=2)
    answers = open_teacher(path)(CROPS)
    assert [part.shape for part in answers.maps] == [(3, 6, 8, 4)]


def test_several_outputs_of_an_ir(toy_teacher: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    two = write_toy_teacher(tmp_path / "two.onnx", outputs=("row", "halves"))
    model = openvino.Core().read_model(two)
    model.reshape([1, 3, 32, 16])
    openvino.save_model(model, tmp_path / "two.xml", compress_to_fp16=False)
    with pytest.raises(SanError, match="2 outputs"):
        open_teacher(tmp_path / "two.xml")


def test_openvino_answers_as_onnx_does(toy_teacher: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "toy.xml"
    model = openvino.Core().read_model(toy_teacher)
    model.reshape([1, 3, 32, 16])
    openvino.save_model(model, path, compress_to_fp16=False)
    found, wanted = open_teacher(path)(CROPS), open_teacher(toy_teacher)(CROPS)
    assert np.allclose(found.rows, wanted.rows, atol=1e-4)
    assert np.allclose(found.maps[0], wanted.maps[0], atol=1e-4)
    path.write_text(path.read_text().replace("AvgPool", "FancyPool"))
    with pytest.raises(SanError, match="FancyPool"):
        open_teacher(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(SanError, match="OpenVINO"):
        open_teacher(path)
