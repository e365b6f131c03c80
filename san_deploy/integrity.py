"""Whether a file's bytes are those that were written: the hashes that our files carry of themselves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from .artefact import PREFIX, read_sidecar_sha256, sidecar_path
from .errors import SanError
from .io.onnx_bytes import content_sha256, read_metadata, with_metadata

#: The metadata entry of an ONNX file that holds the hash of all the rest.
CONTENT = PREFIX + "content_sha256"
#: An entry that came with the hash: who has it and no hash has lost that.
_SINCE = PREFIX + "space"


@dataclass(frozen=True)
class Integrity:
    """What vouches for a file's bytes.

    Attributes:
        state: `whole`; `damaged`, the bytes are not those that were hashed; `unknown`, from before files of ours
            carried a hash.
        why: what was found, in words; empty for `whole`.
    """

    state: str
    why: str = ""

    @property
    def note(self) -> str:
        """One line on a file that is not known to be whole; empty where it is."""
        if self.state == "unknown":
            return "nothing vouches for the bytes of this file: san info --adopt FILE, if you trust them"
        return f"the file is damaged: {self.why}" if self.state == "damaged" else ""

    def require(self, path: Path) -> None:
        """Refuse a damaged file; SanError."""
        if self.state == "damaged":
            raise SanError(
                f"{path} is damaged, or was changed after it was written",
                why=self.why,
                do="fetch it again or write it again; if it was changed on purpose: san import",
            )


WHOLE = Integrity("whole")
UNKNOWN = Integrity("unknown")


def of_onnx(data: bytes, path: Path) -> Integrity:
    """What vouches for the bytes of an ONNX file of ours: the hash inside, or that in its sidecar.

    Raises:
        SanError: the sidecar cannot be read.
    """
    beside = read_sidecar_sha256(path)
    try:
        metadata = read_metadata(data)
        inside = metadata.get(CONTENT)
        found = content_sha256(data, CONTENT) if inside is not None else ""
    except ValueError as error:
        return Integrity("damaged", str(error))
    if inside is not None and inside != json.dumps(found):
        return Integrity("damaged", f"content SHA-256 {found[:12]} here, {inside[1:13]!a} written in it")
    if inside is None and _SINCE in metadata:
        return Integrity("damaged", "it has lost the hash that it was written with")
    if beside is not None:
        whole = hashlib.sha256(data).hexdigest()
        if beside != whole:
            name = sidecar_path(path).name
            return Integrity(
                "damaged",
                f"it is not the file that {name} describes: SHA-256 {whole[:12]} here, {beside[:12]!a} there",
            )
    return UNKNOWN if inside is None and beside is None else WHOLE


def stamp_onnx(data: bytes) -> bytes:
    """The ONNX file with the hash of its content in its metadata.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    return with_metadata(data, {CONTENT: json.dumps(content_sha256(data, CONTENT))})
