"""Draw the sample crops that ship with the package, and pack them.

    python tools/starter/make_samples.py

Writes san_deploy/data/sample_crops.zip: three cameras, 24 people whom all of them see, 6 whom one of them sees,
8 crops each, a mean person 144 px high, JPEG of quality 85. The same settings give the same pixels; the pack holds
no time stamps. `san demo`, `san bench` and the checks of `san export` read it (san_deploy/data/samples.py).
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from drawn import draw_cameras

SETTINGS: dict[str, Any] = {
    "people": 24,
    "cameras": 3,
    "distractors": 6,
    "crops_per_track": 8,
    "seed": 0,
    "size_h": 144,
    "quality": 85,
}
PACK = Path(__file__).resolve().parents[2] / "san_deploy" / "data" / "sample_crops.zip"


def main() -> None:
    """Draw into a temporary folder and pack it."""
    parser = argparse.ArgumentParser(description="Draw the sample crops that ship with the package.")
    parser.add_argument("-o", "--out", type=Path, default=PACK, help="the zip file to write")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "crops"
        draw_cameras(folder, **SETTINGS)
        pack(folder, out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def pack(folder: Path, out: Path) -> None:
    """Pack the files below `folder` in the order of their names, without compression and time stamps."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes())


if __name__ == "__main__":
    main()
