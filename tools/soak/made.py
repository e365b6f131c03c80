"""One small example of every kind of file that a command reads, and the commands that read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from san_deploy.artefact import write_sidecar
from san_deploy.backends.onnxruntime import OnnxRuntime
from tests.san_train.conftest import write_crop_folder
from tests.tiny_models import tiny_model

from .foreign import foreign_kinds
from .kinds import TRAIN, Kind, has, run

#: Image formats and how Pillow is asked for them.
IMAGES: dict[str, dict[str, object]] = {
    "jpg": {},
    "png": {},
    "bmp": {},
    "webp": {},
    "ppm": {},
    "tif": {"compression": "tiff_lzw"},
    "tiff": {"compression": "tiff_adobe_deflate"},
}


def make(folder: Path, *, trained: bool = True) -> list[Kind]:
    """Write the files into the working directory `folder`, and say what kinds there are.

    Args:
        folder: empty.
        trained: train a network as well.

    Raises:
        RuntimeError: a command fails on whole files.
    """
    tiny_model(folder / "model.onnx")
    write_sidecar(OnnxRuntime(folder / "model.onnx").artefact, folder / "model.onnx")
    write_crop_folder(folder, people=4, each=2)
    tracks = {}
    for number in (1, 2):
        name = f"cam{number}"
        run("embed", name, "-m", "model.onnx", "-o", f"{name}.npz")
        tracks[name] = sorted(path.name for path in (folder / name).iterdir())
        shutil.copytree(folder / name, folder / "timed" / name)
        rows = [f"{name},{track},{10 * k}.0,{10 * k + 5}.0" for k, track in enumerate(tracks[name])]
        (folder / "timed" / name / "tracks.csv").write_text(
            "\n".join(["camera,track,start,end", *rows]) + "\n"
        )
    (folder / "site.csv").write_text("camera_a,camera_b,overlap,min_s,max_s\ncam1,cam2,no,0,3600\n")
    first, second = tracks["cam1"], tracks["cam2"]
    marks = {
        "schema_version": 1,
        "confirmed": [["cam1", first[0], "cam2", second[0]]],
        "rejected": [["cam1", first[1], "cam2", second[0]]],
    }
    (folder / "marks.json").write_text(json.dumps(marks))
    run("gallery", "add", "cam1.npz", "--gallery", "gallery", "-m", "model.onnx")
    kinds = [*_models(), *_tables(), *_images(folder), *_gallery(folder)]
    if has("cv2"):
        kinds += _detections(folder)
    if trained and has("torch"):
        kinds += _training()
    return kinds + foreign_kinds(folder, trained=trained)


_EMBED = ("embed", "cam1", "-m", "model.onnx", "-o", "out.npz")
_MATCH = ("match", "cam1.npz", "cam2.npz", "-m", "model.onnx", "--threshold", "0.5", "-o", "out")


def _models() -> list[Kind]:
    info = ("info", "model.onnx", "--json")
    return [
        Kind("ONNX: embed", "model.onnx", _EMBED, hashed=True),
        Kind("ONNX: info", "model.onnx", info, hashed=True),
        Kind("sidecar: embed", "model.onnx.json", _EMBED, "json", hashed=True),
        Kind("sidecar: info", "model.onnx.json", info, "json", hashed=True),
        Kind("embeddings .npz", "cam1.npz", _MATCH, hashed=True),
    ]


def _tables() -> list[Kind]:
    eval_ = ("eval", ".", "-m", "model.onnx", "--split", "all", "-o", "out")
    folders = ("match", "timed/cam1", "timed/cam2", "-m", "model.onnx", "--threshold", "0.5", "-o", "out")
    timed = (*folders, "--clock", "cam1=0", "--clock", "cam2=0")
    return [
        Kind("identities.csv: match", "identities.csv", (*_MATCH, "--labels", "identities.csv"), "text"),
        Kind("identities.csv: eval", "identities.csv", eval_, "text"),
        Kind("tracks.csv", "timed/cam1/tracks.csv", timed, "text"),
        Kind("site.csv", "site.csv", (*timed, "--topology", "site.csv"), "text"),
        Kind("marks.json", "marks.json", (*_MATCH, "--corrections", "marks.json"), "json"),
    ]


def _images(folder: Path) -> list[Kind]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 2, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    kinds = []
    for ending, options in IMAGES.items():
        (folder / f"crops-{ending}" / "t1").mkdir(parents=True)
        Image.fromarray(pixels[::-1]).save(folder / f"crops-{ending}" / "t1" / "whole.png")
        path = folder / f"crops-{ending}" / "t1" / f"a.{ending}"
        Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
        argv = ("embed", f"crops-{ending}", "-m", "model.onnx", "-o", "out.npz")
        kinds.append(Kind(f"image .{ending}", str(path.relative_to(folder)), argv))
    return kinds


def _gallery(folder: Path) -> list[Kind]:
    argv = ("search", "cam2", "--gallery", "gallery", "-m", "model.onnx", "--json")
    files = sorted(path for path in (folder / "gallery").rglob("*") if path.is_file() and path.stat().st_size)
    return [
        Kind(
            f"gallery: {path.name}",
            str(path.relative_to(folder)),
            argv,
            "json" if path.suffix == ".json" else "binary",
        )
        for path in files
    ]


def _detections(folder: Path) -> list[Kind]:
    from tests.san_deploy.video.made import WRITERS, boxes_of, draw

    boxes = boxes_of(12)
    (folder / "frames").mkdir()
    for number, people in enumerate(boxes):
        Image.fromarray(draw(number, people)[:, :, ::-1]).save(folder / "frames" / f"{number:04d}.png")
    kinds = []
    for name, write in WRITERS.items():
        path = write(folder / f"boxes-{name}", boxes)
        file = path if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())[6]
        argv = ("crops", "frames", "--fps", "10", "--detections", path.name, "--format", name, "-o", "out")
        form = "json" if file.read_bytes()[:1] in b"[{" else "text"
        kinds.append(Kind(f"detections: {name}", str(file.relative_to(folder)), argv, form, needs="cv2"))
    return kinds


def _training() -> list[Kind]:
    run("train", ".", "-o", "run", *TRAIN)
    info = ("info", "run/model.safetensors", "--json")
    # The run itself is what it writes into, so that it is a copy that is resumed.
    resume = ("train", ".", "-o", "run", *TRAIN, "--epochs", "3", "--resume")
    kinds = [
        Kind("checkpoint", "run/model.safetensors", info, hashed=True, needs="torch"),
        Kind("checkpoint's .json", "run/model.json", info, "json", needs="torch"),
        Kind("state of a run", "run/state.safetensors", resume, hashed=True, needs="torch"),
        Kind("config.json", "run/config.json", resume, "json", needs="torch", slow=True),
        Kind("metrics.jsonl", "run/metrics.jsonl", resume, "text", needs="torch", slow=True),
    ]
    return kinds


def copy_of(made: Path, folder: Path) -> Path:
    """A copy of the made folder."""
    shutil.copytree(made, folder, symlinks=True)
    return folder
