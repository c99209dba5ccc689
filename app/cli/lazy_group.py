"""A group of commands whose modules are imported when a command is needed, so that the others start faster."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click
from flask.cli import AppGroup


class LazyGroup(AppGroup):
    """A group with commands of its own and those of `lazy_commands`: name → `module:attribute`."""

    def __init__(self, name: str, *, lazy_commands: Mapping[str, str], help: str | None = None) -> None:
        super().__init__(name, help=help)
        self._lazy_commands = lazy_commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands; imports none of them."""
        return sorted({*super().list_commands(ctx), *self._lazy_commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called `cmd_name`, imported now if need be; None when there is none."""
        if cmd_name not in self._lazy_commands:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy_commands[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command
