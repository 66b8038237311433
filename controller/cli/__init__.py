"""The `zerogate` command.

This package only parses arguments and prints: `up`, `gateway` and `controller` call a composition root each, and
`objects` is a small client for people without kubectl. Whatever goes wrong ends in one line that says what to do and
exit status 2 (what a person typed or has to change) or 1 (what the server refused).

A command's module is imported when that command is called: `zerogate get` doesn't wait for the platform's imports, and
a Ctrl-C while they load is click's to word.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from typing import Any

_COMMANDS = {
    "up": ("controller.cli.planes", "up", "Run the whole platform on this machine, until Ctrl-C."),
    "gateway": ("gateway.__main__", "main", "Carry requests to the services that a controller's feed names."),
    "controller": ("controller.cli.planes", "controller", "Run the control plane against a Kubernetes cluster."),
    "apply": ("controller.cli.objects", "apply", "Create or change the objects of a file."),
    "get": ("controller.cli.objects", "get", "Print objects: ksvc, route, cfg, rev, kpa, pod, …"),
    "logs": ("controller.cli.objects", "logs", "Print what the pods of a Service wrote."),
    "explain": ("controller.cli.explain", "explain", "Tell why a revision has as many replicas as it has."),
    "simulate": ("controller.cli.simulate", "simulate", "Try autoscaling settings on a load, in virtual time."),
    "delete": ("controller.cli.objects", "delete", "Delete objects and all that they own."),
}
"""Name: module, attribute, and the line in the list of commands."""


class _LazyGroup(click.Group):
    """Knows its commands' names, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        _, command, rest = super().resolve_command(ctx, args)
        return args[0], command, rest  # by the name that was typed: the gateway's own is `main`


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="zerogate", prog_name="zerogate")
def main() -> None:
    """Run services that scale with their traffic, to zero and back.

    Services are written as Knative YAML (serving.knative.dev/v1). On one machine, `zerogate up` is all it takes:

    \b
      zerogate up -f hello.yaml
      curl http://hello.default.localhost:8080
    """


__all__ = ["main"]
