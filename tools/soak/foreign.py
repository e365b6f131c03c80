"""Kinds of files that others write: data sets' lists, networks and their weights, teachers' answers, rows, videos."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from .kinds import TRAIN, Kind, has, run

_MODEL = ("-m", "model.onnx")


def foreign_kinds(folder: Path, *, trained: bool) -> list[Kind]:
    """Write the files into the working directory `folder`, beside those of `made.make`.

    Args:
        folder: with `model.onnx`, `cam1` and `identities.csv` in it.
        trained: take what needs PyTorch as well.
    """
    kinds = [*_msmt17(folder), *_rows(folder), *_shards(folder)]
    if has("h5py") and has("scipy"):
        kinds += _cuhk03(folder)
    if has("cv2"):
        kinds += _video(folder)
    if trained and has("torch"):
        kinds += [*_networks(folder), *_views(folder)]
    return kinds


def _msmt17(folder: Path) -> list[Kind]:
    from tests.san_deploy.datasets.layouts import msmt17

    root = msmt17(folder / "msmt17")
    _draw(root.rglob("*.jpg"))
    argv = ("eval", "msmt17", *_MODEL, "-o", "out")
    return [Kind("MSMT17's list", "msmt17/list_query.txt", argv, "text")]


def _cuhk03(folder: Path) -> list[Kind]:
    from tests.san_deploy.datasets.test_cuhk03 import write_config, write_mat

    for name in ("cuhk03-old", "cuhk03-new"):
        write_mat(folder / name / "cuhk-03.mat")
    listed = "cuhk03_new_protocol_config_labeled.mat"
    write_config(folder / "cuhk03-new" / listed)
    argv = (*_MODEL, "-o", "out", "--boxes", "labelled", "--protocol")
    old = ("eval", "cuhk03-old", *argv, "old", "--cache", "out.cache")
    return [
        Kind("cuhk-03.mat", "cuhk03-old/cuhk-03.mat", old),
        Kind("CUHK03's list", f"cuhk03-new/{listed}", ("eval", "cuhk03-new", *argv, "new")),
    ]


def _rows(folder: Path) -> list[Kind]:
    """What another program computed, as `san parity` takes it."""
    from san_deploy.backends.onnxruntime import OnnxRuntime
    from san_deploy.preprocess import resize_crop

    network = OnnxRuntime(folder / "model.onnx")
    for camera in ("cam1", "cam2"):
        shutil.copytree(folder / camera, folder / "seen" / camera)
    paths = sorted((folder / "seen").rglob("*.png"))
    crops = [np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1] for path in paths]
    rows = network(np.stack([resize_crop(crop, network.artefact.size_hw) for crop in crops]))
    np.save(folder / "rows.npy", rows)
    np.savez(
        folder / "rows.npz",
        embedding=rows,
        path=[path.relative_to(folder / "seen").as_posix() for path in paths],
    )
    argv = ("parity", "model.onnx", "--crops", "seen", "--num", "10")
    return [
        Kind(f"another program's .{form}", f"rows.{form}", (*argv, "--outputs", f"rows.{form}"))
        for form in ("npy", "npz")
    ]


def _shards(folder: Path) -> list[Kind]:
    for number in (1, 2):
        run("embed", "cam1", *_MODEL, "--shard", f"{number}/2", "-o", f"shard{number}.npz")
    argv = ("embed", "--merge", "shard1.npz", "shard2.npz", "-o", "out.npz")
    return [Kind("shard .npz", "shard1.npz", argv, hashed=True)]


def _video(folder: Path) -> list[Kind]:
    import cv2

    from tests.san_deploy.video.made import boxes_of, draw

    frames = [draw(number, people) for number, people in enumerate(boxes_of(12))]
    kinds = []
    for ending, codec in (("avi", "MJPG"), ("mp4", "mp4v")):
        path = folder / f"video.{ending}"
        height, width = frames[0].shape[:2]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (width, height))
        for frame in frames:
            writer.write(frame)
        writer.release()
        argv = ("crops", path.name, "--detections", "boxes-mot", "-o", "out")
        kinds.append(Kind(f"video .{ending}", path.name, argv))
    return kinds


def _networks(folder: Path) -> list[Kind]:
    import torch
    from safetensors.torch import save_file

    from tests.san_export.importing.made import network, save
    from tests.san_train.models.test_osnet import as_theirs, made

    save(network(), folder / "theirs.onnx")
    state = as_theirs(made())
    torch.save(state, folder / "theirs.pth")
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "theirs.safetensors")
    weights = ("--arch", "osnet", "--size", "64x32", "-o", "out.safetensors")
    onnx = ("--preset", "openvino-bgr", "-o", "out.onnx")
    kinds = [
        Kind("their .onnx: import", "theirs.onnx", ("import", "theirs.onnx", *onnx), slow=True),
        Kind("their .pth: import", "theirs.pth", ("import", "theirs.pth", *weights), slow=True),
        Kind(
            "their .safetensors: import",
            "theirs.safetensors",
            ("import", "theirs.safetensors", *weights),
            slow=True,
        ),
    ]
    if has("openvino"):
        from tests.san_export.importing.openvino_ir_cases import embedding, ir

        ir(folder / "net.xml", embedding, (1, 3, 32, 16))
        kinds += [
            Kind("OpenVINO's .xml: import", "net.xml", ("import", "net.xml", *onnx), "text", slow=True),
            Kind("OpenVINO's .bin: import", "net.bin", ("import", "net.xml", *onnx), slow=True),
        ]
    export = ("export", "run/model.safetensors", "--no-engine", "-o", "out.onnx")
    return [*kinds, Kind("checkpoint: export", "run/model.safetensors", export, hashed=True, slow=True)]


def _views(folder: Path) -> list[Kind]:
    views = (*TRAIN, "--views", "views")
    run("train", ".", "-o", "taught", *views, "--teacher", "model.onnx")
    shutil.rmtree(folder / "taught")
    argv = ("train", ".", "-o", "out", *views)
    kinds = []
    for path in sorted((folder / "views").iterdir()):
        form = "json" if path.suffix == ".json" else "binary"
        kinds.append(
            Kind(f"views: {path.name}", f"views/{path.name}", argv, form, hashed=form == "binary", slow=True)
        )
    return kinds


def _draw(paths: Iterable[Path]) -> None:
    """Crops in place of empty files, each its own."""
    for number, path in enumerate(sorted(paths)):
        tones = np.random.default_rng(number).integers(0, 256, (4, 2, 3), np.uint8)
        Image.fromarray(tones.repeat(16, 0).repeat(16, 1)).save(path)
