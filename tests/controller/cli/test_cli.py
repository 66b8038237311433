"""The command's face: its list, its help, and what it says of words it doesn't know."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from controller.cli import main

COMMANDS = ["up", "gateway", "controller", "apply", "get", "logs", "explain", "simulate", "delete"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, prog_name="zerogate")
    return result.exit_code, result.output


def test_help_lists_the_commands_in_order_of_use() -> None:
    """Each with one line, and the way to begin above them."""
    status, text = run("--help")
    assert status == 0
    listed = [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()]
    assert listed == COMMANDS
    assert "zerogate up -f hello.yaml" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    """Under the name that was typed, though the module behind it may call it otherwise."""
    status, text = run(command, "--help")
    assert status == 0
    assert text.startswith(f"Usage: zerogate {command} ")
    assert "Options:" in text


def test_unknown_commands_are_refused() -> None:
    """Status 2, and the word is repeated."""
    status, text = run("serve")
    assert status == 2
    assert "No such command 'serve'" in text


def test_version() -> None:
    """For bug reports."""
    status, text = run("--version")
    assert (status, text.split()[0]) == (0, "zerogate,")
