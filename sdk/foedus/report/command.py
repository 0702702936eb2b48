"""`foedus report`: makes the report in a result folder again, from that folder alone."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.report.record import read_record
from foedus.report.write import write_page


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def report(folder: Path) -> None:
    """Make the report of a run again, as report.html in FOLDER, the folder that `foedus run` left its result in.

    It is made from report.json and the model card there, and opens in any browser without a network.
    """
    click.echo(write_page(read_record(folder), folder))
