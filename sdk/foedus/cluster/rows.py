"""How the cluster's objects are shown: rows of a table, and what is said of a single one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from foedus.plain import one_line
from foedus.table import Row, aligned
from foedus_contract.models import DIGEST_SHOWN
from foedus_engine import names
from foedus_engine.api.training_status import TrainingConditionType
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.conditions import is_true, parse_timestamp

NOTHING = "-"


@dataclass(frozen=True)
class Kind:
    """One of our kinds as the command line knows it."""

    name: str
    words: tuple[str, ...]
    header: Row


JOBS = Kind(
    names.TRAINING_KIND,
    ("jobs", "job", "ftj", "federatedtrainingjob", "federatedtrainingjobs"),
    ("NAME", "PHASE", "ROUND", "SILOS", "ε-SPENT", "ε-LIMIT", "ACCURACY", "READY", "AGE"),
)
BUDGETS = Kind(
    names.BUDGET_KIND,
    ("budgets", "budget", "pb", "privacybudget", "privacybudgets"),
    ("NAME", "DATASET", "RECORDS", "ε-SPENT", "ε-RESERVED", "ε-LIMIT", "READY", "AGE"),
)
KINDS = (JOBS, BUDGETS)


def find_kind(word: str) -> Kind | None:
    """Return the kind that a word means, as kubectl takes it: singular, plural or short, in any case."""
    return next((kind for kind in KINDS if word.lower() in kind.words), None)


def header(kind: Kind, *, with_namespace: bool) -> Row:
    """Return the titles of a kind's columns."""
    return ("NAMESPACE", *kind.header) if with_namespace else kind.header


def row(kind: Kind, obj: Object, now: datetime, *, with_namespace: bool) -> Row:
    """Return one object's cells."""
    meta = obj["metadata"]
    cells = (_job if kind is JOBS else _budget)(obj)
    shown = (str(meta["name"]), *cells, ready(obj), age(meta.get("creationTimestamp"), now))
    return (str(meta["namespace"]), *shown) if with_namespace else shown


def _job(obj: Object) -> Row:
    status: Mapping[str, Any] = obj.get("status") or {}
    planned = status.get("rounds", obj["spec"].get("training", {}).get("rounds"))
    return (
        str(status.get("phase") or "Pending"),
        NOTHING if planned is None else f"{status.get('round') or 0}/{planned}",
        str(status.get("clients") or f"0/{len(obj['spec'].get('clients', ()))}"),
        number(status.get("epsilonSpent"), ".4f"),
        number(status.get("epsilonLimit"), "g"),
        number((status.get("result") or {}).get("accuracy"), ".4f"),
    )


def _budget(obj: Object) -> Row:
    spec, status = obj["spec"], obj.get("status") or {}
    return (
        str(spec["dataset"]["digest"])[:DIGEST_SHOWN],
        str(spec["dataset"]["records"]),
        number(status.get("epsilonSpent"), ".4f"),
        number(status.get("epsilonReserved"), ".4f"),
        number(spec.get("epsilon"), "g"),
    )


def number(value: float | None, form: str) -> str:
    """Return the number as a cell."""
    return NOTHING if value is None else format(value, form)


def ready(obj: Object) -> str:
    """Return whether an object is ready, or the reason why it is not."""
    for condition in conditions(obj):
        if condition["type"] == "Ready":
            return "True" if condition["status"] == "True" else str(condition["reason"])
    return NOTHING


def conditions(obj: Object) -> Sequence[Mapping[str, Any]]:
    """Return an object's conditions."""
    return tuple((obj.get("status") or {}).get("conditions", ()))


def age(created: str | None, now: datetime) -> str:
    """Return how long ago that was, in its two largest units at most, as kubectl says it: 90s, 5m, 3h20m, 4d."""
    if not created:
        return NOTHING
    seconds = max(0, int((now - parse_timestamp(created)) / timedelta(seconds=1)))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 120:
        return f"{minutes}m"
    return f"{hours}h{minutes % 60}m" if hours < 24 else f"{days}d{hours % 24}h" if days < 8 else f"{days}d"


def details(kind: Kind, obj: Object) -> list[str]:
    """Return what is said of a single object below its row: its conditions, and where its result is."""
    found = conditions(obj)
    rows = [("CONDITION", "STATUS", "REASON", "MESSAGE")]
    rows += [
        (str(each["type"]), str(each["status"]), str(each["reason"]), one_line(str(each.get("message", ""))))
        for each in found
    ]
    said = ["", *aligned(rows)] if found else ["", "nothing has looked at it yet; is the operator running?"]
    if kind is JOBS and is_true(obj.get("status") or {}, TrainingConditionType.COMPLETE):
        meta = obj["metadata"]
        said += ["", f"next: foedus adapter download {meta['name']} -n {meta['namespace']} --out FOLDER"]
    return said
