"""The embedded engine's rows beside objects: pods, incarnations, loopback ports, events."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from foedus_engine.cluster.jobs import PodState, PodView
from foedus_engine.cluster.store import transaction
from foedus_engine.decide.plan import Event, ObjectKey

MAX_EVENTS = 1000  # of all objects together; the oldest go first, as a cluster's do after an hour


class PodRecords:
    """Which processes were started for a Job, how they ended, and how often each Job's process was started."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def claim_incarnation(self, namespace: str, job: str) -> int:
        """Return a number higher than any returned before for this name, also by an earlier Job of that name."""
        with transaction(self._connection):
            row = self._connection.execute(
                "INSERT INTO incarnation VALUES (?, ?, 1) ON CONFLICT (namespace, job)"
                " DO UPDATE SET number = number + 1 RETURNING number",
                (namespace, job),
            ).fetchone()
        return int(row["number"])

    def started(self, namespace: str, job: str, job_uid: str, number: int) -> None:
        """Record that a pod runs; its pid follows when the process exists."""
        self._connection.execute(
            "INSERT INTO pod (namespace, job, job_uid, number, state) VALUES (?, ?, ?, ?, 'Running')",
            (namespace, job, job_uid, number),
        )

    def has_pid(self, job_uid: str, number: int, pid: int) -> None:
        """Record the process of a running pod."""
        self._connection.execute("UPDATE pod SET pid = ? WHERE job_uid = ? AND number = ?", (pid, job_uid, number))

    def ended(self, job_uid: str, pod: PodView) -> None:
        """Record how a pod ended."""
        self._connection.execute(
            "UPDATE pod SET state = ?, exit_code = ?, message = ?, finished = ? WHERE job_uid = ? AND number = ?",
            (pod.state, pod.exit_code, pod.message, pod.finished, job_uid, pod.number),
        )

    def of_job(self, job_uid: str) -> Sequence[PodView]:
        """Return the Job's pods, oldest first."""
        rows = self._connection.execute("SELECT * FROM pod WHERE job_uid = ? ORDER BY number", (job_uid,))
        return [_view(row) for row in rows]

    def running(self) -> Sequence[tuple[str, str, str, int, int]]:
        """Return (namespace, job, job uid, number, pid) of every pod that is recorded as running."""
        rows = self._connection.execute("SELECT namespace, job, job_uid, number, pid FROM pod WHERE state = 'Running'")
        return [tuple(row) for row in rows]

    def forget(self, job_uid: str) -> None:
        """Drop the rows of a deleted Job; its incarnation stays."""
        self._connection.execute("DELETE FROM pod WHERE job_uid = ?", (job_uid,))


class PortRecords:
    """Which loopback port stands for which port of which Service."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self) -> dict[tuple[str, str, int], int]:
        """Return the host port by (namespace, service, port)."""
        rows = self._connection.execute("SELECT * FROM port ORDER BY namespace, service, port")
        return {(row["namespace"], row["service"], row["port"]): row["host_port"] for row in rows}

    def replace(self, ports: dict[tuple[str, str, int], int]) -> None:
        """Make the table say `ports`."""
        with transaction(self._connection):
            self._connection.execute("DELETE FROM port")
            self._connection.executemany(
                "INSERT INTO port VALUES (?, ?, ?, ?)", [(*key, host_port) for key, host_port in ports.items()]
            )


class EventRecords:
    """What happened to the objects, as Kubernetes events say it; a repeated event is kept once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, key: ObjectKey, event: Event, *, now: datetime) -> None:
        """Keep the event, unless it is the latest one about the object already."""
        if self.of(key)[-1:] == [event]:
            return
        with transaction(self._connection):
            self._connection.execute(
                "INSERT INTO event (namespace, kind, name, type, reason, message, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key.namespace, key.kind, key.name, event.kind, event.reason, event.message, now.isoformat()),
            )
            self._connection.execute("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?", (MAX_EVENTS,))

    def of(self, key: ObjectKey) -> list[Event]:
        """Return the events about one object, oldest first."""
        rows = self._connection.execute(
            "SELECT type, reason, message FROM event WHERE namespace = ? AND kind = ? AND name = ? ORDER BY id",
            (key.namespace, key.kind, key.name),
        )
        return [Event(row["type"], row["reason"], row["message"]) for row in rows]


def _view(row: sqlite3.Row) -> PodView:
    state: PodState = row["state"]
    return PodView(row["number"], state, row["exit_code"], row["message"], row["finished"])
