"""Four silos with a tiny base model, as `foedus run` finds them: volumes, budgets and a manifest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foedus_engine.cluster.embedded_ledgers import ledger_path
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.records import BudgetSpec
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads.training.data import Record, read_records, write_records

SILOS = ("silo-1", "silo-2", "silo-3", "silo-4")
LABELS = ("one", "two")
RECORDS = 60  # a silo; 240 in all keep the noise small enough at ε = 1 for this model


@dataclass(frozen=True)
class SmallJob:
    """One machine before `foedus run`."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    def ledger(self, silo: str = SILOS[0]) -> SqliteLedger:
        return SqliteLedger(ledger_path(self.state, BudgetKey("default", silo)))

    def states(self) -> set[str]:
        """Return the states of all accounts in all budgets."""
        return {item.state for silo in SILOS for item in self.ledger(silo).read().accounts.values()}

    def charged(self) -> int:
        return sum(item.charged for silo in SILOS for item in self.ledger(silo).read().accounts.values())

    def manifest(self, name: str = "job", rounds: int = 2, spare: int = 1, **fields: Any) -> dict[str, Any]:
        clients = [
            {
                "name": silo,
                "budgetRef": {"name": silo},
                "data": {"persistentVolumeClaim": {"claimName": silo, "path": "train.jsonl"}},
            }
            for silo in SILOS
        ]
        spec = {
            "model": {
                "source": {"persistentVolumeClaim": {"claimName": "base", "path": "model"}},
                "labels": ["one", "two"],
                "maxTokens": 16,
            },
            "training": {"rounds": rounds, "spareAttempts": spare},
            "privacy": {"epsilon": 1, "delta": 0.0001},
            "aggregation": {"colluders": 1},
            "clients": clients,
        }
        head = {"apiVersion": "foedus.dev/v1alpha1", "kind": "FederatedTrainingJob", "metadata": {"name": name}}
        return head | {"spec": spec | fields}

    def run(self, *, out: str = "out", **changes: Any) -> list[str]:
        """Return the command line of a run."""
        manifest = self.manifest(**changes)
        file = self.root / f"{manifest['metadata']['name']}.yaml"
        file.write_text(yaml.safe_dump(manifest), "utf-8")
        folders = ["--state", self.state, "--volumes", self.root / "volumes", "--out", self.root / out]
        return ["run", "-f", str(file), *map(str, folders)]

    def start(
        self, arguments: list[str], *, stdout: int = subprocess.DEVNULL, stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start the command in a process of its own."""
        path = ":".join(entry for entry in sys.path if entry)
        program = "from foedus.main import main; main()"
        command = [sys.executable, "-c", program, *arguments]
        environ = {**os.environ, "PYTHONPATH": path}
        return subprocess.Popen(command, env=environ, stdout=stdout, stderr=stderr)


def build_small_job(root: Path) -> SmallJob:
    """Write data, base model and budgets below `root`."""
    from .tiny_bert import write_tiny_bert  # it loads a training framework

    world = SmallJob(root)
    write_tiny_bert(root / "volumes/base/model")
    world.state.mkdir(mode=0o700)
    for silo in SILOS:
        file = root / "volumes" / silo / "train.jsonl"
        file.parent.mkdir()
        write_records(file, [Record(f"{silo} case {n}", LABELS[n % 2]) for n in range(RECORDS)])
        data = read_records(file)
        world.ledger(silo).create(
            BudgetSpec(digest=data.digest, records=data.count, epsilon=1, delta=1e-4, labels=LABELS)
        )
    return world
