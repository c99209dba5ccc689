"""All commands of the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from app.cli.lazy_group import LazyCommand

# The program, in a folder of ours or with PYTHONPATH.
SIGNALBOX = (sys.executable, "-m", "app.cli")


def every_command(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """The words of each command below `group`, such as `("key", "list")`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, LazyCommand):
            command = command.load()
        if isinstance(command, click.Group):
            yield from every_command(command, *before, name)
        else:
            yield (*before, name)
