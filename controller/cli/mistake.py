"""What a person has to change, in one line."""

from __future__ import annotations

from typing import IO, Any

import click


class Mistake(click.ClickException):
    """Exit status 2 and one line, with the command in front; click's own UsageError shows its usage around it, which
    is right for a wrong option and noise for a wrong file."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # Asked here: by the time click shows an exception it has left the command's context.
        context = click.get_current_context(silent=True)
        self._command = context.command_path if context else "zerogate"

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{self._command}: {self.message}", file=file, err=True)
