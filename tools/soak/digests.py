"""What a command wrote, without what differs from run to run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

#: Keys of JSON whose values may differ although nothing changed.
_OF_THE_RUN = frozenset({"sha256", "bytes", "seconds", "crops_per_s"})


def of_file(path: Path) -> str:
    """As `of_bytes`; of a page whether it is whole: pages show times, and what else they say stands in other files."""
    data = path.read_bytes()
    return str(data.rstrip().endswith(b"</html>")) if path.suffix == ".html" else of_bytes(data)


def of_bytes(data: bytes) -> str:
    """SHA-256; of JSON without what differs from run to run."""
    with contextlib.suppress(ValueError, RecursionError):
        data = json.dumps(_without(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _without(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without(value) for key, value in values.items() if key not in _OF_THE_RUN}
    return [_without(value) for value in values] if isinstance(values, list) else values
