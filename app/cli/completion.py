"""`signalbox completion`: prints the script with which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from app.cli.commands import COMPLETE_VARIABLE
from app.cli.program import NAME


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  eval "$(signalbox completion bash)"          in ~/.bashrc
    zsh:   eval "$(signalbox completion zsh)"           in ~/.zshrc
    fish:  signalbox completion fish | source           in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, NAME, COMPLETE_VARIABLE).source())
