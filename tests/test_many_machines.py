"""docs/many-machines.md on one machine: what SLURM, GNU parallel and Kubernetes would start is started here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from san_deploy.embed import read_embeddings
from tests.san_deploy.data.sample_folder import write_samples

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/many-machines.md").read_text("utf-8")
SHARDS = 8
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="the page's blocks are for bash"),
]


def block(heading: str, number: int = 0) -> str:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```(?:bash|yaml)\n(.*?)```", section, re.DOTALL)[number]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """`data/` as the machines see it, and `san` on the path."""
    write_samples(tmp_path / "crops", people=3, cameras=1)
    (tmp_path / "data").mkdir()
    (tmp_path / "crops/cam1").rename(tmp_path / "data/cam1")
    command = tmp_path / "bin/san"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m san_deploy "$@"\n', "utf-8")
    command.chmod(0o755)
    return tmp_path


def run(site: Path, script: str, shell: str = "bash", **variables: str) -> str:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "train", "export"))
    environment = os.environ | {
        "PATH": os.pathsep.join((str(site / "bin"), os.environ["PATH"])),
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    done = subprocess.run(
        [shell, "-e", "-c", script.replace("/data/", f"{site}/data/")],
        cwd=site,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def crops_of(site: Path, name: str) -> int:
    assert not list((site / "data/parts").glob("*.tmp"))
    return len(read_embeddings(site / "data" / name).embedding)


def test_slurm(site: Path) -> None:
    """The script of the array in every task, then the merge; sbatch is a stand-in that says what it was given."""
    (site / "embed.sbatch").write_text(block("SLURM"), "utf-8")
    assert f"#SBATCH --array=1-{SHARDS}" in block("SLURM")
    sbatch = site / "bin/sbatch"
    sbatch.write_text('#!/bin/sh\nfor word; do echo "$word" >> sbatch.txt; done\necho 7\n', "utf-8")
    sbatch.chmod(0o755)
    submit = block("SLURM", 1)
    run(site, submit)
    given = (site / "sbatch.txt").read_text("utf-8").splitlines()
    assert given[:3] == ["--parsable", "--export=ALL,CROPS,OUT", "embed.sbatch"]
    assert given[3:5] == ["--dependency=afterok:7", "--wrap"]
    exported = submit.splitlines()[0] + "\n"
    for task in range(1, SHARDS + 1):
        run(
            site,
            exported + "bash -e embed.sbatch",
            SLURM_ARRAY_TASK_ID=str(task),
            SLURM_ARRAY_TASK_COUNT=str(SHARDS),
        )
    run(site, exported + given[5])
    assert crops_of(site, "parts/crops.npz") == len(list((site / "data/cam1").rglob("*.jpg")))


@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")
def test_gnu_parallel(site: Path) -> None:
    script = block("GNU parallel")
    assert "--sshlogin node1,node2 " in script
    run(site, script.replace("--sshlogin node1,node2 ", "--sshlogin : "))
    assert crops_of(site, "cam1.npz") == len(list((site / "data/cam1").rglob("*.jpg")))


def test_kubernetes(site: Path) -> None:
    job = yaml.safe_load(block("Kubernetes"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == SHARDS
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] in ("OnFailure", "Never")  # a Job's pods take no other
    [container] = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {item["name"] for item in pod["volumes"]}
    [script] = container["args"]
    assert container["command"] == ["sh", "-c"]
    # The image's `san` is found by a shell only if it is on the path.
    assert "ENV PATH=/opt/san/bin:" in (ROOT / "docker/cpu.Dockerfile").read_text("utf-8")
    for index in range(SHARDS):
        run(site, script, shell="sh", JOB_COMPLETION_INDEX=str(index))
    [merge] = re.findall(r"`(san embed --merge [^`]*)`", PAGE.partition("## Kubernetes")[2])
    assert shlex.split(merge)[-1] == "/data/cam1.npz"
    run(site, merge)
    assert crops_of(site, "cam1.npz") == len(list((site / "data/cam1").rglob("*.jpg")))
