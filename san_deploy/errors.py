"""Errors that a user can do something about. `san_deploy.cli` gives them exit codes; bugs keep their traceback."""

from __future__ import annotations


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
        parts = [self.message.rstrip(".")]
        if self.why:
            parts.append(self.why.rstrip("."))
        if self.do:
            parts.append(self.do.rstrip("."))
        return (
            ". ".join(part[:1].upper() + part[1:] if index else part for index, part in enumerate(parts))
            + "."
        )


class UsageError(SanError):
    """Options that do not fit together. Exit code 2."""

    exit_code = 2


class GateError(SanError):
    """A check ran to its end and failed: parity or accuracy is below what was asked. Exit code 3."""

    exit_code = 3
