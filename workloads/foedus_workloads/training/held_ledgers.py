"""Where a silo's ledger is held: in a file beside its log, or by the ledger service of its cluster."""

from __future__ import annotations

import asyncio
from typing import Protocol

from foedus_contract.run_spec import ClientRunSpec, CoordinatorRunSpec
from foedus_ledger.records import BudgetRecord
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.ledger_client import LedgerClient


class HeldLedger(Protocol):
    """A ledger as far as its silo may use it: it reads and charges; the engine reserves and closes."""

    @property
    def where(self) -> str:
        """Return the place, for people."""
        ...

    def read(self) -> BudgetRecord:
        """Return the record as last committed."""
        ...

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> BudgetRecord:
        """Charge one release; returns only once that is durable. After any error the attempt counts as charged."""
        ...


class ServiceLedger:
    """The ledger that the service holds; called from threads, each call a loop of its own."""

    def __init__(self, client: LedgerClient) -> None:
        self._client = client
        self.where = client.where

    def read(self) -> BudgetRecord:
        """Return the record as last committed."""
        return asyncio.run(self._client.read())

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> BudgetRecord:
        """Charge one release of the pod's own job, which the service knows; SiloLedger sees that `job_uid` was it."""
        if noise_multiplier is None:
            raise ValueError("the service is told what is drawn with")
        return asyncio.run(self._client.charge(attempt, noise_multiplier))


def held_ledger(spec: ClientRunSpec, around: Surroundings) -> HeldLedger:
    """Return the silo's ledger where the run spec says that it is held."""
    client = _client(spec, around)
    return SqliteLedger(around.path(spec.ledger)) if client is None else ServiceLedger(client)


async def claim_incarnation(
    spec: CoordinatorRunSpec | ClientRunSpec, around: Surroundings
) -> CoordinatorRunSpec | ClientRunSpec:
    """Return the spec with the incarnation that the cluster's service gives this pod; without one it stays.

    Raises Refused when the pod may not run, Unavailable when the service cannot be reached.
    """
    client = _client(spec, around)
    if client is None:
        return spec
    return spec.model_copy(update={"incarnation": await client.claim()})


def _client(spec: CoordinatorRunSpec | ClientRunSpec, around: Surroundings) -> LedgerClient | None:
    service = spec.ledger_service
    return None if service is None else LedgerClient(service, around.path(service.token))
