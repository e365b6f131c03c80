"""A model file and its sidecar, which appear together or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from san_deploy.artefact import sidecar_path
from san_deploy.io.atomic import atomic_file


@contextlib.contextmanager
def atomic_pair(out: Path) -> Iterator[Path]:
    """`atomic_file` for a model file, and for the sidecar that is written beside its temporary name.

    Yields:
        The temporary path; on success it and its sidecar take the names of `out`.
    """
    sidecar: Path | None = None
    try:
        with atomic_file(out) as temporary:
            sidecar = sidecar_path(temporary)
            yield temporary
        # Both were complete before the first got its name; nothing but this rename is left.
        os.replace(sidecar, sidecar_path(out))
    finally:
        if sidecar is not None:
            sidecar.unlink(missing_ok=True)
