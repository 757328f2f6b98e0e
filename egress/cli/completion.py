"""`egress completion`: prints the script with which a shell completes egress commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

EXAMPLES = """\b
Examples:
  egress completion bash > /etc/bash_completion.d/egress
  egress completion zsh > /usr/local/share/zsh/site-functions/_egress
  egress completion fish > ~/.config/fish/completions/egress.fish
"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover - click has a class for each shell
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "egress", "_EGRESS_COMPLETE").source())
