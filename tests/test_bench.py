"""The bookkeeping of tools/bench.py: what is stored, what counts as worse, and what is written into the page."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "bench.py"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, with one made table, and a page and a store of its own."""
    spec = importlib.util.spec_from_file_location("bench", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its module up.
    monkeypatch.setitem(sys.modules, "bench", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STORED", tmp_path / "bench.json")
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- bench: made -->\nold\n<!-- bench end -->\nafter\n")
    monkeypatch.setattr(module, "PAGE", page)
    monkeypatch.setattr(
        module, "TABLES", {"made": lambda rounds: {"one, of another": [1.25, 1.2, 1.3][:rounds]}}
    )
    return module


def test_a_table_is_stored_with_where_it_was_measured(bench: ModuleType) -> None:
    assert bench.main(["made", "--write", "--rounds", "3"]) == 0
    known = json.loads(bench.STORED.read_text())["made"]
    assert known["rows"] == {"one, of another": [1.25, 1.2, 1.3]} and known["versions"]["numpy"]
    text = bench.PAGE.read_text()
    assert text.startswith("before\n<!-- bench: made -->\n`python tools/bench.py made --write` at ")
    assert "| one, of another | **1.25** | 1.20, 1.30 | 3 |" in text and "old" not in text
    assert text.endswith("<!-- bench end -->\nafter\n") and known["processor"] in text


@pytest.mark.parametrize(
    ("measured", "code"),
    [
        ([1.25, 1.25, 1.25], 0),
        ([0.5, 0.6, 0.7], 0),
        # Twice the stored spread of 0.1 beyond its median.
        ([1.44, 1.44, 1.44], 0),
        ([1.46, 1.46, 1.46], 3),
        ([float("nan")] * 3, 3),
        ([], 3),
    ],
)
def test_what_is_worse_than_its_spread_explains_ends_with_3(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], measured: list[float], code: int
) -> None:
    bench.main(["--write", "--rounds", "3"])
    bench.TABLES["made"] = lambda rounds: {"one, of another": measured} if measured else {}
    assert bench.main(["--check"]) == code
    assert ("worse: made, one, of another: " in capsys.readouterr().err) is (code == 3)


def test_a_table_without_spread_is_held_to_three_per_cent(bench: ModuleType) -> None:
    assert not bench.compare("made", {"a": [1.02]}, {"a": [1.0, 1.0]})
    (worse,) = bench.compare("made", {"a": [1.04]}, {"a": [1.0, 1.0]})
    assert worse.limit == pytest.approx(1.03)


def test_another_processor_is_not_held_against_it(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["made", "--check"]) == 1 and "nothing is stored" in capsys.readouterr().err
    bench.main(["made", "--write"])
    stored = json.loads(bench.STORED.read_text())
    stored["made"]["processor"] = "another"
    bench.STORED.write_text(json.dumps(stored))
    assert bench.main(["--check"]) == 1 and "stored on another" in capsys.readouterr().err


def test_tables_that_are_not_there(bench: ModuleType) -> None:
    with pytest.raises(SystemExit):
        bench.main(["none"])
    with pytest.raises(SystemExit, match="no place for the table made"):
        bench.PAGE.write_text("nothing")
        bench.main(["made", "--write"])


def test_ratios_are_taken_in_turn(bench: ModuleType) -> None:
    order: list[str] = []
    found = bench.in_turn(
        lambda: order.append("ours") or sum(range(200_000)),
        lambda: order.append("base") or sum(range(200_000)),
        2,
    )
    assert order == ["ours", "base", "ours", "base", "base", "ours"] and len(found) == 2
    assert all(value > 0 for value in found)


def test_the_page_has_a_place_for_every_table() -> None:
    """And what is stored is what stands there."""
    page = (TOOL.parent.parent / "docs" / "benchmarks.md").read_text("utf-8")
    spec = importlib.util.spec_from_file_location("bench_names", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_names"] = module
    spec.loader.exec_module(module)
    assert all(f"<!-- bench: {name} -->\n" in page for name in module.TABLES)
    stored = json.loads(module.STORED.read_text("utf-8")) if module.STORED.exists() else {}
    for known in stored.values():
        assert "\n".join(module.table(known["rows"])) in page
