"""One job on this machine, ready to run inside a test: tiny BERT, silos with data, certificates and ledgers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from cryptography import x509

from foedus_contract.identities import silo_uri
from foedus_contract.plan import (
    Deadlines,
    LoraPlan,
    ModelPlan,
    OptimizerPlan,
    PrivacyPlan,
    SiloPlan,
    TrainingPlan,
    threshold_for,
)
from foedus_contract.progress import PROGRESS, IdentityReady, RoundFinished, TrainingResult
from foedus_contract.run_spec import ClientRunSpec, CoordinatorRunSpec, ModelSource, SiloPolicy, TlsFiles
from foedus_contract.wire import JobOver
from foedus_ledger.records import BudgetRecord, BudgetSpec
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads.privacy.noise import Sampler
from foedus_workloads.privacy.quantise import Integers
from foedus_workloads.training.base import check_base
from foedus_workloads.training.client import run_client
from foedus_workloads.training.coordinator import run_coordinator
from foedus_workloads.training.data import Record, read_records, write_records
from foedus_workloads.training.spending import Spending
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.server import ServerSettings

from .certificates import Authority
from .tiny_bert import SENTENCES, write_tiny_bert

SILOS = ("silo-a", "silo-b", "silo-c", "silo-d")  # of a world of the usual size
SERVICE = "job-coordinator.ns"
LABELS = ("one", "two")
SIGMA = 5.0
RECORDS = 9  # of a silo unless told: more than one micro-batch
MOST_COORDINATES = 4096  # more than the tiny model trains
# A killed silo is noticed soon, a live one on a loaded machine is not taken for dead.
QUICK = ServerSettings(poll_seconds=2, silence_seconds=5.0)


def no_noise(scale: float, count: int) -> Integers:
    return np.zeros(count, dtype=np.int64)


@dataclass(frozen=True)
class World:
    """Paths and specs; `root` is what FOEDUS_ROOT would be for all processes."""

    root: Path
    plan: TrainingPlan
    authority: Authority
    around: Surroundings

    @property
    def silos(self) -> tuple[str, ...]:
        return tuple(silo.name for silo in self.plan.silos)

    def client_spec(self, silo: str, incarnation: int = 0) -> ClientRunSpec:
        return ClientRunSpec(
            plan=self.plan,
            silo=silo,
            incarnation=incarnation,
            coordinator_service=SERVICE,
            coordinator_port=8443,
            tls=_files(f"tls/{silo}"),
            model=ModelSource(path="/model"),
            data=f"/{silo}/train.jsonl",
            state=f"/{silo}/state",
            ledger=f"/{silo}/ledger.sqlite",
            budget=f"ns/{silo}",
            policy="/policy.json",
            progress=f"/{silo}/progress.jsonl",
        )

    def coordinator_spec(self) -> CoordinatorRunSpec:
        return CoordinatorRunSpec(
            plan=self.plan,
            listen_service=SERVICE,
            listen_port=8443,
            tls=_files("tls/coordinator"),
            model=ModelSource(path="/model"),
            evaluation_data="/public.jsonl",
            output="/output",
            progress="/progress.jsonl",
        )

    def client(self, silo: str, *, sampler: Sampler = no_noise, incarnation: int = 0) -> asyncio.Task[JobOver]:
        return asyncio.create_task(run_client(self.client_spec(silo, incarnation), self.around, sampler))

    def coordinator(self) -> asyncio.Task[TrainingResult]:
        return asyncio.create_task(run_coordinator(self.coordinator_spec(), self.around, QUICK))

    def ledger(self, silo: str) -> SqliteLedger:
        return SqliteLedger(self.root / silo / "ledger.sqlite")

    def reserve(self, silo: str, count: int) -> BudgetRecord:
        mechanism = Spending.of(self.plan, MOST_COORDINATES).mechanism
        return self.ledger(silo).reserve(self.plan.uid, mechanism, count, "test")

    def journal(self, silo: str) -> list[tuple[int, str]]:
        path = next((self.root / silo / "state").glob("journal-*.jsonl"))
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        return [(entry["attempt"], entry["stage"]) for entry in entries]

    def events(self, where: str = "") -> list[object]:
        path = self.root / where / "progress.jsonl"
        return [PROGRESS.validate_json(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def rounds(self) -> list[RoundFinished]:
        return [event for event in self.events() if isinstance(event, RoundFinished)]

    async def publish_policy(self) -> None:
        """Do what the engine does: wait for every silo's identity, then pin them all."""
        pinned: dict[str, bytes] = {}
        while len(pinned) < len(self.silos):
            await asyncio.sleep(0.05)
            for silo in self.silos:
                pinned |= {e.silo: e.public_key for e in self.events(silo) if isinstance(e, IdentityReady)}
        draft = self.root / "policy.draft"
        draft.write_bytes(SiloPolicy(pinned=pinned).to_json())
        draft.rename(self.root / "policy.json")


def build_world(
    root: Path,
    *,
    silos: int = len(SILOS),
    rounds: int = 2,
    spare: int = 1,
    reserved: Mapping[str, int] | None = None,
    records: Mapping[str, int] | None = None,
) -> World:
    write_tiny_bert(root / "model")
    write_records(root / "public.jsonl", [Record(text=f"{text} in public", label=LABELS[0]) for text in SENTENCES])
    names = [f"silo-{letter}" for letter in ascii_lowercase[:silos]]
    holders = tuple(_silo(root / name, index, (records or {}).get(name, RECORDS)) for index, name in enumerate(names))
    plan = TrainingPlan(
        namespace="ns",
        job="job",
        uid="7d0f",
        rounds=rounds,
        spare_attempts=spare,
        seed=3,
        micro_batch=8,
        model=ModelPlan(
            digest=check_base(root / "model").digest,
            labels=LABELS,
            max_tokens=16,
            lora=LoraPlan(rank=1, alpha=1, target_modules=("query", "value"), last_layers=1),
        ),
        optimizer=OptimizerPlan(learning_rate=0.5, head_learning_rate=0.5, momentum=0.9),
        privacy=PrivacyPlan(
            epsilon=3,
            delta=1e-5,
            clip=1.0,
            noise_multiplier=SIGMA,
            grid_per_clip=2**20,
            threshold=threshold_for(silos),
            colluders=1,
            min_honest=threshold_for(silos) - 1,
            epsilon_pld=3,
            epsilon_rdp=3.2,
        ),
        deadlines=Deadlines(join_seconds=60, stage_seconds=60, compute_seconds=60),
        silos=holders,
    )
    authority = Authority.create()
    authority.issue(root / "tls/coordinator", x509.DNSName("job-coordinator"))
    for name in names:
        authority.issue(root / "tls" / name, x509.UniformResourceIdentifier(silo_uri("ns", "job", name)))
    endpoints = root / "endpoints.json"
    endpoints.write_text(json.dumps({f"{SERVICE}:8443": f"127.0.0.1:{_free_port()}"}))
    world = World(root, plan, authority, Surroundings(root=root, endpoints=endpoints, entropy=os.urandom))
    for silo in holders:
        spec = BudgetSpec(
            digest=silo.data_digest, records=silo.records, epsilon=10, delta=1e-5, owner="test", labels=LABELS
        )
        world.ledger(silo.name).create(spec)
        world.reserve(silo.name, (reserved or {}).get(silo.name, plan.attempts))
    return world


def with_deadlines(world: World, **seconds: int) -> World:
    deadlines = Deadlines(**(world.plan.deadlines.model_dump() | seconds))
    return replace(world, plan=TrainingPlan(**(dict(world.plan) | {"deadlines": deadlines})))


def _silo(folder: Path, index: int, count: int) -> SiloPlan:
    """Write a silo's records, which no other silo has: where the sentences come round again, other numbers follow."""
    folder.mkdir()
    first = 1000 * (index // len(SENTENCES))
    records = [
        Record(text=f"{SENTENCES[(index + row) % len(SENTENCES)]} {first + row}", label=LABELS[row % 2])
        for row in range(count)
    ]
    write_records(folder / "train.jsonl", records)
    data = read_records(folder / "train.jsonl")
    return SiloPlan(name=folder.name, data_digest=data.digest, records=data.count)


def _files(folder: str) -> TlsFiles:
    return TlsFiles(certificate=f"/{folder}/tls.crt", key=f"/{folder}/tls.key", ca=f"/{folder}/ca.crt")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
