"""The progress bar speaks on stderr, to people only."""

from __future__ import annotations

import io
import sys

import pytest

from san_deploy.io.progress import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("total", [10, None])
def test_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int | None
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bar(total, "embedding", "crop") as advance:
        advance(4)
        advance(6)
    assert "embedding" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)])
def test_silent_elsewhere(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, quiet: bool) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with bar(10, "embedding", "crop", quiet=quiet) as advance:
        advance(10)
    assert stream.getvalue() == ""
