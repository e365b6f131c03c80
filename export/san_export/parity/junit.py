"""A parity run as JUnit XML, as Jenkins and GitLab read it: a suite for every stage, a case for every gate.

Jenkins shows the `message` of a failure and of a skip, GitLab the text of the element, so each has both. GitLab
keeps the first of two cases with one name, so names differ within a suite.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from san_deploy.io.atomic import atomic_file

from . import text as words
from .result import Check, ParityRun, Stage

#: Cases are shown as classes of this package.
_PACKAGE = "san.parity"


def write_junit(run: ParityRun, path: Path) -> None:
    """Write the file. A stage that was left out is a skipped case; one without a gate is a case that passed.

    Args:
        run: to write.
        path: the .xml file to write; GitLab takes no other ending.

    Raises:
        SanError: it cannot be written; nothing is left behind.
    """
    root = Element("testsuites", name=_PACKAGE)
    suites = [_suite(root, run, stage) for stage in run.stages]
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.set("time", _seconds(sum(float(suite.get("time", "0")) for suite in suites)))
    ElementTree.indent(root)
    with atomic_file(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _suite(root: Element, run: ParityRun, stage: Stage) -> Element:
    skipped = words.state(stage) == "skipped"
    cases = len(stage.checks) or 1
    suite = SubElement(
        root,
        "testsuite",
        name=f"{_PACKAGE}.{stage.name}",
        tests=str(cases),
        failures=str(len(stage.failed)),
        errors="0",
        skipped="1" if skipped else "0",
        # Suites and cases add up to the same: what a stage took is spread over its gates.
        time=_seconds(cases * (seconds := _each(stage, cases))),
    )
    properties = SubElement(suite, "properties")
    for key, value in (
        ("compared", words.compared(run)),
        ("found", words.gist(stage)),
        *(("note", words.clean(note)) for note in stage.notes),
    ):
        if value:
            SubElement(properties, "property", name=key, value=value)
    names: Counter[str] = Counter()
    for check in stage.checks:
        name = words.clean(check.gate)
        names[name] += 1
        case = _case(suite, stage, name if names[name] == 1 else f"{name} ({names[name]})", seconds)
        _outcome(case, run, stage, check)
    if not stage.checks:
        case = _case(suite, stage, stage.name, seconds)
        if skipped:
            _text(SubElement(case, "skipped", message=words.clean(stage.skipped)), words.clean(stage.skipped))
        elif words.gist(stage):
            _text(SubElement(case, "system-out"), words.gist(stage))
    return suite


def _case(suite: Element, stage: Stage, name: str, seconds: float) -> Element:
    classname = f"{_PACKAGE}.{stage.name}"
    return SubElement(suite, "testcase", name=name, classname=classname, time=_seconds(seconds))


def _outcome(case: Element, run: ParityRun, stage: Stage, check: Check) -> None:
    message = words.clean(check.message)
    if check.passed or not check.decides:
        differs = (
            "" if check.passed else "\nThis does not decide: the embeddings and the ranking hold their gates."
        )
        _text(SubElement(case, "system-out"), f"{words.measured(check)}\n{message}{differs}")
        return
    failure = SubElement(case, "failure", message=words.measured(check), type=words.clean(check.gate))
    _text(
        failure,
        f"{words.measured(check)}\n{message}\n{_finding(run)}Do: {words.remedy(stage, run)}.\n"
        f"Another gate is set with --gate {words.clean(check.gate)}=VALUE.",
    )


def _finding(run: ParityRun) -> str:
    found = words.finding(run)
    return f"Finding: {found}\n" if found else ""


def _text(element: Element, text: str) -> None:
    element.text = text


def _each(stage: Stage, cases: int) -> float:
    seconds = stage.seconds if math.isfinite(stage.seconds) and stage.seconds > 0 else 0.0
    return round(seconds / cases, 3)


def _seconds(value: float) -> str:
    """Milliseconds are all that the schema takes."""
    return f"{value:.3f}"
