"""The edge calls nothing that Windows does not have: it runs with what Windows lacks taken away.

That is a stand-in. What it cannot show is what asks `os.name`, a Windows path, and a file that somebody holds open.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.san_deploy.data.sample_folder import write_samples

AS_ON_WINDOWS = """if True:
    import os, shutil, signal, subprocess, sys, tempfile, threading
    import numpy, PIL.Image, click, lap

    for name in (
        "sched_getaffinity sysconf getloadavg getuid geteuid getgid getegid chown lchown fchmod mkfifo mknod statvfs "
        "fork forkpty killpg getpgid setsid uname pread pwrite sync nice getpriority "
        "O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_CLOEXEC O_SYNC O_DSYNC"
    ).split():
        if hasattr(os, name):
            delattr(os, name)
    for name in "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGPIPE alarm pthread_sigmask".split():
        if hasattr(signal, name):
            delattr(signal, name)
    for module in "fcntl resource pwd grp termios syslog".split():
        sys.modules[module] = None

    sys.argv = ["san", *sys.argv[1:]]
    from san_deploy.cli import main
    main()
"""


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("crops"), people=2, cameras=2)


@pytest.mark.parametrize(
    "command",
    [
        ["info"],
        ["info", "--json"],
        ["embed", "cam1", "-o", "cam1.npz"],
        ["match", "cam1", "cam2", "-o", "matches"],
        ["eval", ".", "--split", "all", "-o", "evaluation"],
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_a_command_with_what_windows_has(command: list[str], crops: Path) -> None:
    again = [command, [*command, "--force"]] if "-o" in command else [command]
    for words in again:
        done = subprocess.run(
            [sys.executable, "-c", AS_ON_WINDOWS, *words],
            cwd=crops,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
