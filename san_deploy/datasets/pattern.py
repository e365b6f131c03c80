"""Any folder of crops whose file names or folders say who is on them.

A pattern is a file name with fields: `{person}_c{camera}s{}_{}.jpg`. `{}` stands for anything, `{person:4}` for
exactly four characters, a field that comes twice for the same text twice. No field reaches across a `/`.

- Without a `/`, the pattern is matched against the file name, in whichever sub-folder the file lies; with one
  (`{person}/{camera}/{}.jpg`) against the path below the data set's folder. Folders above it are never looked at.
- The file name's ending may be left out: `{person}_{camera}_{}` reads .jpg and .png.
- Fields: person, camera, track, split.
- A regular expression with named groups does the same, `(?P<person>\\d+)_c(?P<camera>\\d)`; it is searched for.

Where all persons are whole numbers they are taken as such, Market-1501's way: 0 is a distractor, -1 is junk, and
so are MARS' 00-1 and PRW's -2 (`records.person_number`).
Otherwise they are names, and are numbered from 1 in their order.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import SanError, UsageError
from ..images import SUFFIXES
from ..metrics.labels import DISTRACTOR, JUNK
from .listing import Tree
from .options import Options
from .records import Crop, Dataset, is_number, number_from_one, passes_each_once, person_number

LAYOUT = "a folder of crops read by --pattern, for example '{person}_c{camera}_{}.jpg'"
OPTIONS = frozenset({"pattern"})
INSIDE: tuple[str, ...] = ()
FIELDS = ("person", "camera", "track", "split")
_FIELD = re.compile(r"\{(\w*)(?::(\d+))?\}")


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern.

    Attributes:
        text: pattern as the user wrote it.
        expression: what is searched for.
        whole_path: search in the path below the root, not in the file name alone.
        ending: whether the file name's ending is part of it.
    """

    text: str
    expression: re.Pattern[str]
    whole_path: bool
    ending: bool

    def labels(self, path: str) -> dict[str, str] | None:
        """The fields of a file, by its path below the root with `/`; None where it does not fit."""
        text = path if self.whole_path else posixpath.basename(path)
        if not self.ending:
            text = posixpath.splitext(text)[0]
        found = self.expression.search(text)
        if found is None or not all(found.groupdict().values()):
            return None
        return found.groupdict()


def compile_pattern(text: str, needs: tuple[str, ...] = ("person",)) -> Pattern:
    """Compile a pattern, see above.

    Args:
        text: the pattern.
        needs: fields of which it must have one.

    Raises:
        UsageError: it has no field for the person, an unknown field, a stray brace, or is no expression.
    """
    ending = True
    if "(?P<" in text:
        source = text
    else:
        source = rf"\A{_translate(text)}\Z"
        ending = posixpath.splitext(text)[1].lower() in SUFFIXES
    try:
        expression = re.compile(source)
    except (re.error, OverflowError) as error:
        raise UsageError(f"--pattern '{text}' is no regular expression", why=str(error)) from error
    _check_fields(text, set(expression.groupindex), needs)
    return Pattern(text, expression, "/" in text, ending)


def _translate(text: str) -> str:
    parts, end, seen = [], 0, set()
    for field in _FIELD.finditer(text):
        name, width = field[1], field[2]
        parts.append(_literal(text, text[end : field.start()]))
        end = field.end()
        if name in seen:
            parts.append(f"(?P={name})")
            continue
        # As little as fits, so that {person}_{}.jpg takes the person up to the first _.
        body = f"[^/]{{{width}}}" if width else "[^/]+?" if name else "[^/]*?"
        if name and name not in FIELDS:
            _check_fields(text, {*FIELDS, name})
        parts.append(f"(?P<{name}>{body})" if name else body)
        seen |= {name} - {""}
    return "".join([*parts, _literal(text, text[end:])])


def _literal(text: str, part: str) -> str:
    if "{" in part or "}" in part:
        raise UsageError(f"--pattern '{text}' has a brace that belongs to no field", do=_EXAMPLE)
    return re.escape(part)


_EXAMPLE = "for example '{person}_c{camera}_{}.jpg'"


def _check_fields(text: str, fields: set[str], needs: tuple[str, ...] = FIELDS) -> None:
    unknown = sorted(fields - set(FIELDS))
    if unknown:
        raise UsageError(
            f"--pattern '{text}' has an unknown field {unknown[0]}", do=f"the fields are {', '.join(FIELDS)}"
        )
    if not fields & {*needs}:
        wanted = " or ".join(f"{{{name}}}" for name in needs)
        raise UsageError(f"--pattern '{text}' has no field {wanted}", do=_EXAMPLE)


def matches(root: Path) -> bool:
    """False: a folder is read this way only where a pattern is given."""
    return False


def read(root: Path, options: Options) -> Dataset:
    """Read all files below `root` that fit; the others are counted and said. Sorted by path.

    Without a field for the split, all crops stand in `train`. Without one for the track, each is its own.

    Raises:
        UsageError: the pattern is malformed, or has no camera although cameras count.
        SanError: no file fits, a person is a number below -1.
    """
    pattern = compile_pattern(options.pattern)
    fields = pattern.expression.groupindex
    if "camera" not in fields and not options.no_camera:
        raise UsageError(
            f"--pattern '{pattern.text}' has no field {{camera}}",
            why="crops of one person by one camera do not count as right answers",
            do="name the camera, or give --no-camera where it is not known",
        )
    files = Tree(root).images_below()
    if not files:
        raise SanError(f"{root} holds no image")
    found = [(file, labels) for file in files if (labels := pattern.labels(file))]
    if not found:
        raise SanError(
            f"none of the {len(files)} images in {root} fits --pattern '{pattern.text}'",
            why=f"the first is {files[0]}",
        )
    numbers = _number(root, {labels["person"]: file for file, labels in found})
    zero = [labels for _, labels in found if numbers[labels["person"]] == DISTRACTOR]
    seen = {(labels.get("camera", ""), labels.get("track", "")) for labels in zero if "track" in labels}
    is_person = passes_each_once([camera for camera, _ in seen]) or any(
        labels.get("split") == "query" for labels in zero
    )
    shift, note = number_from_one(bool(zero), is_person=is_person)
    splits: dict[str, list[Crop]] = {}
    junk: dict[str, int] = {}
    for file, labels in found:
        split, person = labels.get("split", "train"), numbers[labels["person"]]
        crops = splits.setdefault(split, [])
        if person == JUNK:
            junk[split] = junk.get(split, 0) + 1
            continue
        # Many people's tracks begin anew with each person; a track is unique within its camera.
        track = f"{labels['person']}/{labels['track']}" if "track" in labels else file
        crops.append(Crop(root / file, person + shift, labels.get("camera", ""), track))
    return Dataset(
        f"folder by pattern '{pattern.text}'",
        root,
        {split: splits[split] for split in sorted(splits)},
        junk=junk,
        notes=(*_left_out(files, {file for file, _ in found}), *note),
        unsplit="split" not in fields,
    )


def _number(root: Path, names: dict[str, str]) -> dict[str, int]:
    """The numbers of people by name; `names` has a file of each."""
    if not all(map(is_number, names)):
        return {name: number for number, name in enumerate(sorted(names), 1)}
    numbers = {}
    for name, file in names.items():
        try:
            numbers[name] = person_number(name)
        except ValueError as error:
            raise SanError(
                f"{root / file} is of person {name[:40]}",
                why=str(error),
                do="check the pattern, or rename the files",
            ) from error
    return numbers


def _left_out(files: list[str], fitting: set[str]) -> tuple[str, ...]:
    if len(fitting) == len(files):
        return ()
    first = next(file for file in files if file not in fitting)
    return (f"Images that do not fit the pattern and are left out: {len(files) - len(fitting)} ({first})",)
