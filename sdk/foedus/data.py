"""`foedus data`: example data, split the way data holders would hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from foedus.corpus import CORPORA, read_corpus, split_texts
from foedus_contract import limits
from foedus_contract.durable import unwritable
from foedus_contract.errors import InvalidInput
from foedus_workloads.training.data import Record, write_records


@click.group()
def data() -> None:
    """Prepare example data."""


@data.command()
@click.argument("corpus", type=click.Choice(sorted(CORPORA)))
@click.option(
    "--silos", type=click.IntRange(1, limits.MAX_SILOS), default=10, show_default=True, help="How many silos."
)
@click.option(
    "--each", type=click.IntRange(1, limits.MAX_RECORDS), help="Texts of each silo; without it all that are there."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=7, show_default=True, help="Fixes the split.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write into.")
def split(corpus: str, silos: int, each: int | None, seed: int, out: Path) -> None:
    """Split CORPUS over silos: OUT/silo-01/train.jsonl … and OUT/public/eval.jsonl.

    Duplicates are removed; one text in five of each label is held out as public evaluation data. With
    --each, all texts that no silo gets are.
    """
    parts = split_texts(read_corpus(corpus), silos, seed, each)
    files = {out / f"silo-{number:02d}" / "train.jsonl": hand for number, hand in enumerate(parts.silos, start=1)}
    files[out / "public" / "eval.jsonl"] = parts.held_out
    write_files(files)
    sizes = [len(hand) for hand in parts.silos]
    click.echo(
        f"{corpus}: {silos} silos of {min(sizes)} to {max(sizes)} texts, {len(parts.held_out)} held out, in {out}"
    )


def write_files(files: Mapping[Path, Sequence[Record]]) -> None:
    """Write new files of records; raises InvalidInput when one of them is there, Unavailable."""
    for file in files:
        if file.exists():
            cure = "choose another folder, or remove this one: a budget may already name its data"
            raise InvalidInput("is already there", where=str(file), cure=cure)
    for file, texts in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_records(file, texts)
        except OSError as error:
            raise unwritable(file, error) from None
