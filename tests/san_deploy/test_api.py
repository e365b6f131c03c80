"""The public API: what `san_deploy` lists, what its pages show, and the embedder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import san_deploy
from san_deploy import Embedder, SanError, UnreadableImage, UsageError, load_artefact, match, read_image
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.embedder import clip_boxes
from san_deploy.preprocess import resize_crop

ROOT = Path(san_deploy.__file__).parents[1]
PAGES = ("README.md", "docs/api.md")


def examples() -> list[str]:
    found = []
    for page in PAGES:
        found += re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return found


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, san_deploy; print(sorted(m for m in ('numpy', 'click', 'onnxruntime') if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there_and_described() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for name in san_deploy.__all__:
        assert getattr(san_deploy, name).__name__ == name and f"`{name}`" in page
    assert set(san_deploy.__all__) <= set(dir(san_deploy))
    with pytest.raises(AttributeError, match="nonsense"):
        san_deploy.nonsense  # noqa: B018


def test_examples_pass_mypy_strict_from_outside(tmp_path: Path) -> None:
    files = []
    for number, example in enumerate(examples()):
        files.append(tmp_path / f"example{number}.py")
        files[-1].write_text(example, encoding="utf-8")
    # What is not an example is imported as an installed package is: its own errors are its own.
    command = [
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        "--cache-dir",
        str(tmp_path / "c"),
    ]
    mypy = subprocess.run(
        [sys.executable, "-m", *command, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
    )
    assert len(files) >= 6 and mypy.returncode == 0, mypy.stdout + mypy.stderr


@pytest.mark.parametrize("example", examples())
def test_examples_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, crops: Path
) -> None:
    model.rename(tmp_path / "model.onnx")
    for camera in ("cam1", "cam2"):
        (tmp_path / camera).symlink_to(crops)
    # Two cameras of one folder are refused, so the second is a copy.
    (tmp_path / "cam2").unlink()
    (tmp_path / "cam2" / "t1").mkdir(parents=True)
    for name, size in (("a", (64, 128)), ("b", (50, 100)), ("frame", (640, 480)), ("cam2/t1/1", (32, 64))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    if "match(" in example:
        # The tiny model brings no threshold.
        example = example.replace("embedder)  #", "embedder, threshold=0.5)  #")
    exec(compile(example, "example", "exec"), {})


@pytest.fixture
def embedder(model: Path) -> Embedder:
    return Embedder(model, batch=2)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (40 + n, 20 + n, 3), dtype=np.uint8) for n in range(count)]


def test_crops_of_any_sizes(embedder: Embedder, model: Path) -> None:
    crops = pictures(5)
    prepared = np.stack([resize_crop(crop, (32, 16)) for crop in crops])
    expected = OnnxRuntime(model)(prepared)
    np.testing.assert_array_equal(embedder(crops), expected)
    np.testing.assert_array_equal(embedder(prepared), expected)
    same_size = np.stack([crops[0]] * 3)
    np.testing.assert_array_equal(embedder(same_size), np.stack([expected[0]] * 3))
    assert embedder([]).shape == (0, 8) and embedder(prepared[:0]).shape == (0, 8)
    assert embedder([]).dtype == np.float32
    assert (embedder.size_hw, embedder.embedding_dim) == ((32, 16), 8)


@pytest.mark.parametrize(
    "crop", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "x"]
)
def test_what_is_no_crop(embedder: Embedder, crop: object) -> None:
    with pytest.raises(UsageError, match=r"a crop is \(H, W, 3\) uint8 BGR; received"):
        embedder([crop])  # type: ignore[list-item]


def test_an_open_backend_and_its_options(model: Path) -> None:
    backend = OnnxRuntime(model, threads=1)
    assert Embedder(backend).backend is backend
    assert "1 thread" in Embedder(str(model), num_threads=1, device="cpu").name
    with pytest.raises(UsageError, match="batch"):
        Embedder(model, batch=0)
    with pytest.raises(SanError, match="does not exist"):
        Embedder(model.with_name("none.onnx"))


def test_paths(embedder: Embedder, crops: Path) -> None:
    files = sorted(crops.rglob("*.png"))
    expected = embedder([read_image(str(file)) for file in files])
    np.testing.assert_array_equal(embedder.embed_paths(map(str, files), workers=2), expected)
    assert embedder.embed_paths([]).shape == (0, 8)
    with pytest.raises(UnreadableImage, match="gone"):
        embedder.embed_paths([*files, crops / "gone.png"])


def test_boxes(embedder: Embedder) -> None:
    frame = np.random.default_rng(5).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    boxes = [[10.2, 5.9, 30.1, 50.0], [-20, -3, 15, 200], [70, 50, 1e9, 1e9]]
    expected = embedder([frame[5:50, 10:31], frame[0:60, 0:15], frame[50:60, 70:80]])
    np.testing.assert_array_equal(embedder.embed_boxes(frame, boxes), expected)
    rows, kept = embedder.embed_boxes(
        frame, [[80, 0, 90, 10], *boxes, [5, 5, 5, 9], [9, 9, 2, 2]], empty="mask"
    )
    assert kept.tolist() == [False, True, True, True, False, False]
    np.testing.assert_array_equal(rows, expected)
    assert embedder.embed_boxes(frame, []).shape == (0, 8)
    assert embedder.embed_boxes(frame, np.empty((0, 4))).shape == (0, 8)


class ContractTracker:
    """What BoxMOT's trackers check of their input (`BaseTracker.check_inputs`), and what they do with features."""

    def __init__(self, model: Any = None) -> None:
        self.model = model
        self.seen: list[np.ndarray] = []

    def update(self, dets: np.ndarray, img: np.ndarray, embs: np.ndarray | None = None) -> None:
        assert isinstance(dets, np.ndarray) and dets.ndim == 2 and dets.shape[1] == 6
        assert isinstance(img, np.ndarray) and img.dtype == np.uint8
        if embs is None:
            embs = self.model.get_features(dets[:, :4], img)
        assert isinstance(embs, np.ndarray) and embs.dtype == np.float32 and len(embs) == len(dets)
        # Its back ends bring features to length 1, rows alone or, in earlier versions, all of them together.
        for features in (embs / np.linalg.norm(embs, axis=-1, keepdims=True), embs / np.linalg.norm(embs)):
            again = features / np.linalg.norm(features, axis=-1, keepdims=True)
            np.testing.assert_allclose(again, embs, atol=1e-6)
        self.seen.append(embs)


def test_a_tracker_of_boxmots_contract(embedder: Embedder) -> None:
    """The adapter of docs/api.md, as it stands there."""
    source = next(text for text in examples() if "class Appearance" in text)
    namespace: dict[str, Any] = {}
    exec(
        "import numpy as np\nimport numpy.typing as npt\nfrom san_deploy import Embedder\n"
        + source[source.index("class ") : source.index("print(")],
        namespace,
    )
    frame = np.random.default_rng(5).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    dets = np.array([[10.2, 5.9, 30.1, 50.0, 0.9, 0], [80, 0, 90, 10, 0.5, 0], [40, 3, 60, 55, 0.8, 0]])
    tracker = ContractTracker(namespace["Appearance"](embedder))
    rows, kept = embedder.embed_boxes(frame, dets[:, :4], empty="mask")
    tracker.update(dets[kept], frame, rows)
    tracker.update(dets[kept], frame)
    expected = embedder([frame[5:50, 10:31], frame[3:55, 40:60]])
    for embs in tracker.seen:
        np.testing.assert_array_equal(embs, expected)
    # A frame without anybody: BoxMOT's trackers are called all the same.
    assert tracker.model.get_features(np.empty((0, 4)), frame).shape == (0, 8)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[80, 0, 90, 10]], r"1 of 1 boxes have no pixel in the frame\. The first is box 0, .* in 80 x 60"),
        ([[0, 0, 10, np.nan]], "NaN or infinity"),
        ([[0, 0, np.inf, 5]], "NaN or infinity"),
        ([0, 0, 10, 10], r"received \(4,\)"),
        ([["a"] * 4], "boxes are"),
        ([[0, 0, 10], [0, 0, 10, 10]], "boxes are"),
    ],
)
def test_bad_boxes(embedder: Embedder, boxes: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        embedder.embed_boxes(np.zeros((60, 80, 3), np.uint8), boxes)  # type: ignore[call-overload]


def test_boxes_are_clipped_as_pixels_are_counted() -> None:
    frame = np.zeros((10, 20, 3), np.uint8)
    assert clip_boxes([[0.5, 0.5, 0.9, 0.9], [-5, -5, 99, 99]], frame).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 20, 10],
    ]
    with pytest.raises(UsageError, match="a frame is"):
        clip_boxes([[0, 0, 1, 1]], np.zeros((10, 20), np.uint8))


def test_load_artefact(model: Path, tmp_path: Path) -> None:
    assert load_artefact(str(model)).embedding_dim == 8
    (tmp_path / "a.txt").touch()
    with pytest.raises(SanError, match="is no model file"):
        load_artefact(tmp_path / "a.txt")


def test_match(model: Path, crops: Path) -> None:
    cameras = [str(crops / "t1"), crops / "t10"]
    assert match(cameras, model, threshold=-1.0).pairs[0].matched == 3
    with pytest.raises(UsageError, match="threshold"):
        match(cameras, Embedder(model))
