"""Options that several commands share."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_STATE = Path(".foedus")
DEFAULT_NAMESPACE = "default"
PLUGIN_NAME = "kubectl foedus"  # how the program calls itself as a plug-in of kubectl


def state_option_for(use: str) -> Callable[[Command], Command]:
    """Return the option that names the state folder; `use` says what a command has it for."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_STATE,
        envvar="FOEDUS_STATE",
        show_default=True,
        show_envvar=True,
        help=use,
    )


state_option = state_option_for("Folder that keeps objects, ledgers and keys between runs.")
namespace_option = click.option(
    "-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Namespace of the objects."
)


def command(words: str, state: Path, namespace: str = DEFAULT_NAMESPACE) -> str:
    """Return the command line for a cure: `foedus` and `words`, with the options that are not the default."""
    parts = [f"foedus {words}"]
    if state != DEFAULT_STATE:
        parts.append(f"--state {shlex.quote(str(state))}")
    if namespace != DEFAULT_NAMESPACE:
        parts.append(f"--namespace {namespace}")
    return " ".join(parts)
