"""Options that commands of private inference share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from foedus.inference.answer import PROTOCOLS
from foedus.options import Command, state_option_for
from foedus_contract.mpc_wire import MAX_PARTIES, MIN_PARTIES

DEFAULT_TOKENS = 128

adapter_option = click.option(
    "--adapter",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of a LoRA adapter, such as `foedus run` leaves: with it, MODEL needs no head of its own.",
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default=PROTOCOLS[0],
    show_default=True,
    help="Replicated3PC: three parties that follow it. Replicated3PCMalicious: one may deviate (not "
    "externally reviewed); costs several times as much. CrypTen: two to four parties and a dealer, all follow it.",
)
parties_option = click.option(
    "--parties",
    type=click.IntRange(MIN_PARTIES, MAX_PARTIES),
    help="How many parties: 2 to 4 for CrypTen, 2 if you do not say; 3, and no other number, for the other two.",
)
folder_option = state_option_for("Folder below which the parties' files lie while they run.")


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
