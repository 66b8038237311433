"""The gateway's options for limits, as `python -m gateway`, `zerogate gateway` and `zerogate up` take them.

One option for each field of `Limits`, named after it; the defaults are that class's.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gateway.config import ConfigError, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["GroupedCommand", "limit_arguments", "limit_options"]


class _Words(NamedTuple):
    metavar: str
    help: str


_WORDS = {
    "max_request_line": _Words("BYTES", "Longest request line (else 414)."),
    "max_field_section": _Words("BYTES", "Most bytes of a request's header fields (431)."),
    "max_fields": _Words("N", "Most header fields of a request (431)."),
    "head_timeout": _Words("SECONDS", "From the first byte of a request's head to its last (408)."),
    "keep_alive_timeout": _Words("SECONDS", "A connection without a request is closed then."),
    "max_body": _Words("BYTES", "Most content of a request (413); 0: any."),
    "min_body_rate": _Words(
        "BYTES", "Least content of a request per second that we wait for it (408), except gRPC; 0: any."
    ),
    "body_rate_window": _Words("SECONDS", "Over which that rate is averaged."),
    "max_connections": _Words("N", "Client connections of one worker (503)."),
    "max_connections_per_client": _Words("N", "Of those, from one IPv4 address or IPv6 /64 network (429); 0: any."),
    "max_requests_per_connection": _Words("N", "The last one's response closes the connection; 0: any."),
    "queue_limit": _Words("N", "Requests of one worker that may wait for one revision (503)."),
    "worker_queue_limit": _Words("N", "Requests of one worker that may wait for any revision (503)."),
    "queue_bytes": _Words("BYTES", "Heads and contents of those that wait for one revision (503)."),
    "worker_queue_bytes": _Words("BYTES", "Heads and contents of those that wait for any revision (503)."),
    "queue_timeout": _Words("SECONDS", "How long a request may wait (504); without it, the revision's timeoutSeconds."),
}


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a click command: it gets one keyword argument for each field of Limits."""
    for one in reversed(fields(Limits)):
        metavar, text = _WORDS[one.name]
        option = click.option(_name(one.name), type=_kind(one.name), default=one.default, metavar=metavar, help=text)
        command = option(command)
    return command


def _name(field: str) -> str:
    return "--" + field.replace("_", "-")


def _kind(field: str) -> type[int] | type[float]:
    return float if _WORDS[field].metavar == "SECONDS" else int


class GroupedCommand(click.Command):
    """Shows the options for limits in a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        general: list[tuple[str, str]] = []
        limits: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (limits if parameter.name in _WORDS else general).append(record)
        for title, records in (("Options", general), ("Limits on what a client may cost", limits)):
            with formatter.section(title):
                formatter.write_dl(records)


def limit_arguments(pairs: Iterable[str]) -> list[str]:
    """`NAME=VALUE` texts as arguments of a gateway's command line. Raises ConfigError for another option's name, and
    for a value that can't work."""
    arguments: list[str] = []
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        field = name.replace("-", "_")
        if not equals or field not in _WORDS:
            known = ", ".join(one.replace("_", "-") for one in _WORDS)
            raise ConfigError(f"{pair!r} is no limit of the gateway; it should be NAME=VALUE with one of {known}.")
        try:
            values[field] = _kind(field)(value)
        except ValueError:
            raise ConfigError(f"{value!r} is no value for {name}; it should be a number.") from None
        arguments.append(f"{_name(field)}={value}")
    Limits(**values)
    return arguments
