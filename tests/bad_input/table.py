"""All cases of bad input, and the page that shows them: `python -m bad_input.table` writes it."""

from __future__ import annotations

from pathlib import Path

from bad_input import (
    broadcasts,
    commands,
    folders,
    inference,
    jobs,
    manifests,
    models,
    peers,
    pods,
    requests,
    runs,
    volumes,
)
from bad_input.cases import Case, Section

PAGE = Path(__file__).parents[2] / "docs/bad-input.md"
HEAD = """# Bad input

What can be wrong, what Foedus says to it, and what it costs. Each row is a case that the tests bring about: they run
the command line, the processes of a job, or a connection over TLS, and compare what comes out with this page, which is
made from the same cases. `…` stands for what differs from one run or machine to the next.

No row's output holds a traceback, a key or a word of a record. No row is charged for more than its last column says,
and whatever a refused or failed job had reserved is given back. The codes are explained in
[Getting started](getting-started.md).
"""
SECTIONS = (
    Section("A manifest", "`foedus run` with a manifest that is wrong.", manifests.MANIFEST),
    Section("A base model", "`foedus run` with a base model that does not fit or is broken.", models.MODEL),
    Section("Budgets and ledgers", "`foedus run`, `foedus budget` and `foedus delete`.", commands.BUDGETS),
    Section("Folders", "`foedus run`, `foedus budget create` and `foedus data split`.", folders.FOLDERS),
    Section("Records", "`foedus budget create`, by a data's holder; the last row `foedus run`.", commands.DATA),
    Section("A private inference", "`foedus infer --local`, before any party has begun.", inference.INFERENCE),
    Section("What is mounted", "A process of a job, started as a pod is.", pods.MOUNTS),
    Section("Volumes of a process", "The same, with a ledger, a journal or a disk out of order.", volumes.VOLUMES),
    Section("The other side is not there, or another", "The same, before a silo has joined.", peers.PEER),
    Section(
        "A coordinator that says what is wrong",
        "A silo's process, joined to a coordinator with the job's own certificate. The line is in the silo's log.",
        broadcasts.BROADCASTS,
    ),
    Section("A coordinator that answers what is wrong", "The same, below the protocol.", broadcasts.ANSWERS),
    Section(
        "Who may join", "A coordinator's server, and a peer that it must not take for a silo.", requests.HANDSHAKES
    ),
    Section("How to join", "The same, with a certificate of the job's authority.", requests.JOINS),
    Section(
        "A silo that sends what is wrong",
        "A coordinator's server, and a silo that has joined. The line is the answer. None of it reaches the round.",
        requests.BODIES,
    ),
    Section(
        "A silo of a job that goes wrong",
        "Whole jobs of four silos, of which silo-d is out of order. The line is the round's, where it is not silo-d's.",
        jobs.PEERS,
    ),
    Section("Volumes of a job that goes on", "The same, with ledgers, journals and disks.", jobs.VOLUMES),
    Section("Clocks and sizes", "The same.", (*jobs.CLOCKS, *jobs.DATA)),
    Section("Whole runs", "`foedus run` with its own engine, to the end.", runs.RUNS),
)
CASES = {f"{section.title}: {case.wrong}": case for section in SECTIONS for case in section.cases}


def page() -> str:
    """Return the page."""
    return HEAD + "".join(map(section_text, SECTIONS))


def section_text(section: Section) -> str:
    rows = "".join(map(row, section.cases))
    head = "| what is wrong | the line | how it ends | what is charged |\n|---|---|---|---|\n"
    return f"\n## {section.title}\n\n{section.intro}\n\n{head}{rows}"


def row(case: Case) -> str:
    line = f"`` {case.line} ``".replace("|", "\\|") if case.line else "none: the connection is closed"
    return f"| {case.wrong} | {line} | {case.end} | {case.charged} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
