"""A server of KServe's protocol v2 on a free port, with Triton's binary tensors, around any network."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

HEADER = "Inference-Header-Content-Length"
DTYPES = {"UINT8": np.uint8, "FP32": np.float32}


@dataclass
class Fake:
    """What the server serves as `reid`, and what was asked of it.

    Attributes:
        embed: a batch of the input's type, or a list of files, to `(N, D)`.
        datatype, shape: of the input.
        config: answered to Triton's question for it; None is no Triton.
        binary: rows behind the JSON, or in it.
        outputs: names of the outputs; the rows are the last one's.
        answer: sent in place of rows, where it is not empty.
        batches: sizes of the requests.
    """

    embed: Callable[[Any], np.ndarray]
    datatype: str = "UINT8"
    shape: tuple[int, ...] = (-1, 32, 16, 3)
    config: dict[str, Any] | None = None
    binary: bool = True
    outputs: tuple[str, ...] = ("embedding",)
    answer: bytes = b""
    batches: list[int] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        return {
            "name": "reid",
            "inputs": [{"name": "crops", "datatype": self.datatype, "shape": list(self.shape)}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, 8]} for name in self.outputs],
        }

    def infer(self, body: bytes, split: int) -> tuple[bytes, int]:
        """A body to the answer's and the length of its JSON."""
        request = json.loads(body[:split])
        (given,), data = request["inputs"], body[split:]
        assert given["parameters"]["binary_data_size"] == len(data) and given["name"] == "crops"
        batch: Any
        if self.datatype == "BYTES":
            batch, at = [], 0
            while at < len(data):
                size = int.from_bytes(data[at : at + 4], "little")
                batch.append(data[at + 4 : at + 4 + size])
                at += 4 + size
            assert given["shape"] == [len(batch), 1]
        else:
            batch = np.frombuffer(data, DTYPES[self.datatype]).reshape(given["shape"])
        self.batches.append(len(batch))
        rows = self.embed(batch).astype("<f4")
        output: dict[str, Any] = {
            "name": request["outputs"][0]["name"],
            "datatype": "FP32",
            "shape": list(rows.shape),
        }
        if not self.binary:
            answer = json.dumps({"outputs": [{**output, "data": rows.ravel().tolist()}]}).encode()
            return answer, len(answer)
        output["parameters"] = {"binary_data_size": rows.nbytes}
        head = json.dumps({"outputs": [output]}).encode()
        return head + rows.tobytes(), len(head)


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """Serve it; gives `http://127.0.0.1:PORT`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/v2/models/reid":
                self.reply(json.dumps(fake.describe()).encode())
            elif self.path == "/v2/models/reid/config" and fake.config is not None:
                self.reply(json.dumps(fake.config).encode())
            else:
                self.reply(b'{"error": "Request for unknown model"}', 400)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if fake.answer:
                self.reply(fake.answer)
                return
            try:
                answer, split = fake.infer(body, int(self.headers[HEADER]))
            except ValueError as error:
                self.reply(json.dumps({"error": str(error)}).encode(), 500)
                return
            self.reply(answer, header=split if fake.binary else None)

        def reply(self, body: bytes, code: int = 200, header: int | None = None) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            if header is not None:
                self.send_header(HEADER, str(header))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
