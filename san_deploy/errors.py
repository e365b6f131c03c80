"""Errors that a user can do something about. `san_deploy.cli` gives them exit codes; bugs keep their traceback."""

from __future__ import annotations

#: First words of commands, which are typed as they stand.
_COMMANDS = frozenset({"san", "pip", "python", "sudo"})


class SanError(Exception):
    """Something a user can mend: bad input, a missing extra, a full disk. Exit code 1.

    Args:
        message: what happened, and to which file.
        why: the reason, where it is not plain from the message.
        do: what to do about it, preferably a command.
    """

    exit_code = 1

    def __init__(self, message: str, *, why: str = "", do: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.do = do

    def __str__(self) -> str:
        # One line: it must survive a log file, a CI annotation and a grep.
        sentences = [self.message, *(_sentence(part) for part in (self.why, self.do) if part)]
        return " ".join(f"{sentence.rstrip('.')}." for sentence in sentences)


def _sentence(text: str) -> str:
    """A capital letter in front, unless the first word is a command, an option or a file name."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    return text[:1].upper() + text[1:] if first.rstrip(",:").isalpha() and first not in _COMMANDS else text


class UsageError(SanError):
    """Options that do not fit together. Exit code 2."""

    exit_code = 2


class GateError(SanError):
    """A check ran to its end and failed: parity or accuracy is below what was asked. Exit code 3."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line of what a library says, at most 200 characters; the name of its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line instead: OpenVINO says what was wrong after where in its sources that was found."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:200] if lines else type(error).__name__
