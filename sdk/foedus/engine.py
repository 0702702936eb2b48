"""The embedded engine put together: cluster, ledgers, accountants, certificates and the loop that drives them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from foedus.base_model import claim_folders, read_model
from foedus.report.gather import Source
from foedus_contract.errors import FoedusError
from foedus_engine.accounting import Accounting
from foedus_engine.cluster.embedded import EmbeddedCluster, utc_now
from foedus_engine.cluster.embedded_ledgers import EmbeddedLedgers
from foedus_engine.cluster.execute import is_transient
from foedus_engine.cluster.fields import ISOLATION
from foedus_engine.cluster.protocol import find
from foedus_engine.decide.observed import Progress
from foedus_engine.decide.plan import ObjectKey
from foedus_engine.pki import content_factory
from foedus_engine.reconcile import Reconciler
from foedus_engine.training import training_kinds


@dataclass(frozen=True)
class Engine:
    """A running embedded engine."""

    cluster: EmbeddedCluster
    ledgers: EmbeddedLedgers
    reconciler: Reconciler
    faults: Sequence[FoedusError]  # what ended a pass for good; it grows while the loop runs
    state: Path


@asynccontextmanager
async def open_engine(
    state: Path, volumes: Path | None, namespace: str, environ: Mapping[str, str]
) -> AsyncIterator[Engine]:
    """Take the state folder and yield the engine on it; at the end every process is stopped.

    No process runs before `cluster.release()`: what an earlier run left there may have to go first.
    """
    async with EmbeddedCluster(state, volumes, environ=environ, hold=True) as cluster:
        ledgers = EmbeddedLedgers(state)
        folders = claim_folders(cluster, namespace)
        accounting = Accounting(lambda source: read_model(source, folders))
        factory = content_factory(utc_now, os.urandom)
        kinds = training_kinds(cluster, ledgers, accounting, clock=utc_now)
        faults: list[FoedusError] = []

        def report(_key: ObjectKey, error: FoedusError) -> None:
            if not is_transient(error):
                faults.append(error)

        loop = Reconciler(cluster, ledgers, factory, kinds, clock=time.monotonic, report=report)
        yield Engine(cluster, ledgers, loop, faults, state)


def report_source(engine: Engine) -> Source:
    """Return where the report of a run on this engine comes from."""
    cluster = engine.cluster

    async def progress(namespace: str, job: str) -> tuple[Progress, ...]:
        """Return all events of a Job's pods; each look reads one block more."""
        events = await cluster.pod_progress(namespace, job)
        while len(more := await cluster.pod_progress(namespace, job)) > len(events):
            events = more
        return more

    return Source(lambda key: find(cluster, key), progress, engine.ledgers.read, (ISOLATION,))
