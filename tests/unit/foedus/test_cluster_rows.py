"""What is shown of a cluster's objects."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from foedus.cluster.rows import BUDGETS, JOBS, age, details, find_kind, row
from foedus.plain import one_line
from foedus.table import aligned

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:0123456789ab" + "0" * 52


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def job(status: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": "news", "namespace": "research", "creationTimestamp": "2026-03-01T11:57:00Z"}
    spec = {"training": {"rounds": 20}, "clients": [{"name": "a"}, {"name": "b"}]}
    return {"metadata": meta, "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("status", "want"),
    [
        ({}, "news Pending 0/20 0/2 - - - - 3m"),
        (
            {"phase": "Pending", "conditions": [condition("Ready", "False", "Unschedulable")]},
            "news Pending 0/20 0/2 - - - Unschedulable 3m",
        ),
        (
            {
                "phase": "Training",
                "round": 3,
                "rounds": 20,
                "clients": "9/10",
                "epsilonSpent": 0.41236,
                "epsilonLimit": 1,
            },
            "news Training 3/20 9/10 0.4124 1 - - 3m",
        ),
        (
            {
                "phase": "Complete",
                "round": 20,
                "rounds": 20,
                "clients": "10/10",
                "epsilonSpent": 0.97341,
                "epsilonLimit": 1.5,
                "result": {"accuracy": 0.9155},
                "conditions": [condition("Complete", "True", "AllRounds"), condition("Ready", "True", "Finished")],
            },
            "news Complete 20/20 10/10 0.9734 1.5 0.9155 True 3m",
        ),
    ],
)
def test_a_job_is_one_row(status: dict[str, Any], want: str) -> None:
    assert " ".join(row(JOBS, job(status), NOW, with_namespace=False)) == want
    assert " ".join(row(JOBS, job(status), NOW, with_namespace=True)) == f"research {want}"


def test_a_budget_is_one_row() -> None:
    obj = {
        "metadata": {"name": "silo-01", "namespace": "research", "creationTimestamp": "2026-02-01T12:00:00Z"},
        "spec": {"dataset": {"digest": DIGEST, "records": 170}, "epsilon": 1},
        "status": {
            "epsilonSpent": 0.25,
            "epsilonReserved": 0.5,
            "conditions": [condition("Ready", "True", "Available")],
        },
    }
    want = "silo-01 sha256:0123456789ab 170 0.2500 0.5000 1 True 28d"
    assert " ".join(row(BUDGETS, obj, NOW, with_namespace=False)) == want


def test_of_one_job_its_conditions_are_said_and_what_to_do_next() -> None:
    complete = job({"conditions": [condition("Complete", "True", "AllRounds", "20 rounds\x1b[2J in 20 attempts")]})
    assert details(JOBS, complete) == [
        "",
        "CONDITION   STATUS   REASON      MESSAGE",
        "Complete    True     AllRounds   20 rounds [2J in 20 attempts",
        "",
        "next: foedus adapter download news -n research --out FOLDER",
    ]
    assert details(JOBS, job({})) == ["", "nothing has looked at it yet; is the operator running?"]


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h0m"), (86_399, "23h59m"),
     (86_400, "1d0h"), (8 * 86_400 - 1, "7d23h"), (8 * 86_400, "8d")],
)  # fmt: skip
def test_an_age_is_said_as_kubectl_says_it(seconds: int, want: str) -> None:
    created = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert age(created, NOW) == want


@pytest.mark.parametrize(
    ("word", "want"), [("jobs", JOBS), ("FTJ", JOBS), ("Budget", BUDGETS), ("pb", BUDGETS), ("pods", None)]
)
def test_a_kind_has_the_names_that_kubectl_knows(word: str, want: Any) -> None:
    assert find_kind(word) is want


def test_text_of_others_stays_on_its_line_and_commands_no_terminal() -> None:
    assert one_line("a\nb\x1b]0;x\x07\u202ec\td") == "a b ]0;x c d"
    assert one_line("x" * 600) == "x" * 511 + "…"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned([("A", "B"), ("long", "x")]) == ["A      B", "long   x"]
