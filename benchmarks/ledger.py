"""The ledgers of a cluster under kills: many writers on few, nearly full budgets, and what their history says.

1. Eight writers (`ledger_writer`) reserve, charge and close on four budgets of a real API server, under the admission
   policies, until OPS operations are done. Writers are killed at named points, API server and etcd under a write, and
   answers are lost after their write was committed. Half-way etcd is saved.
2. The history is checked against a ledger that is changed step by step (`ledger_history`): nothing double, nothing
   lost, nothing refunded, the limit held.
3. The silos' logs are brought up to the ledgers, etcd is restored from what was saved, and every ledger must be seen
   as an old copy, by its silo and by the head; charges that are taken over from the logs bring all of it back.
4. A build whose writes bear no resourceVersion runs for a moment: the checker must flag it.

OPS=1000000 is the nightly size, OPS=2000 one for every change. There is a kill for every thousand operations, at least
ten: of the API server every tenth, of a writer the others.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.cluster.progress import Progress

from benchmarks.api_cluster import LEDGER, OPERATOR, administrators, apply, apply_policies, control_plane, namespace
from benchmarks.harness import Benchmark, Outcome
from benchmarks.ledger_history import Entry, Final, violations
from benchmarks.ledger_restore import restore
from benchmarks.ledger_session import LIMIT, NAMESPACE, WRITERS, Session, final_of, make_budgets, read_records
from benchmarks.ledger_writer import ASK_KILL, POINTS

OPERATIONS = int(os.environ.get("OPS", "100000"))
KILLS = max(10, OPERATIONS // 1000)
# A start takes an API server seconds of a processor and all writers wait for it; a writer is back at once.
SERVER_KILLS = max(2, KILLS // 10)
WRITER_KILLS = (KILLS - SERVER_KILLS) * 5 // 4 + 1  # some lives end before their kill
# Nobody reads an audit log here; with each written ledger in it twice, it would be most of what is written.
NO_AUDIT = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "None"}]}
BUDGETS = 4
GREED = 8  # so that two reservations at once are mostly too much; the CRD's own rules refuse most other lost updates
UNGUARDED = 240  # operations of the build without resourceVersion


def measure(folder: Path) -> Outcome:
    """Run all four parts; the value is the number of violations."""
    progress = Progress()
    each = max(10, OPERATIONS // WRITERS)
    with control_plane(folder, progress, NO_AUDIT) as cluster:
        apply(cluster, namespace(NAMESPACE, {"foedus.dev/budgets": "kept"}), administrators(OPERATOR, LEDGER))
        apply_policies(cluster)
        session = Session(
            cluster,
            folder,
            tuple(f"budget-{number}" for number in range(BUDGETS)),
            each,
            WRITER_KILLS,
            SERVER_KILLS,
            snapshot=folder.absolute() / "half.db",
        )
        asyncio.run(make_budgets(session))
        with progress.step(f"{each * WRITERS} operations", lambda: f"{dict(session.done)}"):
            asyncio.run(session.run())
        entries = session.entries()
        finals = {name: final_of(record) for name, record in asyncio.run(read_records(session)).items()}
        found = violations(entries, finals, LIMIT)
        with progress.step("an old copy of etcd restored"):
            restored = restore(session)
        with progress.step("a build without resourceVersion"):
            flagged = run_unguarded(cluster, folder)
    return report(session, entries, finals, found, restored, flagged)


def run_unguarded(cluster: Cluster, folder: Path) -> tuple[str, ...]:
    """Return what the checker says of writes that bear no resourceVersion."""
    session = Session(cluster, folder, ("unguarded",), max(10, UNGUARDED // WRITERS), 0, 0, guarded=False, greed=GREED)
    asyncio.run(make_budgets(session))
    asyncio.run(session.run())
    finals = {name: final_of(record) for name, record in asyncio.run(read_records(session)).items()}
    return violations(session.entries(), finals, LIMIT)


def report(
    session: Session,
    entries: tuple[Entry, ...],
    finals: Mapping[str, Final],
    found: tuple[str, ...],
    restored: dict[str, Any],
    flagged: tuple[str, ...],
) -> Outcome:
    """Return the outcome, with whether everything happened that was to happen."""
    kills = sum(session.done.values())
    outcomes = Counter(f"{entry.op} {entry.outcome or 'cut off'}" for entry in entries)
    lost = sum(entry.outcome == "unknown" for entry in entries)
    seen_old = all(all(each) for each in restored["flagged"].values())
    met = (
        len(entries) >= session.operations * WRITERS
        and kills >= KILLS
        and all(session.done[point] for point in (*POINTS, ASK_KILL))
        and lost > 0
        and seen_old
        and not restored["refunded"]
        and bool(flagged)
    )
    return Outcome(
        value=float(len(found)),
        met=met,
        details={
            "operations": len(entries),
            "writers": WRITERS,
            "budgets": len(session.budgets),
            "kills": dict(session.done),
            "outcomes": dict(sorted(outcomes.items())),
            "full": {name: round(final.committed / LIMIT, 4) for name, final in finals.items()},
            "violations": list(found[:20]),
            "restored": restored,
            "flaggedWithoutResourceVersion": [len(flagged), *flagged[:3]],
        },
    )


BENCHMARK = Benchmark(
    name="ledger",
    shows="violations in the history of 8 writers on 4 nearly full budgets under kills (OPS=, default 100000)",
    unit="violations",
    target=0,
    bound="at most",
    measure=measure,
)
