"""What the pages have in common."""

from __future__ import annotations

import sys
from pathlib import Path

import jinja2
import pytest

from san_deploy.reports import html


def test_a_template_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html.j2").write_text("{{ name }} of {{ version }}, {{ made }}")
    monkeypatch.setattr(html, "_FOLDER", tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    # Without a folder that Python could write its own to, nothing is kept.
    html.environment().get_template("page.html.j2")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html.j2"]
    (tmp_path / "__pycache__").mkdir()
    html.environment().get_template("page.html.j2")
    (kept,) = (tmp_path / "__pycache__").iterdir()

    def compile_again(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(jinja2.Environment, "compile", compile_again)
    template = html.environment().get_template("page.html.j2")
    html.write_page(tmp_path / "a.html", template, {"name": "<Müller> \udcff"})
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.startswith("&lt;Müller&gt; \\udcff of 0.") and kept.suffix == ".template"


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.html.j2").write_text("{{ nobody }}")
    template = html.environment(tmp_path).get_template("page.html.j2")
    with pytest.raises(jinja2.UndefinedError):
        html.write_page(tmp_path / "a.html", template, {})
