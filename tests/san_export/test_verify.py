from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from san_export.verify import (
    BATCHES,
    CheckCrops,
    Gate,
    default_gate,
    judge,
    measure,
    read_crops,
    row_cosine,
    sample_crops,
)

from san_deploy.errors import SanError


def some_crops(count: int) -> CheckCrops:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    return CheckCrops(images, tuple(f"crop{i}" for i in range(count)), "crops of noise")


def flat(images: np.ndarray) -> np.ndarray:
    """An embedding that is easy to follow: the centred pixels, of norm 1."""
    rows = images.reshape(len(images), -1).astype(np.float64) - 127.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 5, 16, 48])
def test_equal_networks_pass(count: int) -> None:
    crops = some_crops(count)
    sizes: list[int] = []

    def embed(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return flat(images)

    parity = measure(embed, flat(crops.images), crops)
    assert {1, 3, 16} <= set(sizes) and max(sizes) == 16
    assert [figures.batch for figures in parity.batches] == list(BATCHES)
    assert parity.min_cosine == pytest.approx(1, abs=1e-7)
    assert parity.invariance == pytest.approx(1, abs=1e-7)
    assert [figures.equal_rows for figures in parity.batches] == [1, 1, 1]
    assert judge(parity, Gate(0.99999)) == []


def test_one_bad_row_fails_and_is_named() -> None:
    crops = some_crops(48)
    reference = flat(crops.images)
    reference[17] = np.roll(reference[17], 1)
    parity = measure(flat, reference, crops)
    assert parity.worst[0][0] == "crop17"
    assert parity.batches[0].mean_cosine > 0.97 > parity.min_cosine  # a mean would have hidden it
    assert parity.batches[0].equal_rows == pytest.approx(47 / 48)
    (failure,) = judge(parity, Gate(0.999))
    assert "crop17" in failure and "crop0 " not in failure


def test_dependence_on_batch_mates_fails() -> None:
    crops = some_crops(16)

    def centred(images: np.ndarray) -> np.ndarray:
        rows = flat(images) + 0.3 * flat(images[:1])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    parity = measure(centred, flat(crops.images), crops)
    assert parity.invariance < 0.99
    assert any("depends on its batch" in failure for failure in judge(parity, Gate(0.99)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_no_embedding_passes_no_gate(value: float) -> None:
    crops = some_crops(4)
    parity = measure(lambda images: np.full((len(images), 96), value, np.float32), flat(crops.images), crops)
    assert parity.min_cosine == -1
    assert judge(parity, Gate(-0.5))


def test_row_cosine_literally() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 7)).astype(np.float32)
    literal = [
        sum(x * y for x, y in zip(p, q, strict=True)) / (sum(x * x for x in p) * sum(y * y for y in q)) ** 0.5
        for p, q in zip(a.tolist(), b.tolist(), strict=True)
    ]
    assert np.allclose(row_cosine(a, b), literal, atol=1e-12)


def test_a_percentile_and_a_mean_have_gates_of_their_own() -> None:
    crops = some_crops(200)
    reference = flat(crops.images)
    reference[:4] = np.roll(reference[:4], 1, axis=1)  # 2 % of the rows, more than the 1st percentile bears
    parity = measure(flat, reference, crops, name="onnx fp32")
    assert parity.reference == parity.as_dict()["reference"] == "onnx fp32"
    figures = parity.batches[0]
    cosine = row_cosine(flat(crops.images), reference)
    assert figures.p1_cosine == pytest.approx(np.percentile(cosine, 1), abs=1e-6)
    assert figures.min_cosine <= figures.p1_cosine < 0.9 < figures.mean_cosine < 1
    assert judge(parity, Gate(-1.0)) == []
    (failure,) = judge(parity, Gate(-1.0, p1_cosine=0.97, mean_cosine=0.9))
    assert "1st percentile" in failure and "onnx fp32" in failure
    (failure,) = judge(parity, Gate(-1.0, mean_cosine=0.9999))
    assert "mean row cosine" in failure


def test_a_gate_in_words() -> None:
    gate = Gate(-1.0, p1_cosine=0.97, mean_cosine=0.99)
    assert str(gate) == "1st percentile 0.97, mean 0.99"
    assert gate.as_dict() == {"p1_cosine": 0.97, "mean_cosine": 0.99}
    assert str(Gate(0.999)) == "minimum 0.999"


def test_default_gates() -> None:
    least = [default_gate(mask).min_cosine for mask in ("argmax", "ramp:0.0625", "expected", "none")]
    assert least == sorted(least) and least[0] < least[1] < least[2] == least[3]
    # A lower precision never has a stricter gate than the one above it.
    for mask in ("argmax", "ramp:0.0625", "expected"):
        gates = [default_gate(mask, precision) for precision in ("fp32", "fp16", "int8")]
        means = [max(gate.min_cosine, gate.mean_cosine) for gate in gates]
        assert means == sorted(means, reverse=True)


def test_sample_crops_are_the_same_every_time() -> None:
    first, second = sample_crops((64, 32), 6), sample_crops((64, 32), 6)
    assert first.images.shape == (6, 64, 32, 3) and first.images.dtype == np.uint8
    assert np.array_equal(first.images, second.images)
    assert first.images.std() > 20


def test_read_crops_spreads_and_counts(tmp_path: Path) -> None:
    for track in range(10):
        (tmp_path / f"t{track}").mkdir()
        for frame in range(10):
            Image.new("RGB", (20, 40), (track * 20, frame * 20, 0)).save(
                tmp_path / f"t{track}" / f"{frame}.png"
            )
    (tmp_path / "t0" / "0.png").write_bytes(b"no image")
    crops = read_crops(tmp_path, (64, 32), 10)
    assert crops.images.shape == (9, 64, 32, 3)
    assert crops.unreadable == 1
    assert {Path(name).parent.name for name in crops.names} == {f"t{track}" for track in range(1, 10)}
    assert crops.images[0, 0, 0].tolist()[2] == int(Path(crops.names[0]).parent.name[1:]) * 20  # BGR


def test_read_crops_refuses_a_folder_without_crops(tmp_path: Path) -> None:
    with pytest.raises(SanError, match="does not exist"):
        read_crops(tmp_path / "none", (64, 32))
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(SanError, match="none of the crops"):
        read_crops(tmp_path, (64, 32))
