"""DeepStream's configuration of a re-ID network: nvtracker's ReID block, and a secondary nvinfer.

nvtracker and nvinfer compute y = scale * (x - offset) of pixels x of 0..255, with one scale for all channels. The
deviation per channel that our networks want stands in the graph instead, so scale is 1 and offsets are 0.
"""

from __future__ import annotations

from pathlib import Path

from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME, Artefact, is_onnx_name
from san_deploy.errors import SanError
from san_deploy.io.atomic import atomic_folder

#: Files that are written.
TRACKER, INFER, README = "tracker_reid.yml", "sgie_reid.txt", "README.txt"
#: networkMode of nvtracker and network-mode of nvinfer.
_MODES = {"fp32": 0, "int8": 1, "fp16": 2}
_TRACKER_MODES = {"fp32": 0, "fp16": 1, "int8": 2}
_BATCH = 32
#: Megabytes that TensorRT may use while it builds, and embeddings that the tracker keeps of a target.
_WORKSPACE_MB, _HISTORY = 1000, 100


def write_deepstream(model: Path, artefact: Artefact, folder: Path, *, force: bool = False) -> None:
    """Write the two configurations for an ONNX file with float input, and the file's name in them.

    DeepStream builds the engine itself, on the device that runs it.

    Args:
        model: the .onnx file; DeepStream is to find it at this absolute path.
        artefact: what it says of itself.
        folder: to write.
        force: replace an earlier one.

    Raises:
        SanError: a plan, a file that takes uint8, or one in INT8 of a CPU's form.
    """
    if artefact.engine is not None:
        raise SanError(
            f"{model} is an engine", why="DeepStream builds its own on the device", do="give the ONNX file"
        )
    if artefact.input != "float":
        raise SanError(
            f"{model} takes uint8 N x H x W x 3, DeepStream gives float N x 3 x H x W",
            do="export it with --input float: san export CHECKPOINT --input float -o model.onnx",
        )
    if artefact.calibration is not None and artefact.calibration.form == "cpu":
        raise SanError(f"{model} is INT8 in the form for CPUs", do="export it in the form for TensorRT")
    path = model.resolve()
    if not is_onnx_name(path.name) or not str(path).isprintable() or any(c in str(path) for c in "\"'#"):
        raise SanError(f"{path} has a name that configuration files cannot hold", do="rename it")
    with atomic_folder(folder, force=force, ours=[TRACKER, INFER, README]) as made:
        (made / TRACKER).write_text(tracker_config(path, artefact), encoding="utf-8")
        (made / INFER).write_text(infer_config(path, artefact), encoding="utf-8")
        (made / README).write_text(_readme(artefact), encoding="utf-8")


def tracker_config(path: Path, artefact: Artefact) -> str:
    """The ReID block of nvtracker's low-level configuration (YAML)."""
    height, width = artefact.size_hw
    lines = [
        "%YAML:1.0",
        "# Merge into the low-level tracker's configuration (ll-config-file of nvtracker).",
        "ReID:",
        "  reidType: 2                 # re-association; 1 is NvDeepSORT, 3 both",
        f"  batchSize: {_BATCH}",
        f"  workspaceSize: {_WORKSPACE_MB}",
        f"  reidFeatureSize: {artefact.embedding_dim}",
        f"  reidHistorySize: {_HISTORY}",
        f"  inferDims: [3, {height}, {width}]",
        f"  networkMode: {_TRACKER_MODES[artefact.precision]}",
        "  inputOrder: 0               # NCHW",
        "  colorFormat: 0              # RGB",
        "  offsets: [0.0, 0.0, 0.0]",
        "  netScaleFactor: 1.0         # mean and deviation stand in the graph",
        "  keepAspc: 0                 # trained without padding",
        "  addFeatureNormalization: 0  # the L2 norm stands in the graph",
        "  outputReidTensor: 1",
        f'  onnxFile: "{path}"',
        f'  modelEngineFile: "{path}_b{_BATCH}.engine"',
    ]
    return "\n".join(lines) + "\n"


def infer_config(path: Path, artefact: Artefact) -> str:
    """The configuration of a secondary nvinfer that gives the embedding as tensor meta."""
    height, width = artefact.size_hw
    lines = [
        "[property]",
        "gpu-id=0",
        f"onnx-file={path}",
        f"model-engine-file={path}_b{_BATCH}_gpu0.engine",
        f"batch-size={_BATCH}",
        f"network-mode={_MODES[artefact.precision]}",
        "# 2: secondary, on the objects of the first detector; class 0 is to be its person.",
        "process-mode=2",
        "operate-on-gie-id=1",
        "operate-on-class-ids=0",
        "gie-unique-id=2",
        "# 100: neither detector nor classifier; the embedding comes as tensor meta.",
        "network-type=100",
        "output-tensor-meta=1",
        f"output-blob-names={OUTPUT_NAME}",
        f"infer-dims=3;{height};{width}",
        "network-input-order=0",
        "model-color-format=0",
        "net-scale-factor=1.0",
        "offsets=0.0;0.0;0.0",
        "maintain-aspect-ratio=0",
        "# 1: bilinear; what DeepStream's scaling costs: san parity --resize cv2-linear.",
        "scaling-filter=1",
    ]
    return "\n".join(lines) + "\n"


def _readme(artefact: Artefact) -> str:
    return (
        f"{TRACKER}: ReID block for nvtracker's low-level configuration.\n"
        f"{INFER}: secondary nvinfer; each object's tensor '{OUTPUT_NAME}' has {artefact.embedding_dim} numbers,\n"
        "a row of length 1: the inner product of two is their similarity.\n"
        f"The network's input '{INPUT_NAME}' is RGB, 0..255, without mean or deviation: they stand in the graph.\n"
        "Neither file was run here on a GPU.\n"
    )
