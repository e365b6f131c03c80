"""The JUnit file, held against what the xUnit plug-in's junit-10.xsd, Jenkins and GitLab ask for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from san_export.parity.junit import write_junit
from san_export.parity.result import STAGES, Check, ParityRun, Stage

from san_deploy.errors import SanError
from tests.san_export.parity import made

#: Attributes that the schema knows: all others are refused.
KNOWN = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id"},
    "testcase": {"name", "classname", "time", "group"},
    "failure": {"type", "message"},
    "skipped": {"type", "message"},
    "property": {"name", "value"},
    "properties": set(),
    "system-out": set(),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase", "system-out", "system-err"},
    "testcase": {"skipped", "failure", "system-out", "system-err"},
    "properties": {"property"},
}
REQUIRED = {
    "testsuite": {"name", "tests", "failures", "errors"},
    "testcase": {"name", "classname", "time"},
    "property": {"name", "value"},
}
#: SUREFIRE_TIME of the schema.
TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?")


def parsed(run: ParityRun, folder: Path) -> Element:
    path = folder / "parity.xml"
    write_junit(run, path)
    assert path.read_bytes().startswith(b"<?xml")
    return ElementTree.parse(path).getroot()


def hold_rules(root: Element) -> None:
    """What a reader of JUnit XML relies on."""
    assert root.tag == "testsuites"
    for item in root.iter():
        assert set(item.attrib) <= KNOWN[item.tag] and REQUIRED.get(item.tag, set()) <= set(item.attrib)
        assert {child.tag for child in item} <= CHILDREN.get(item.tag, set())
        if "time" in item.attrib:
            assert TIME.fullmatch(item.attrib["time"]) and float(item.attrib["time"]) >= 0
    for suite in root:
        cases = suite.findall("testcase")
        # Jenkins and GitLab count for themselves; other readers believe the attributes.
        assert int(suite.attrib["tests"]) == len(cases) > 0
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
        assert suite.attrib["errors"] == "0"
        assert float(suite.attrib["time"]) == pytest.approx(sum(float(case.attrib["time"]) for case in cases))
        for case in cases:
            assert len(case.findall("failure")) + len(case.findall("skipped")) <= 1
    # GitLab keeps the first of two cases with one name; Jenkins joins suites with one name.
    names = [(case.attrib["classname"], case.attrib["name"]) for case in root.iter("testcase")]
    assert len(set(names)) == len(names)
    assert len({suite.attrib["name"] for suite in root}) == len(root)
    for key in ("tests", "failures", "errors"):
        assert int(root.attrib[key]) == sum(int(suite.attrib[key]) for suite in root)
    assert float(root.attrib["time"]) == pytest.approx(sum(float(suite.attrib["time"]) for suite in root))
    for item in (*root.iter("failure"), *root.iter("skipped")):
        # Jenkins shows the message, GitLab the text.
        assert item.attrib["message"] and item.text


@pytest.mark.parametrize(
    "run",
    [made.run(), made.failing(), made.broken(), made.all_skipped(), made.run(made.masks(names=[]))],
)
def test_the_rules_hold(run: ParityRun, tmp_path: Path) -> None:
    root = parsed(run, tmp_path)
    hold_rules(root)
    assert [suite.attrib["name"] for suite in root] == [f"san.parity.{name}" for name in STAGES]
    assert int(root.attrib["failures"]) == len(run.failed)


def test_a_case_for_every_check(tmp_path: Path) -> None:
    run = made.failing()
    root = parsed(run, tmp_path)
    for suite, stage in zip(root, run.stages, strict=True):
        assert [case.attrib["name"] for case in suite.iter("testcase")] == [
            check.gate for check in stage.checks
        ]
        for case, check in zip(suite.iter("testcase"), stage.checks, strict=True):
            assert (case.find("failure") is None) == check.passed
        assert float(suite.attrib["time"]) == pytest.approx(stage.seconds, abs=0.004)
    failure = root.find(".//testcase[@name='rank1_drop']/failure")
    assert failure is not None and failure.attrib["message"] == "rank1_drop 0.62, at most 0.1"
    assert failure.text is not None
    assert "points of rank-1 lost" in failure.text and "--gate rank1_drop=VALUE" in failure.text


def test_skipped_and_gateless_rungs(tmp_path: Path) -> None:
    root = parsed(made.run(made.skipped("ranking", "too few crops"), made.masks(names=[])), tmp_path)
    skipped = root.findall(".//skipped")
    assert len(skipped) == 1 and skipped[0].text == skipped[0].attrib["message"] == "too few crops"
    case = root.find("testsuite[@name='san.parity.masks']/testcase")
    assert case is not None and case.attrib["name"] == "masks"
    assert case.findtext("system-out") == "no sharp block"


def test_any_name_is_text(tmp_path: Path) -> None:
    """Control characters are not XML, nor are bytes that are no Unicode; markup is text."""
    odd = "a\x00\x1b[31m\x0b\udcff<b>&\"']]>\ufffe\u202e.jpg"
    root = parsed(made.with_names([odd] * 4), tmp_path)
    hold_rules(root)
    text = "".join(root.itertext()) + "".join(value for item in root.iter() for value in item.attrib.values())
    assert "\\x1b[31m" in text and "\\udcff<b>&\"']]>\\ufffe\\u202e" in text
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe]", text)


def test_equal_gates_have_different_names(tmp_path: Path) -> None:
    check = Check("min_cosine", 0.5, 0.9, True, "batch 1")
    stage = Stage("embeddings", None, (check, replace(check, message="batch 7"), replace(check, gate="x")))
    root = parsed(made.run(stage), tmp_path)
    hold_rules(root)
    names = [
        case.attrib["name"] for case in root.findall("testsuite[@name='san.parity.embeddings']/testcase")
    ]
    assert names == ["min_cosine", "min_cosine (2)", "x"]


def test_odd_times_are_times(tmp_path: Path) -> None:
    for seconds in (float("nan"), -1.0, float("inf"), 86400.12345):
        stage = replace(made.embeddings(), seconds=seconds)
        hold_rules(parsed(made.run(stage), tmp_path))


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "parity.xml").mkdir()
    with pytest.raises(SanError, match=r"cannot write .*parity\.xml"):
        write_junit(made.run(), tmp_path / "parity.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["parity.xml"]
