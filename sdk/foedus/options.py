"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".foedus"),
    envvar="FOEDUS_STATE",
    show_default=True,
    show_envvar=True,
    help="Folder that keeps objects, ledgers and keys between runs.",
)
namespace_option = click.option(
    "-n", "--namespace", default="default", show_default=True, help="Namespace of the objects."
)
