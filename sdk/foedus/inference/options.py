"""Options that commands of private inference share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from foedus_contract.mpc_wire import MAX_PARTIES, MIN_PARTIES

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_TOKENS = 128

adapter_option = click.option(
    "--adapter", type=click.Path(path_type=Path, file_okay=False), help="Folder of a LoRA adapter."
)
parties_option = click.option(
    "--parties",
    type=click.IntRange(MIN_PARTIES, MAX_PARTIES),
    help="How many parties: 3 for Replicated3PC; 2, if you do not say, to 4 for CrypTen, and a dealer.",
)


def tokens_option(fewest: int) -> Callable[[Command], Command]:
    """Return the option that says how long a text is that nobody has written."""
    return click.option(
        "--tokens",
        type=click.IntRange(min=fewest),
        help=f"Tokens of a text; it is padded as a client pads it.  [default: {DEFAULT_TOKENS}, or the model's most]",
    )


def wanted_tokens(asked: int | None, most: int) -> int:
    """Return the option's number, or without one the default, where a model takes `most`."""
    return min(DEFAULT_TOKENS, most) if asked is None else asked
