"""A group of commands whose modules are imported when a command runs: help and completion import none of them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group with commands of its own and those of `lazy_commands`: name → (`module:attribute`, one line of help)."""

    def __init__(
        self, name: str, *, lazy_commands: Mapping[str, tuple[str, str]], help: str | None = None, **options: Any
    ) -> None:
        lazy: MutableMapping[str, click.Command] = {
            command: LazyCommand(command, source, text) for command, (source, text) in lazy_commands.items()
        }
        super().__init__(name, commands=lazy, help=help, **options)


class LazyCommand(click.Command):
    """Stands for the command or group at `source` (`module:attribute`) until it runs."""

    def __init__(self, name: str, source: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self._source = source

    def load(self) -> click.Command:
        """The command itself, imported now."""
        module, _, attribute = self._source.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        return self.load().make_context(*args, **options)
