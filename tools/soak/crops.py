"""So many crops that nothing may be kept of each: memory must not grow with their number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny_models import tiny_model

from .processes import environment
from .verdict import Table

#: Crops in a folder, and links to one file: ext4 allows 65,000.
_EACH, _LINKS = 100, 50_000
#: Bytes that a crop may cost: its embedding, path and tracklet, as NumPy keeps text, twice while they are written.
BYTES_EACH = 600
#: Bytes by which the peaks of two equal runs differ.
SLACK = 16_000_000


def soak(folder: Path, table: Table, *, count: int) -> None:
    """Embed `count` crops, hard links to a few files, and a tenth of them; memory may grow by `BYTES_EACH`."""
    tiny_model(folder / "model.onnx")
    peak = {}
    for number in (count // 10, count):
        _link(folder / f"crops{number}", number)
        out = folder / f"out{number}.npz"
        code, peak[number], err = _embed(folder, f"crops{number}", out)
        if code or not out.exists():
            table.add("many crops", f"{number} crops", "traceback", err)
            return
        with np.load(out) as file:
            if len(file["embedding"]) != number:
                table.add(
                    "many crops", f"{number} crops", "silent change", f"{len(file['embedding'])} embeddings"
                )
                return
    more, growth = count - count // 10, peak[count] - peak[count // 10]
    words = f"{count} crops: peak {peak[count] / 1e6:.0f} MB, {growth / more:.0f} bytes for each more than a tenth"
    print(f"crops: {words}", file=sys.stderr)
    table.add("many crops", words, "unchanged" if growth <= BYTES_EACH * more + SLACK else "memory", words)


def _link(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        if number % _LINKS == 0:
            source = folder.with_name(f"{folder.name}-{number}.jpg")
            Image.fromarray(rng.integers(0, 256, (32, 16, 3)).astype(np.uint8)).save(source)
        track = folder / f"t{number // _EACH:05d}"
        if number % _EACH == 0:
            track.mkdir()
        os.link(source, track / f"{number % _EACH:03d}.jpg")


def _embed(folder: Path, crops: str, out: Path) -> tuple[int, int, str]:
    """Exit code, peak of memory in bytes, stderr."""
    code = (
        "import sys, resource; from san_deploy.cli import main\n"
        "try: main()\n"
        "finally: print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.__stderr__)"
    )
    argv = ["embed", crops, "-m", "model.onnx", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    peak = next((int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("PEAK")), 0)
    return done.returncode, peak * 1024, done.stderr
