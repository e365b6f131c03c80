"""`san info --adopt`: files from before our files carried a hash get one, once, from whoever trusts them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

from .artefact import (
    PREFIX,
    from_metadata,
    read_sidecar,
    sha256_file,
    sidecar_path,
    write_sidecar,
)
from .checkpoint_info import check_hashes, read_header, read_info, stamp
from .errors import SanError, UsageError
from .integrity import of_onnx, read_metadata, stamp_onnx, with_metadata
from .io.atomic import atomic_file, atomic_pair

_DONE = "{path} carries its hash already"


def adopt(path: Path) -> None:
    """Write the hashes of what it is now into an ONNX file, a checkpoint or the description of an engine.

    Raises:
        UsageError: the file carries its hash already.
        SanError: it is damaged, not ours, or cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        _adopt_onnx(path)
    elif suffix == ".safetensors":
        _adopt_checkpoint(path)
    else:
        _adopt_plan(path)


def _adopt_onnx(path: Path) -> None:
    try:
        data = path.read_bytes()
        metadata = read_metadata(data)
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SanError(f"{path} is not a whole ONNX file", why=str(error)) from error
    of_onnx(data, path).require(path)
    if PREFIX + "space" in metadata:
        raise UsageError(_DONE.format(path=path))
    artefact = from_metadata(metadata, path=path, sha256="")
    stamped = stamp_onnx(with_metadata(data, {PREFIX + "space": json.dumps(artefact.space)}))
    with atomic_pair(path, sidecar_path) as temporary:
        temporary.write_bytes(stamped)
        write_sidecar(replace(artefact, sha256=hashlib.sha256(stamped).hexdigest()), temporary)


def _adopt_checkpoint(path: Path) -> None:
    header = read_header(path)
    read_info(path, header.description)
    if check_hashes(path, header).state != "unknown":
        check_hashes(path, header).require(path)
        raise UsageError(_DONE.format(path=path))
    with atomic_file(path) as temporary:
        shutil.copyfile(path, temporary)
        stamp(temporary)


def _adopt_plan(path: Path) -> None:
    artefact = read_sidecar(path)
    if artefact.sha256 != sha256_file(path):
        raise SanError(
            f"{path} is not the file that {sidecar_path(path).name} describes", do="fetch both again"
        )
    if "space" in json.loads(sidecar_path(path).read_text(encoding="utf-8")):
        raise UsageError(_DONE.format(path=path))
    write_sidecar(artefact, path)
