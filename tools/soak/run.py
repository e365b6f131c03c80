"""The campaign's command line."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from . import __doc__ as about
from . import crops, disks, kills, mutants
from .verdict import Table

PARTS = ("mutants", "kills", "disks", "crops")


def main() -> None:
    """Run what was asked for, print the table, and exit with 3 where something bad was found."""
    parser = argparse.ArgumentParser(
        prog="python tools/soak", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART[:ROW]",
        help=f"{', '.join(PARTS)}, and a row's name or part of it",
    )
    parser.add_argument("--count", type=int, help="mutants, kills or crops  [20000, 200, 200000]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="new, to work in; kept  [a temporary one, removed]")
    parser.add_argument("--json", action="store_true", help="print counts and finds as JSON")
    given = parser.parse_args()
    asked = dict(item.partition(":")[::2] for item in given.only or PARTS)
    if unknown := set(asked) - set(PARTS):
        parser.error(f"--only {unknown.pop()} is none of {', '.join(PARTS)}")
    table = Table(say=lambda text: print(text, file=sys.stderr, flush=True))
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        try:
            for part, row in asked.items():
                _part(part, row, folder / part, table, given)
        except KeyboardInterrupt:
            table.skipped["the rest"] = "stopped"
    if given.json:
        told = {
            "counts": table.counts,
            "finds": [vars(find) for find in table.finds],
            "skipped": table.skipped,
        }
        print(json.dumps(told, indent=2))
    else:
        print(table.text())
    sys.exit(3 if table.finds else 0)


def _part(part: str, row: str, folder: Path, table: Table, given: argparse.Namespace) -> None:
    def say(text: str) -> None:
        print(f"{part}: {text}", file=sys.stderr, flush=True)

    folder = folder.resolve()
    folder.mkdir(parents=True)
    if part == "mutants":
        mutants.soak(folder, table, count=given.count or 20_000, seed=given.seed, only=row, say=say)
    elif part == "kills":
        kills.soak(folder, table, count=given.count or 200, seed=given.seed, only=row, say=say)
    elif part == "disks":
        disks.soak(folder, table, only=row, say=say)
    else:
        crops.soak(folder, table, count=given.count or 200_000)
