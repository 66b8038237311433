"""The `zerogate` command.

This package only parses arguments and prints: `up`, `gateway` and `controller` call a composition root each, and
`objects` is a small client for people without kubectl. Whatever goes wrong ends in one line that says what to do and
exit status 2 (what a person typed or has to change) or 1 (what the server refused).
"""

from __future__ import annotations

import click

from controller.cli.objects import apply, delete, get, logs
from controller.cli.planes import controller, gateway, up


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="zerogate", prog_name="zerogate")
def main() -> None:
    """Run services that scale with their traffic, to zero and back.

    Services are written as Knative YAML (serving.knative.dev/v1). On one machine, `zerogate up` is all it takes:

    \b
      zerogate up -f hello.yaml
      curl http://hello.default.localhost:8080
    """


for name, command in {
    "up": up,
    "gateway": gateway,
    "controller": controller,
    "apply": apply,
    "get": get,
    "logs": logs,
    "delete": delete,
}.items():
    main.add_command(command, name)

__all__ = ["main"]
