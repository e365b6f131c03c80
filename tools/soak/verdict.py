"""What one damaged run came to, and the table of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

#: In the order of the table. `other value`: what carries no hash was read as what it says now, as it must be.
GOOD = ("refused", "unchanged", "other value")
BAD = ("traceback", "hang", "silent change", "half file", "memory")
VERDICTS = (*GOOD, *BAD)
#: Kinds of tracebacks: Python's, and processes that a library ended.
_TRACEBACK = re.compile(
    r"Traceback \(most recent call last\)|terminate called|Segmentation fault|core dumped"
)


@dataclass(frozen=True)
class Find:
    """One run that came to something bad.

    Attributes:
        row: of the table.
        case: what makes it again: its number under a seed, or the case's name.
        verdict: one of `BAD`.
        detail: the last lines that were said.
    """

    row: str
    case: str
    verdict: str
    detail: str

    def line(self) -> str:
        """In one line."""
        last = self.detail.strip().splitlines()[-1:] or [""]
        return f"{self.verdict}: {self.row}, {self.case}: {last[0][:300]}"


@dataclass
class Table:
    """How often each row came to what.

    Attributes:
        say: is told of a find when it is made.
        counts: by row and verdict.
        finds: the bad ones.
        skipped: rows that could not be run here, and why.
    """

    say: Callable[[str], None] = lambda text: None
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    finds: list[Find] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, case: str, verdict: str, detail: str = "") -> None:
        """Count one run."""
        self.counts.setdefault(row, Counter())[verdict] += 1
        if verdict in BAD:
            self.finds.append(Find(row, case, verdict, detail[-2000:]))
            self.say(self.finds[-1].line())

    def text(self) -> str:
        """The table as aligned lines, with the finds and what was skipped below."""
        width = max((len(row) for row in self.counts), default=4)
        lines = [f"{'':{width}}  " + "  ".join(VERDICTS)]
        for row, counts in self.counts.items():
            lines.append(f"{row:{width}}  " + "  ".join(f"{counts[name]:{len(name)}d}" for name in VERDICTS))
        total: Counter[str] = sum(self.counts.values(), Counter())
        lines.append(f"{'all':{width}}  " + "  ".join(f"{total[name]:{len(name)}d}" for name in VERDICTS))
        lines += [f"not run: {row}: {why}" for row, why in self.skipped.items()]
        lines += [find.line() for find in self.finds]
        return "\n".join(lines)


def judge_words(code: int, out: str, err: str) -> str:
    """`refused` for an error in words, `traceback` for one that is none, empty where the command ended well.

    Args:
        code: the exit code; negative for a signal.
        out: what was printed on stdout.
        err: likewise on stderr.
    """
    if _TRACEBACK.search(err) or _TRACEBACK.search(out) or code < 0 or code in (134, 139):
        return "traceback"
    if code == 0:
        return ""
    said = [line for line in err.splitlines() if line.startswith(("Error: ", "Stopped. "))]
    return "refused" if len(said) == 1 else "traceback"
