"""What the pages have in common: one file each without a network, written piece by piece, escaped, in one style."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__

_FOLDER = Path(__file__).parent


def environment(*folders: Path) -> jinja2.Environment:
    """Jinja as every page has it: all values escaped, unknown names refused.

    Args:
        folders: with templates of another package, looked through before this one's.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _FOLDER]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        bytecode_cache=_bytecode_cache(),
    )


def _bytecode_cache() -> jinja2.BytecodeCache | None:
    """Compiled templates lie where Python keeps compiled modules, if it may: compiling takes as long as matching."""
    folder = _FOLDER / "__pycache__"
    if sys.dont_write_bytecode or not os.access(folder, os.W_OK):
        return None
    return jinja2.FileSystemBytecodeCache(str(folder), "%s.template")


def write_page(path: Path, template: jinja2.Template, context: Mapping[str, Any]) -> None:
    """Write a page; `version` and `made`, the time, are added to its context.

    Streamed: the pictures of a large page never stand in memory together. A name that is not UTF-8 on disk is shown
    with backslashes instead of stopping the run.

    Args:
        path: the .html file to write, of an `atomic_file` or in an `atomic_folder`.
        template: of `environment`.
        context: its values.

    Raises:
        OSError: no space, no permission.
    """
    made = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M")
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for piece in template.generate({"version": __version__, "made": made, **context}):
            file.write(piece)


def model_facts(model: Mapping[str, Any], runtime: str = "") -> list[tuple[str, str]]:
    """What of a model's identity a reader wants to see, as label and text.

    Args:
        model: `Artefact.as_dict()`, with `file`.
        runtime: what runs it, in words; empty where that stands elsewhere.
    """
    size = model.get("size_hw")
    facts = (
        ("Network", model.get("arch")),
        ("File", model.get("file")),
        ("Input", f"{size[0]} × {size[1]} pixels" if size else None),
        ("Embedding", f"{model['embedding_dim']} numbers" if model.get("embedding_dim") else None),
        ("Attention mask", model.get("mask")),
        ("Precision", model.get("precision")),
        ("SHA-256", str(model.get("sha256") or "")[:16]),
        ("Runs on", runtime),
    )
    return [(label, str(value)) for label, value in facts if value]
