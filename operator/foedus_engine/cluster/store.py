"""The embedded engine's memory: objects, pods, incarnations, ports and events in one SQLite file.

Object writes follow the API server: a global resourceVersion, a generation that counts changes outside metadata and
status, status as a subresource, writes that change nothing leave the version as it is. Every method is one
transaction; the file is private to its user (it holds Secrets).
"""

from __future__ import annotations

import copy
import json
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from foedus_contract.errors import FoedusError, InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_engine.cluster import ownership
from foedus_engine.cluster.protocol import AlreadyExists, Conflict, NotFound, Object
from foedus_engine.decide.plan import Manifest, ObjectKey, key_of

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE object (
    api_version TEXT, kind TEXT, namespace TEXT, name TEXT, uid TEXT UNIQUE NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (api_version, kind, namespace, name)
);
CREATE TABLE version (number INTEGER NOT NULL);
INSERT INTO version VALUES (0);
CREATE TABLE incarnation (namespace TEXT, job TEXT, number INTEGER NOT NULL, PRIMARY KEY (namespace, job));
CREATE TABLE pod (
    namespace TEXT, job TEXT, job_uid TEXT, number INTEGER, pid INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL,
    exit_code INTEGER, message TEXT NOT NULL DEFAULT '', finished REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (job_uid, number)
);
CREATE TABLE port (
    namespace TEXT, service TEXT, port INTEGER, host_port INTEGER NOT NULL, PRIMARY KEY (namespace, service, port)
);
CREATE TABLE event (
    id INTEGER PRIMARY KEY, namespace TEXT, kind TEXT, name TEXT, type TEXT, reason TEXT, message TEXT, at TEXT
);
"""

# What the API server refuses to change in place; a change needs a new object.
IMMUTABLE: Mapping[str, tuple[ownership.Path, ...]] = {
    "Job": (
        ("spec", "template"),
        ("spec", "podFailurePolicy"),
        ("spec", "completions"),
        ("spec", "completionMode"),
        ("spec", "selector"),
    ),
    "PersistentVolumeClaim": (("spec",),),
}


def open_database(path: Path) -> sqlite3.Connection:
    """Open or create the engine's database; raises InvalidInput on a file that is not one."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # made private before SQLite writes the first byte
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA synchronous = FULL")  # an incarnation that was handed out must survive a power cut
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found == 0 and tables == 0:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif found != SCHEMA_VERSION:
            raise sqlite3.DatabaseError("foreign schema")
    except sqlite3.OperationalError as error:
        connection.close()
        raise unwritable(error, str(path)) from None
    except sqlite3.DatabaseError as error:
        connection.close()
        cure = "use another state folder, or the version of Foedus that made this one"
        raise InvalidInput(f"not a database of this engine ({error})", where=str(path), cure=cure) from None
    return connection


def unwritable(error: sqlite3.OperationalError, where: str) -> FoedusError:
    """Return the error of a state folder that takes no writes. It is final for this run: no pass could say more."""
    return FoedusError(
        f"the engine's database cannot be written ({error})",
        where=where,
        cure="free space on its volume, or mend it",
        code=ExitCode.UNAVAILABLE,
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block does, or nothing of it; raises FoedusError (UNAVAILABLE) when the disk does not take it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:  # on a full disk SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            raise unwritable(error, "the state folder") from None
        raise


Written = list[tuple[Object, bool]]  # what a transaction wrote; True: it was deleted


class ObjectStore:
    """Objects with the API server's rules for writing them. `changed` hears of every object written or deleted."""

    def __init__(
        self, connection: sqlite3.Connection, *, now: Callable[[], datetime], changed: Callable[[Object, bool], None]
    ) -> None:
        self._connection = connection
        self._now = now
        self._changed = changed

    def get(self, key: ObjectKey) -> dict[str, Any]:
        """Return the object; raises NotFound."""
        found = self._find(key)
        if found is None:
            raise NotFound("not found", where=str(key))
        return found

    def list(self, api_version: str, kind: str, namespace: str | None, labels: Mapping[str, str]) -> Sequence[Object]:
        """Return the objects of a kind that bear all of `labels`, in name order."""
        rows = self._connection.execute(
            "SELECT body FROM object WHERE api_version = ? AND kind = ? AND (? IS NULL OR namespace = ?)"
            " ORDER BY namespace, name",
            (api_version, kind, namespace, namespace),
        )
        objects = [json.loads(row["body"]) for row in rows]
        return [obj for obj in objects if labels.items() <= obj["metadata"].get("labels", {}).items()]

    def everything(self) -> Sequence[Object]:
        """Return all objects in the order of their keys."""
        rows = self._connection.execute("SELECT body FROM object ORDER BY api_version, kind, namespace, name")
        return [json.loads(row["body"]) for row in rows]

    def create(self, manifest: Manifest, *, manager: str, operation: str = "Update") -> Object:
        """Create the object; raises AlreadyExists."""
        manifest = _plain(manifest)
        with self._writing() as written:
            if self._find(key_of(manifest)) is not None:
                raise AlreadyExists("already exists", where=str(key_of(manifest)))
            obj = self._birth(manifest)
            obj = ownership.with_owners(obj, {(manager, operation): frozenset(ownership.ownable(obj))})
            self._write(obj, written)
            self._collect_garbage(written)
        return obj

    def apply(self, manifest: Manifest, *, manager: str, force: bool) -> Object:
        """Server-side apply; raises Conflict on another manager's fields unless `force`."""
        live = self._find(key_of(manifest))
        asked = manifest["metadata"].get("uid")
        if asked and asked != (live or {}).get("metadata", {}).get("uid"):
            raise Conflict("the object has another uid", where=str(key_of(manifest)), cure="read it again")
        if live is None:
            return self.create(manifest, manager=manager, operation="Apply")
        before = live
        if manifest["metadata"].get("resourceVersion"):
            before = ownership.hand_over(self._current(manifest), manager=manager)
        merged = ownership.merge_apply(before, _plain(manifest), manager=manager, force=force)
        return self._replace(live, merged)

    def update(self, obj: Object, *, manager: str) -> Object:
        """Replace all but the status; raises Conflict unless resourceVersion is current."""
        live = self._current(obj)
        return self._replace(live, ownership.merge_update(live, _plain(obj), manager=manager))

    def update_status(self, obj: Object) -> Object:
        """Replace the status alone; raises Conflict unless resourceVersion is current."""
        live = self._current(obj)
        return self._replace(live, {**live, "status": _plain(obj.get("status", {}))})

    def delete(self, key: ObjectKey, *, cascade: bool) -> None:
        """Delete the object and, with `cascade`, what it owns; raises NotFound, or Conflict on another uid."""
        with self._writing() as written:
            obj = self.get(key)
            if key.uid and key.uid != obj["metadata"]["uid"]:
                raise Conflict("the object has another uid", where=str(key), cure="read it again")
            if not cascade:
                self._orphan(obj["metadata"]["uid"], written)
            self._erase(obj, written)
            self._collect_garbage(written)

    def _find(self, key: ObjectKey) -> dict[str, Any] | None:
        row = self._connection.execute(
            "SELECT body FROM object WHERE api_version = ? AND kind = ? AND namespace = ? AND name = ?",
            (key.api_version, key.kind, key.namespace, key.name),
        ).fetchone()
        return None if row is None else json.loads(row["body"])

    def _current(self, obj: Object) -> dict[str, Any]:
        live = self.get(key_of(obj))
        if obj["metadata"].get("resourceVersion") != live["metadata"]["resourceVersion"]:
            raise Conflict("the object has changed since it was read", where=str(key_of(obj)), cure="read it again")
        return live

    def _birth(self, manifest: Manifest) -> dict[str, Any]:
        obj = {key: copy.deepcopy(value) for key, value in manifest.items() if key != "status"}
        given = {key: value for key, value in obj["metadata"].items() if key not in ownership.SERVER_METADATA}
        obj["metadata"] = {
            "name": manifest["metadata"]["name"],
            "namespace": manifest["metadata"].get("namespace", ""),
            **given,
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return obj

    def _replace(self, live: Object, merged: Mapping[str, Any]) -> Object:
        key = key_of(live)
        for path in IMMUTABLE.get(key.kind, ()):
            if _dig(live, path) != _dig(merged, path):
                raise InvalidInput("cannot be changed", where=f"{key}: {'.'.join(path)}", cure="delete and recreate it")
        if merged == live:
            return live
        obj = {**merged, "metadata": dict(merged["metadata"])}
        if _content(live) != _content(merged):
            obj["metadata"]["generation"] = live["metadata"]["generation"] + 1
        with self._writing() as written:
            self._write(obj, written)
        return obj

    def _write(self, obj: dict[str, Any], written: Written) -> None:
        self._connection.execute("UPDATE version SET number = number + 1")
        number = self._connection.execute("SELECT number FROM version").fetchone()[0]
        obj["metadata"]["resourceVersion"] = str(number)
        key, body = key_of(obj), json.dumps(obj, allow_nan=False)
        self._connection.execute(
            "INSERT INTO object VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (api_version, kind, namespace, name)"
            " DO UPDATE SET body = excluded.body",
            (key.api_version, key.kind, key.namespace, key.name, obj["metadata"]["uid"], body),
        )
        written.append((obj, False))

    def _erase(self, obj: Object, written: Written) -> None:
        self._connection.execute("DELETE FROM object WHERE uid = ?", (obj["metadata"]["uid"],))
        written.append((obj, True))

    def _orphan(self, uid: str, written: Written) -> None:
        for obj in self.everything():
            references = obj["metadata"].get("ownerReferences", ())
            kept = [reference for reference in references if reference["uid"] != uid]
            if len(kept) < len(references):
                self._write({**obj, "metadata": {**obj["metadata"], "ownerReferences": kept}}, written)

    def _collect_garbage(self, written: Written) -> None:
        """Delete what has owners and none of them exists, until nothing of the kind is left."""
        while True:
            objects = self.everything()
            alive = {obj["metadata"]["uid"] for obj in objects}
            dead = [obj for obj in objects if _abandoned(obj, alive)]
            if not dead:
                return
            for obj in dead:
                self._erase(obj, written)

    @contextmanager
    def _writing(self) -> Iterator[Written]:
        """Run one transaction; after its commit tell `changed` what it wrote."""
        written: Written = []
        with transaction(self._connection):
            yield written
        for obj, deleted in written:
            self._changed(obj, deleted)


def _abandoned(obj: Object, alive: set[str]) -> bool:
    references = obj["metadata"].get("ownerReferences", ())
    return bool(references) and not any(reference["uid"] in alive for reference in references)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy as JSON has it, so that equal content compares equal; raises ValueError on what JSON has not."""
    return dict(json.loads(json.dumps(value, allow_nan=False)))


def _dig(obj: Any, path: ownership.Path) -> Any:
    for key in path:
        obj = obj.get(key) if isinstance(obj, Mapping) else None
    return obj


def _content(obj: Object) -> dict[str, Any]:
    return {key: value for key, value in obj.items() if key not in {"metadata", "status"}}
