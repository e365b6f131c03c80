"""docs/troubleshooting.md has every message that states its cause, and none that the code has not.

A cause is stated where `why=` of an error is a sentence of ours; what a library said, and the values that were found,
explain themselves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/troubleshooting.md"
SOURCES = [
    path for folder in ("san_deploy", "train", "export") for path in sorted((ROOT / folder).rglob("*.py"))
]
ERRORS = {"SanError", "UsageError", "GateError"}
#: What stands for a value in a message.
VALUE = "\0"


def text_of(node: ast.expr) -> str:
    """The words of an expression, with `VALUE` for what is known when it runs only."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return VALUE


def messages(source: str) -> Iterator[str]:
    """Messages of the errors in a module that state a cause."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS):
            continue
        for keyword in node.keywords:
            if keyword.arg != "why" or not node.args:
                continue
            why = text_of(keyword.value)
            words = re.findall(r"[a-z]{2,}", why.replace(VALUE, " "))
            if len(words) >= 3 and not why.startswith("received"):
                yield text_of(node.args[0])


def longest(message: str) -> str:
    """Its longest piece without a value."""
    return max(message.split(VALUE), key=len).strip(" '(),:[;")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_message_that_states_its_cause_is_on_the_page(path: Path) -> None:
    page = PAGE.read_text("utf-8")
    assert [
        message for message in map(longest, messages(path.read_text("utf-8"))) if message not in page
    ] == []


def test_the_page_has_no_message_of_before() -> None:
    """Of each quoted message the longest piece stands in the code, or is put together there of two pieces."""
    code = "\n".join(
        text_of(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp)
    )
    quoted = [
        message
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| `")
        for message in re.findall(r"`([^`]+)`", line.split(" | ")[0])
    ]
    assert len(quoted) > 50
    assert [
        message
        for message in quoted
        if max((piece.strip(" ,:") for piece in message.split("...")), key=len) not in code
        and message not in OTHERS
    ] == []


#: Quoted messages whose words are another program's, or put together of ours.
OTHERS = {
    "No space left on device",
    "torch is not installed",
    "tensorrt is not installed",
    "... builds of ONNX Runtime are installed over each other",
    "... builds of OpenCV are installed over each other",
}
