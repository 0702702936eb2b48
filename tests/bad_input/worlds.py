"""One machine before `foedus run`, copied for each case, and what a command on it came to."""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bad_input.cases import Seen, charges, exits
from bad_input.processes import Ended, Sabotage, foedus
from foedus_contract.errors import FoedusError
from foedus_workloads.training.data import Record, write_records
from support.small_job import SILOS, SmallJob, build_small_job

ROUNDS = 3
Arguments = list[str]


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="foedus-bad-input-"))
    build_small_job(folder)
    return folder


@dataclass(frozen=True)
class Machine:
    """Volumes with data and base model, budgets, and a manifest that a case may spoil."""

    small: SmallJob
    job: dict[str, Any]
    held: ExitStack  # what others hold while the command runs

    @property
    def root(self) -> Path:
        return self.small.root

    @property
    def spec(self) -> dict[str, Any]:
        return self.job["spec"]

    @property
    def model(self) -> Path:
        return self.root / "volumes/base/model"

    def data(self, silo: str = SILOS[0]) -> Path:
        return self.root / "volumes" / silo / "train.jsonl"

    def ledger_file(self, silo: str = SILOS[0]) -> Path:
        return self.small.ledger(silo).path

    def manifest(self, text: str | None = None) -> Path:
        file = self.root / "job.yaml"
        file.write_text(yaml.safe_dump(self.job, sort_keys=False) if text is None else text, "utf-8")
        return file

    def rewrite(self, old: str, new: str) -> None:
        """Write the manifest with one piece of text replaced, as a user would edit it."""
        text = self.manifest().read_text("utf-8")
        assert text.count(old) == 1, (old, text)
        self.manifest(text.replace(old, new))

    def run(self, *more: str) -> Arguments:
        """Return the command line of a run of the manifest."""
        if not (self.root / "job.yaml").exists():
            self.manifest()
        folders = ["--state", self.small.state, "--volumes", self.root / "volumes", "--out", self.root / "out"]
        return ["run", "-f", str(self.root / "job.yaml"), *map(str, folders), *more]

    def create_budget(self, *more: str) -> Arguments:
        state = str(self.root / "fresh")
        return ["budget", "create", "--data", str(self.data()), "--epsilon", "1", "--state", state, *more]

    def counts(self) -> dict[str, int]:
        """Return the attempts charged in each ledger that can be read."""
        counts = {}
        for silo in SILOS:
            with suppress(FoedusError):
                accounts = self.small.ledger(silo).read().accounts
                counts[silo] = sum(account.charged for account in accounts.values())
        return counts

    def open_accounts(self) -> list[str]:
        """Return whose accounts are still open."""
        found = []
        for silo in SILOS:
            with suppress(FoedusError):
                accounts = self.small.ledger(silo).read().accounts.values()
                found += [account.claimant for account in accounts if account.state == "Open"]
        return found


def build_machine(root: Path) -> Machine:
    """Return a fresh machine below `root`."""
    shutil.copytree(_template(), root, dirs_exist_ok=True)
    small = SmallJob(root)
    job = small.manifest(rounds=ROUNDS)
    job["spec"]["lora"] = {"rank": 1, "alpha": 1, "targetModules": ["query", "value"]}
    job["spec"]["aggregation"]["joinTimeout"] = "2m"
    return Machine(small, job, ExitStack())


def rewrite_data(machine: Machine, silo: str, count: int) -> None:
    """Put `count` records into a silo's file."""
    write_records(machine.data(silo), [Record(f"{silo} case {n}", ("one", "two")[n % 2]) for n in range(count)])


def command_case(spoil: Callable[[Machine], Arguments], sabotage: Sabotage | None = None) -> Callable[[Path], Seen]:
    """Return the act of one command on a spoilt machine. No account of the job may stay open."""

    def act(root: Path) -> Seen:
        machine = build_machine(root)
        arguments = spoil(machine)
        with machine.held:
            ended = foedus(arguments, sabotage).wait()
        assert set(machine.open_accounts()) <= {"default/another"}
        return seen(machine, ended)

    return act


def seen(machine: Machine, ended: Ended) -> Seen:
    """Return what a command on the machine came to."""
    lines = tuple(ended.err.splitlines())
    written = (ended.out, ended.err, *texts(machine.root))
    return Seen(lines, exits(ended.code), charges(machine.counts()), "\n".join(written))


def texts(root: Path) -> Iterable[str]:
    """Yield what processes wrote below `root` for people and for the engine."""
    for pattern in ("progress*.jsonl", "*.log", "termination-log"):
        for file in root.rglob(pattern):
            if file.is_file():
                yield file.read_text("utf-8", "replace")


def secrets(root: Path) -> Iterable[str]:
    """Yield what must never be written: keys, in the forms in which they could be."""
    for file in root.rglob("tls.key"):
        yield from file.read_text("utf-8").splitlines()[1:-1]
    for file in root.rglob("identity.key"):
        yield file.read_bytes().hex()


# Of records nothing is ever said, not even to their holder's log; a defect's traceback would tell more than its place.
FORBIDDEN = re.compile(r"silo-\w case \d|BEGIN |PRIVATE KEY|Traceback")
