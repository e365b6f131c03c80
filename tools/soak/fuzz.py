"""Coverage-guided fuzzing of the readers that are pure Python, with atheris (Apache-2.0, `pip install atheris`).

    python tools/soak/fuzz.py detections corpus -max_total_time=600

The folder of inputs grows by what reached new code; a crash is what a reader raises that is no `SanError` (or, for the
walker of ONNX files, no `ValueError`).
"""

from __future__ import annotations

import contextlib
import csv
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _readers() -> dict[str, Callable[[bytes, Path], object]]:
    """By name, what reads bytes, or a file with them."""
    from san_deploy.artefact import read_sidecar
    from san_deploy.datasets.crop_folder import read_identities
    from san_deploy.datasets.tables import read_table
    from san_deploy.embed import read_embeddings
    from san_deploy.integrity import content_sha256, read_metadata, unbounded
    from san_deploy.matching.site import read_marks, read_topology
    from san_deploy.video.formats import FORMATS, read_detections
    from san_deploy.video.tracks import TRACKS, read_track_times

    def file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
        def run(data: bytes, folder: Path) -> object:
            path = folder / name
            path.write_bytes(data)
            return read(path)

        return run

    def walk(data: bytes, folder: Path) -> None:
        read_metadata(data)
        content_sha256(data, "key")
        unbounded(data)

    def sidecar(data: bytes, folder: Path) -> object:
        (folder / "a.onnx.json").write_bytes(data)
        return read_sidecar(folder / "a.onnx")

    def detections(data: bytes, folder: Path) -> None:
        """The first byte chooses the format; the last choice is to recognise it."""
        names = [*sorted(FORMATS), ""]
        form = names[data[0] % len(names)] if data else ""
        folders = form in ("ultralytics", "kitti")
        path = folder / "boxes-1" / "0001.txt" if folders else folder / "boxes"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[1:])
        read_detections(path.parent if folders else path, form)

    def tracks(data: bytes, folder: Path) -> object:
        (folder / TRACKS).write_bytes(data)
        return read_track_times(folder)

    def table(path: Path) -> None:
        with contextlib.suppress(csv.Error):
            list(read_table(path)[1])

    return {
        "onnx": walk,
        "detections": detections,
        "identities": file("identities.csv", read_identities),
        "table": file("a.csv", table),
        "tracks": tracks,
        "topology": file("site.csv", read_topology),
        "marks": file("marks.json", read_marks),
        "npz": file("a.npz", read_embeddings),
        "sidecar": sidecar,
    }


def main() -> None:
    """Fuzz the reader that is named first; all else is libFuzzer's."""
    sys.path[:0] = [str(ROOT)]
    import atheris

    with atheris.instrument_imports(include=["san_deploy"]):
        from san_deploy.errors import SanError

        readers = _readers()
    reader = readers[sys.argv.pop(1)]
    expected = (SanError, ValueError) if reader.__name__ == "walk" else (SanError,)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary:
        folder = Path(temporary)

        def one(data: bytes) -> None:
            with contextlib.suppress(*expected):
                reader(data, folder)

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
