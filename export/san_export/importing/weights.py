"""PyTorch weights of networks that we have, in the form of those who trained them. Nothing in a file is executed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from san_train.checkpoint import save_checkpoint
from san_train.models import Network
from san_train.models.foreign_weights import read_state
from san_train.models.ha_cnn_weights import load_torchreid
from san_train.models.osnet_weights import load_osnet
from san_train.models.rga_weights import load_rga
from torch import Tensor

from san_deploy.artefact import Artefact, sha256_file, sidecar_path, write_sidecar
from san_deploy.checkpoint_info import CheckpointInfo, read_header, tensors_sha256
from san_deploy.errors import SanError, UsageError
from san_deploy.io.atomic import atomic_pair
from san_deploy.io.versions import versions
from san_deploy.preprocess import RESIZES

from .kinds import CONFIG, WEIGHTS

#: How torchreid, Roboflow's `reid` and RGA's authors resize: PIL, bilinear.
_RESIZE = "pillow-bilinear-antialias"
__MAX_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True)
class WeightForm:
    """Weights of one architecture as others keep them.

    Attributes:
        size_hw: height and width that it was trained at, pixels.
        load: from state dict and size to the network, in evaluation mode.
        marks: parts of tensors' names that tell these weights from those of the other rows.
        free_size: whether another size can be asked for.
    """

    size_hw: tuple[int, int]
    load: Callable[[Mapping[str, Tensor], tuple[int, int]], Network]
    marks: tuple[str, ...]
    free_size: bool = True


#: Architecture -> its weights' form. The first row whose marks are all there is taken where nobody names one.
FORMS: dict[str, WeightForm] = {
    "osnet": WeightForm((256, 128), load_osnet, ("conv1.conv.weight", "conv5.bn.weight", "fc.0.weight")),
    "ha-cnn": WeightForm(
        (160, 64),
        lambda state, size_hw: load_torchreid(state),
        ("ha1.soft_attn.conv.conv.weight",),
        free_size=False,
    ),
    **{
        f"rga-{variant}": WeightForm((256, 128), partial(load_rga, variant=variant), marks)
        for variant, marks in (
            ("sc", ("rga_att1.theta_spatial.0.weight", "rga_att1.theta_channel.0.weight")),
            ("s", ("rga_att1.theta_spatial.0.weight",)),
            ("c", ("rga_att1.theta_channel.0.weight",)),
        )
    },
}


def recognise(state: Mapping[str, Tensor]) -> str:
    """The architecture that weights are of, by their names; empty where they are of none."""
    for arch, form in FORMS.items():
        if all(any(name.endswith(mark) for name in state) for mark in form.marks):
            return arch
    return ""


@dataclass(frozen=True)
class ForeignWeights:
    """A file of weights, read.

    Attributes:
        path: the file, or its folder.
        state: tensors by the names of who wrote it.
        arch: architecture that the file names; empty where it names none.
        size_hw: likewise.
        resize: likewise, else torchreid's.
    """

    path: Path
    state: Mapping[str, Tensor]
    arch: str = ""
    size_hw: tuple[int, int] | None = None
    resize: str = _RESIZE


def read_weights(path: Path) -> ForeignWeights:
    """Read a file of weights, or a folder with reid_config.json and weights.safetensors.

    Raises:
        SanError: missing, damaged, or more in it than tensors and numbers.
    """
    if (path / CONFIG).is_file():
        return _read_folder(path)
    if path.suffix.lower() == ".safetensors":
        return ForeignWeights(path, _read_safetensors(path))
    return ForeignWeights(path, read_state(path))


def import_weights(
    given: ForeignWeights, arch: str, out: Path, *, size_hw: tuple[int, int] | None = None
) -> tuple[Network, CheckpointInfo]:
    """Write weights as a checkpoint of ours.

    Args:
        given: of `read_weights`.
        arch: a name in `FORMS`; empty takes what the file or its tensors name.
        out: the .safetensors file; its description is written beside it.
        size_hw: of the input; None takes the file's, else the usual one.

    Raises:
        UsageError: no architecture, an unknown one, or a size that it does not take.
        SanError: weights that do not fit it.
    """
    arch = arch or given.arch or recognise(given.state)
    if arch not in FORMS:
        what = (
            f"--arch {arch} has no form of weights that is read"
            if arch
            else f"the tensors of {given.path} are of no architecture that is read"
        )
        raise UsageError(what, do=f"--arch is one of {', '.join(FORMS)}; import any other network as ONNX")
    form = FORMS[arch]
    asked = size_hw or given.size_hw or form.size_hw
    if asked != form.size_hw and not form.free_size:
        raise UsageError(
            f"{arch} takes {form.size_hw[0]}x{form.size_hw[1]} alone; --size was {asked[0]}x{asked[1]}"
        )
    try:
        network = form.load(given.state, asked)
    except SanError as error:
        raise SanError(
            f"{given.path}: {error.message}", why=error.why, do=error.do or "give another --arch"
        ) from error
    except ValueError as error:  # of the settings: a size or a width that no network of this kind has
        raise SanError(f"{given.path} makes no {arch}", why=str(error), do="give another --size") from error
    info = CheckpointInfo(
        arch=arch,
        settings=network.settings.as_dict(),
        resize=given.resize,
        epoch=0,
        data=[f"imported from {given.path.name}"],
        versions=versions("san-deploy", "torch"),
    )
    save_checkpoint(out, network, info)
    return network, info


def import_file(
    path: Path,
    out: Path,
    *,
    arch: str = "",
    size_hw: tuple[int, int] | None = None,
    input_form: str = "uint8",
    crops: Path | None = None,
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Artefact:
    """Weights to a checkpoint of ours, or on to an ONNX file that was compared with PyTorch.

    Args:
        path: the weights, see `read_weights`.
        out: a .safetensors or .onnx file.
        arch: see `import_weights`.
        size_hw: likewise.
        input_form: of an ONNX file: `uint8` or `float`.
        crops: a folder to check an ONNX file on; None takes the sample crops.
        force: replace existing files.
        report: takes one line for each step.

    Returns:
        What an ONNX file says of itself, or would say.

    Raises:
        UsageError, SanError: see `import_weights`.
        GateError: the ONNX file does not embed as PyTorch does.
    """
    from san_train.describe import describe, resolve_mask

    given = read_weights(path)
    if out.suffix.lower() == ".safetensors":
        with atomic_pair(out, lambda file: file.with_suffix(".json"), force=force) as temporary:
            network, info = import_weights(given, arch, temporary, size_hw=size_hw)
        return describe(
            network,
            info,
            mask=resolve_mask(network, None),
            input_form=input_form,
            checkpoint_sha256=sha256_file(out),
            weights_sha256=tensors_sha256(out, read_header(out)),
        )
    from ..checkpoint import export_graph
    from ..onnx_writer import OPSET

    with tempfile.TemporaryDirectory(prefix="san-import-") as folder:
        checkpoint = Path(folder) / "imported.safetensors"
        import_weights(given, arch, checkpoint, size_hw=size_hw)
        with atomic_pair(out, sidecar_path, force=force) as temporary:
            graph = export_graph(
                checkpoint,
                temporary,
                mask=None,
                input_form=input_form,
                crops=crops,
                gate=None,
                opset=OPSET,
                report=report,
            )
            artefact = replace(graph.artefact, sha256=sha256_file(temporary))
            write_sidecar(artefact, temporary)
    return artefact


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise SanError(f"{path} does not exist") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise SanError(f"{path} is not a whole safetensors file", why=str(error)) from error


def _read_folder(folder: Path) -> ForeignWeights:
    """The form of `ReIDModel.save_pretrained` of Roboflow's `reid`."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > __MAX_CONFIG_BYTES:
            raise SanError(f"{path} is too large to be a description")
        told = json.loads(path.read_bytes())
        named = str(told["architecture"])
        preprocessing = told.get("preprocessing") or {}
        size = preprocessing.get("input_size")
        size_hw = None if size is None else (int(size[0]), int(size[1]))
        filter_name = str(preprocessing.get("interpolation", "bilinear"))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise SanError(f"{path} cannot be read", why=str(error).split("\n")[0]) from error
    if preprocessing.get("resize_mode", "stretch") != "stretch":
        raise SanError(f"{path} wants crops letterboxed", why="every resize here stretches")
    resize = f"pillow-{filter_name}-antialias"
    if resize not in RESIZES:
        raise SanError(f"{path} wants the resize '{filter_name}'", do="export it as ONNX and import that")
    arch = "osnet" if named.startswith("osnet") else ""
    return ForeignWeights(folder, _read_safetensors(folder / WEIGHTS), arch, size_hw, resize)
