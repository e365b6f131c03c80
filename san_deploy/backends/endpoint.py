"""A model behind an inference server that speaks KServe's protocol v2 over HTTP, as NVIDIA Triton does.

https://github.com/kserve/open-inference-protocol and Triton's extension for binary tensors
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt

from ..artefact import OUTPUT_NAME, Artefact
from ..errors import SanError, UsageError

#: Seconds that the server has for an answer.
TIMEOUT_S = 60.0
#: Crops in a request, where the server allows as many.
_BATCH = 12
#: What an answer may have at most: rows of a batch are far below.
_MAX_BYTES = 64 * 2**20
_PATH = re.compile(
    r"(?P<before>(?:/[^/]+)*?)(?:/v2/models)?/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/?"
)
_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Served:
    """What a server says of its model.

    Attributes:
        input, datatype, shape: of its one input, the batch included where it has one.
        output: name of the rows.
        max_batch: crops in a request; None where the server does not say.
        labels: what `san export --triton` wrote beside the model, by their names.
    """

    input: str
    datatype: str
    shape: tuple[int, ...]
    output: str
    max_batch: int | None
    labels: dict[str, str]


class Endpoint:
    """A served model, as a `self_check.Embeds`.

    Args:
        url: `http://HOST:PORT/NAME`, or the protocol's `http://HOST:PORT/v2/models/NAME[/versions/N]`.
        artefact: of the model that should be served there.
        timeout: seconds for each answer.

    Attributes:
        artefact: as given.
        name: for messages.
        served: what the server says of its model.

    Raises:
        UsageError: `url` is none.
        SanError: the server is not reached, has no such model, or one that takes or gives something else.
    """

    def __init__(self, url: str, artefact: Artefact, *, timeout: float = TIMEOUT_S) -> None:
        self.artefact, self.url, self._timeout = artefact, url, timeout
        self._model = _model_url(url)
        self.name = url
        self.note = ""
        self.served = self._read()

    @property
    def takes_files(self) -> bool:
        """Whether it takes image files, and decodes and resizes them itself."""
        return self.served.datatype == "BYTES"

    def serves(self) -> str:
        """What the server says that it serves, beside the file: a phrase that begins with `serves`."""
        space, sha256 = self.served.labels.get("san_space"), self.served.labels.get("san_sha256")
        if not space and not sha256:
            return "serves a file that it does not name"
        if sha256 and sha256 == self.artefact.sha256:
            return "serves this very file"
        if space and space == self.artefact.space:
            return f"serves another file of the same network, SHA-256 {(sha256 or 'unknown')[:12]}"
        return f"serves another network, SHA-256 {(sha256 or 'unknown')[:12]}"

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """`(N, H, W, 3)` uint8 BGR to `(N, D)` float32, by a model that takes tensors."""
        return self._embed([np.ascontiguousarray(part) for part in self.artefact.to_input(crops)])

    def embed_files(self, files: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Whole image files to `(N, D)` float32, by a model that takes these."""
        return self._embed(list(files))

    def _embed(self, items: Sequence[np.ndarray | bytes]) -> npt.NDArray[np.float32]:
        size = min(_BATCH, self.served.max_batch or _BATCH)
        return np.concatenate([self._infer(items[at : at + size]) for at in range(0, len(items), size)])

    def _read(self) -> Served:
        told = self._json(self._model)
        try:
            inputs, outputs = told["inputs"], told["outputs"]
            names = [str(item["name"]) for item in outputs]
            (given,) = inputs
            shape = tuple(int(side) for side in given["shape"])
            served = Served(str(given["name"]), str(given["datatype"]), shape, names[0], None, {})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SanError(
                f"{self.url} is no embedding network", why="its description has not one input and an output"
            ) from error
        self._check_form(served)
        if OUTPUT_NAME not in names and len(names) > 1:
            raise SanError(f"{self.url} gives {', '.join(names)}, none of them '{OUTPUT_NAME}'")
        output = OUTPUT_NAME if OUTPUT_NAME in names else names[0]
        most, labels = self._config()
        return Served(served.input, served.datatype, shape, output, most, labels)

    def _check_form(self, served: Served) -> None:
        if served.datatype == "BYTES":
            return
        wanted = {"uint8": "UINT8", "float": "FP32"}[self.artefact.input]
        height, width = self.artefact.size_hw
        crop = (height, width, 3) if wanted == "UINT8" else (3, height, width)
        if served.datatype == wanted and served.shape[1:] == crop:
            return
        raise SanError(
            f"{self.url} takes {served.datatype} {list(served.shape)}, the model file {wanted} [N, "
            f"{', '.join(map(str, crop))}]",
            why="another network is served there, or another form of it",
            do="name the file that the server was given",
        )

    def _config(self) -> tuple[int | None, dict[str, str]]:
        """Triton's configuration of the model; other servers have none, and need none."""
        try:
            told = self._json(f"{self._model}/config")
        except SanError:
            return None, {}
        labels = {}
        for key, item in (told.get("parameters") or {}).items():
            if isinstance(item, dict) and isinstance(item.get("string_value"), str):
                labels[str(key)] = item["string_value"]
        most = told.get("max_batch_size")
        return (most if isinstance(most, int) and most > 0 else None), labels

    def _infer(self, items: Sequence[np.ndarray | bytes]) -> npt.NDArray[np.float32]:
        if self.takes_files:
            shape: list[int] = [len(items), 1]
            # Each file behind its length, four bytes.
            data = b"".join(len(item).to_bytes(4, "little") + bytes(item) for item in items)
        else:
            batch = np.stack([np.asarray(item) for item in items])
            shape, data = list(batch.shape), batch.tobytes()
        request = {
            "inputs": [
                {
                    "name": self.served.input,
                    "datatype": self.served.datatype,
                    "shape": shape,
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "outputs": [{"name": self.served.output, "parameters": {"binary_data": True}}],
        }
        header = json.dumps(request).encode()
        headers = {"Content-Type": "application/octet-stream", _HEADER: str(len(header))}
        body, told = self._call(f"{self._model}/infer", header + data, headers)
        length = told.get(_HEADER)
        try:
            split = int(length) if length is not None else len(body)
            answer = json.loads(body[:split])
            (output,) = [item for item in answer["outputs"] if item["name"] == self.served.output]
            size = tuple(int(side) for side in output["shape"])
            if output["datatype"] != "FP32":
                raise ValueError(f"rows are {output['datatype']}, not FP32")
            if "data" in output:
                rows = np.array(output["data"], np.float32).reshape(size)
            else:
                rows = np.frombuffer(body[split:], "<f4").reshape(size)
        except (KeyError, TypeError, ValueError) as error:
            raise SanError(f"{self.url} gave no rows", why=str(error).split("\n")[0]) from error
        wanted = (len(items), self.artefact.embedding_dim)
        if size != wanted or not np.isfinite(rows).all():
            what = f"rows of {list(size)}, not {list(wanted)}" if size != wanted else "NaN or infinity"
            raise SanError(f"{self.url} gave {what}", do="name the file that the server was given")
        return rows

    def _json(self, url: str) -> dict[str, Any]:
        body, _ = self._call(url)
        try:
            told = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SanError(f"{url} gave no JSON", do="name a server of KServe's protocol v2") from error
        return told if isinstance(told, dict) else {}

    def _call(
        self, url: str, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, Any]:
        request = urllib.request.Request(url, data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                return answer.read(_MAX_BYTES), answer.headers
        except urllib.error.HTTPError as error:
            raise SanError(
                f"{self.url} refused", why=_refusal(error), do="look at the server's log"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise SanError(
                f"{self.url} was not reached", why=str(reason), do="start the server, or name its address"
            ) from error


def _model_url(url: str) -> str:
    """The protocol's address of a model.

    Raises:
        UsageError: no http address with a model's name.
    """
    parts = urlsplit(url)
    match = _PATH.fullmatch(parts.path)
    if parts.scheme not in ("http", "https") or not parts.netloc or match is None:
        raise UsageError(f"'{url}' names no served model", do="give http://HOST:8000/NAME")
    version = f"/versions/{quote(match['version'])}" if match["version"] else ""
    before = match["before"]
    return f"{parts.scheme}://{parts.netloc}{before}/v2/models/{quote(match['name'])}{version}"


def _refusal(error: urllib.error.HTTPError) -> str:
    try:
        told = json.loads(error.read(10_000))
        return str(told["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"
