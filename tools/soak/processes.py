"""`san` as a process of its own: killed, or ended where it hangs; and what its output is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digests import of_file
from .kinds import TRAIN, has
from .made import make

#: Seconds after which a command hangs, on a machine that may be busy.
LIMIT = 600.0


@dataclass(frozen=True)
class Job:
    """A command that writes something.

    Attributes:
        name: its row.
        argv: of the command; `{out}` is where it writes.
        out: name of the output.
        resume: whether the command goes on with what it finds there, and then takes `--resume`.
        needs: a module without which it does not run.
    """

    name: str
    argv: tuple[str, ...]
    out: str
    resume: bool = False
    needs: str = ""

    def words(self, out: Path, *, again: bool = False) -> list[str]:
        """The command with its output; `again` where it was run and stopped before."""
        words = [str(out) if word == "{out}" else word for word in self.argv]
        return [*words, "--resume"] if again and self.resume else words


_MODEL = ("-m", "model.onnx")
JOBS = (
    Job("embed", ("embed", "cam1", *_MODEL, "-o", "{out}"), "a.npz"),
    Job("match", ("match", "cam1", "cam2", *_MODEL, "--threshold", "0.5", "-o", "{out}"), "matches"),
    Job("eval", ("eval", ".", *_MODEL, "--split", "all", "-o", "{out}"), "evaluation"),
    Job(
        "threshold",
        ("threshold", "cam1", "cam2", *_MODEL, "--labels", "identities.csv", "-o", "{out}"),
        "a.onnx",
    ),
    Job("gallery add", ("gallery", "add", "cam1", "cam2", *_MODEL, "--gallery", "{out}"), "gallery"),
    Job(
        "crops",
        ("crops", "frames", "--fps", "10", "--detections", "boxes-mot", "-o", "{out}"),
        "cam9",
        needs="cv2",
    ),
    Job("merge", ("embed", "--merge", "shard1.npz", "shard2.npz", "-o", "{out}"), "a.npz"),
    Job("search", ("search", "cam2", "--gallery", "gallery", *_MODEL, "--html", "{out}"), "a.html"),
    Job("gallery export", ("gallery", "export", "--gallery", "gallery", "-o", "{out}"), "exported"),
    Job("demo", ("demo", *_MODEL, "--threshold", "0.5", "-o", "{out}"), "demo"),
    Job(
        "parity",
        (
            "parity",
            "model.onnx",
            "--outputs",
            "rows.npz",
            "--crops",
            "seen",
            "--num",
            "10",
            "--html",
            "{out}",
        ),
        "a.html",
    ),
    Job(
        "import",
        ("import", "theirs.onnx", "--preset", "openvino-bgr", "-o", "{out}"),
        "a.onnx",
        needs="torch",
    ),
    Job("triton", ("export", "model.onnx", "--triton", "{out}"), "repository"),
    Job(
        "teach",
        ("train", ".", "-o", "{out}", *TRAIN, "--teacher", "model.onnx"),
        "run",
        resume=True,
        needs="torch",
    ),
    Job("train", ("train", ".", "-o", "{out}", *TRAIN), "run", resume=True, needs="torch"),
    Job("export", ("export", "run/model.safetensors", "--no-engine", "-o", "{out}"), "a.onnx", needs="torch"),
)


def environment() -> dict[str, str]:
    """Where a process finds our packages."""
    root = Path(__file__).resolve().parents[2]
    places = [root, root / "train", root / "export", *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}


def prepared(folder: Path, only: str, skipped: dict[str, str]) -> list[Job]:
    """Write the inputs into `folder` and make it the working directory; the jobs that can be run here."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    make(folder)
    jobs = [job for job in JOBS if only.lower() in job.name]
    for job in [job for job in jobs if not has(job.needs)]:
        skipped[job.name] = f"{job.needs} is not installed"
        jobs.remove(job)
    return jobs


def run(
    words: Sequence[str], *, before: Callable[[], None] | None = None, extra: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run `san`: exit code, stdout and stderr; TimeoutExpired where it hangs. `before` is called in the process."""
    done = subprocess.run(
        [sys.executable, "-m", "san_deploy", *words],
        env=environment() | dict(extra or {}),
        preexec_fn=before,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def start(words: Sequence[str]) -> subprocess.Popen[Any]:
    """Start `san`, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "san_deploy", *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def digests(out: Path) -> dict[str, str]:
    """Digests of all files of an output, by name; a file's sidecar is of it."""
    tops = [out, *out.parent.glob(out.name + ".*")]
    files = [path for top in tops if top.exists() for path in (top, *top.rglob("*")) if path.is_file()]
    return {str(path.relative_to(out.parent)): of_file(path) for path in files}


def clear(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
