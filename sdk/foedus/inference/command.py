"""`foedus infer`: asks a model about texts without any party seeing model or text."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO

import click

from foedus.inference.options import adapter_option, folder_option, parties_option, protocol_option
from foedus.inference.show import Beside, JsonLines, Lines, Show, Write
from foedus.inference.source import find_model, require_torch
from foedus.interrupt import Output, run_until_terminated
from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode


@click.command()
@click.argument("texts", nargs=-1)
@click.option("--local", is_flag=True, help="Run all parties on this machine: a demonstration.")
@click.option("--model", required=True, help="A folder with config.json, or an installed package: PACKAGE[:FOLDER].")
@adapter_option
@protocol_option
@parties_option
@click.option(
    "-f", "--file", "file", type=click.File("rb"), help="One text a line; - reads standard input.", metavar="FILE"
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object a line."
)
@folder_option
def infer(
    texts: tuple[str, ...],
    local: bool,
    model: str,
    adapter: Path | None,
    protocol: str,
    parties: int | None,
    file: BinaryIO | None,
    output: str,
    state: Path,
) -> None:
    """Label TEXTS by a model whose weights, like the texts, no party sees.

    Answers come on standard output, a line a text; progress and what it took on standard error. Whoever lists this
    machine's processes can read TEXTS; a file's texts are not in that list.
    """
    if not local:
        raise click.UsageError("only --local is there yet")
    require_torch()
    asked = (*texts, *(() if file is None else read_texts(file)))
    if not asked and file is not None:
        raise _refused("holds no text", file.name)
    if not asked:
        raise click.UsageError("no text is given; write it behind the options, or name a file with --file")
    checked, folder = check_texts(asked), find_model(model)
    written = Output()
    show = make_show(output, written.write)
    try:
        show.phase("loading libraries")  # torch takes seconds
        from foedus.inference.local import Request, infer_local
        from foedus_workloads.mpc.ring import missing_kernels

        if (missing := missing_kernels()) is not None:
            show.close()
            click.echo(missing, err=True)
        request = Request(checked, folder, adapter, state, protocol, parties)

        async def work() -> None:
            show.summary(await infer_local(request, show, os.environ))

        run_until_terminated(work(), written, lambda: show.phase("interrupted: stopping"))
    finally:
        show.close()


def make_show(output: str, write: Write) -> Show:
    """Return JSON lines on request, else lines, redrawn on a terminal."""
    if output == "json":
        return JsonLines(write, time.monotonic)
    return Lines(write, Beside(stderr=True), time.monotonic)


def read_texts(file: BinaryIO) -> list[str]:
    """Return the lines that are not empty; raises InvalidInput for what is no text, or too much of it."""
    texts = []
    for number, line in enumerate(iter(lambda: file.readline(limits.MAX_TEXT_BYTES + 2), b""), 1):
        where = f"{file.name}:{number}"
        if len(line.rstrip(b"\r\n")) > limits.MAX_TEXT_BYTES:
            raise _refused(f"the line is longer than {limits.MAX_TEXT_BYTES} bytes", where)
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise _refused("the line is not UTF-8", where) from None
        if text:
            texts.append(text)
        if len(texts) > limits.MAX_TEXTS:
            raise _refused(f"more than {limits.MAX_TEXTS} texts", where)
    return texts


def check_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts; raises InvalidInput for an empty one, one that is no UTF-8, and for too many."""
    for number, text in enumerate(texts, 1):
        where = f"text {number}"
        if not text.strip():
            raise _refused("is empty", where)
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            raise _refused("is not UTF-8", where) from None
        if size > limits.MAX_TEXT_BYTES:
            raise _refused(f"is longer than {limits.MAX_TEXT_BYTES} bytes", where)
    if len(texts) > limits.MAX_TEXTS:
        raise _refused(f"more than {limits.MAX_TEXTS}", "texts")
    return texts


def _refused(what: str, where: str) -> InvalidInput:
    return InvalidInput(what, where=where, cure="give UTF-8 texts, one a line", code=ExitCode.INVALID_DATA)
