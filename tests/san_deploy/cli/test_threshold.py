"""`san threshold` as it is called: what it prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from san_deploy.embedder import load_artefact
from tests.conftest import Result

San = Callable[..., Result]
PEOPLE = 12


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Three cameras of people who are patterns of noise, a little different before each camera."""
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (PEOPLE, 8, 4, 3))
    lines = ["camera,track,person"]
    for camera in ("cam1", "cam2", "cam3"):
        for person, look in enumerate(looks):
            folder = tmp_path / "site" / camera / f"t{person:02d}"
            folder.mkdir(parents=True)
            for k in range(2):
                noisy = np.clip(look + rng.normal(0, 12, look.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).resize((16, 32)).save(folder / f"{k}.png")
            lines.append(f"{camera},t{person:02d},{person + 1}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_with_labels(san: San, site: Path, model: Path) -> None:
    out = site / "with-threshold.onnx"
    arguments = ("threshold", site / "site", "-m", model, "--labels", site / "labels.csv")
    result = san(*arguments, "-o", out)
    before, after = load_artefact(model), load_artefact(out)
    assert after.threshold is not None and after.threshold != before.threshold
    assert f"threshold  {after.threshold.similarity:.4f}  best F1" in result.out
    assert "95 % over people" in result.out and "30% absent" in result.out
    assert after.threshold.source == "cameras cam1, cam2, cam3, 12 people" and after.threshold.curve
    assert (after.checkpoint_sha256, after.mask, after.space) == (
        before.checkpoint_sha256,
        before.mask,
        before.space,
    )
    graphs = [onnx.load(path).graph.SerializeToString(deterministic=True) for path in (model, out)]
    assert graphs[0] == graphs[1]
    page = (site / "with-threshold.onnx.html").read_text()
    assert "https://" not in page and f"{after.threshold.similarity:.4f}" in page and 'type="range"' in page
    # The copy is a model like any other, and brings its threshold.
    cameras = [site / "site" / name for name in ("cam1", "cam2")]
    matched = san("match", *cameras, "-m", out, "-o", site / "matches")
    assert f"threshold {after.threshold.similarity:.4f}, reached by" in matched.out
    other = san("match", *cameras, "-m", out, "-o", site / "other", "--threshold", "0.9")
    assert "given by the user; the model's calibration: reached by" in other.out
    # A rate instead of the best F1, as data.
    told = json.loads(san(*arguments, "--fmr", "0.05", "--json").out)
    assert told["threshold"]["false_match_rate"] <= 0.05 and told["people"] == PEOPLE
    assert told["output"] is None


def test_without_labels(san: San, site: Path, model: Path) -> None:
    result = san("threshold", site / "site", "-m", model, "--fmr", "0.05", "--page", site / "page.html")
    assert "estimated without labels" in result.out and "genuine    not known" in result.out
    assert "san match --threshold 0." in result.out
    assert "only impostors are known" in (site / "page.html").read_text()


def test_center_is_asked_for_on_both_sides(san: San, site: Path, model: Path) -> None:
    out = site / "centred.onnx"
    san("threshold", site / "site", "-m", model, "--labels", site / "labels.csv", "--center", "-o", out)
    cameras = [site / "site" / name for name in ("cam1", "cam2")]
    refused = san("match", *cameras, "-m", out, "-o", site / "matches", code=2)
    assert "calibrated with --center" in refused.err
    san("match", *cameras, "-m", out, "-o", site / "matches", "--center")
    told = json.loads((site / "matches" / "matches.json").read_text())
    assert told["parameters"]["center"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["site", "--labels", "missing.csv"], 1, "cannot read"),
        (["site", "--labels", "labels.csv", "--fmr", "0.0001"], 1, "too few"),
        (["site", "--labels", "labels.csv", "--fmr", "1"], 2, "--fmr"),
        (["site/cam1", "--labels", "labels.csv"], 2, "two cameras"),
        (["nowhere"], 1, "does not exist"),
        (["site", "-o", "x.engine"], 2, "copy of tiny.onnx"),
        (["site", "-o", "tiny.onnx", "--force"], 2, "is the model itself"),
        (["site", "-o", "tiny.onnx"], 1, "exists"),
    ],
)
def test_what_cannot_be(
    san: San,
    site: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(site)
    before = model.read_bytes()
    result = san("threshold", *arguments, "-m", model, code=code)
    assert told in result.err
    assert model.read_bytes() == before
