"""All commands of the command line."""

from __future__ import annotations

import sys

import click

from app.cli.lazy_group import LazyCommand

# The program, in a folder of ours or with PYTHONPATH.
SIGNALBOX = (sys.executable, "-m", "app.cli")


def commands_by_name(group: click.Group, *before: str) -> dict[str, click.Command]:
    """Each command below `group` under its words, such as `key list`."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, LazyCommand):
            command = command.load()
        if isinstance(command, click.Group):
            found |= commands_by_name(command, *before, name)
        else:
            found[" ".join((*before, name))] = command
    return found


def every_command(group: click.Group) -> list[tuple[str, ...]]:
    """The words of each command below `group`, such as `("key", "list")`."""
    return [tuple(name.split()) for name in commands_by_name(group)]
