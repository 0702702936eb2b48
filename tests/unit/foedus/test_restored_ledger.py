"""An old copy of a ledger is put back: nothing is refunded, and nothing starts until it is reconciled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.exit_codes import ExitCode
from foedus_engine.cluster.embedded_ledgers import ledger_path
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.charge_log import log_path, read_charges
from support.calling import foedus
from support.one_line import check_one_line
from support.silo_ledgers import written_log
from support.small_job import SILOS, SmallJob, build_small_job

Capture = pytest.CaptureFixture[str]
FIRST = SILOS[0]


def check_a_strangers_log_is_refused(world: SmallJob, log: Path, capfd: Capture) -> None:
    own, charges = log.read_bytes(), read_charges(log)
    record = world.ledger(FIRST).read().model_copy(update={"accounts": charges.accounts})
    log.write_bytes(written_log(record, Ed25519PrivateKey.generate()))
    assert foedus("budget", "reconcile", "--state", str(world.state)) == ExitCode.IDENTITY_REFUSED
    check_one_line(
        capfd, f"{log}: the charge log is not signed with this silo's identity key", "restore the silo's own log"
    )
    log.write_bytes(own)


def answers(capfd: Capture) -> dict[str, dict]:
    """Return what the last command printed, one object a budget."""
    return {row["name"]: row for row in map(json.loads, capfd.readouterr().out.splitlines())}


def test_a_restored_ledger_refunds_nothing(tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))  # what the job's processes inherit
    world: SmallJob = build_small_job(tmp_path)
    state = ("--state", str(world.state))
    ledger = ledger_path(world.state, BudgetKey("default", FIRST))
    old_copy = ledger.read_bytes()
    assert foedus(*world.run()) == ExitCode.OK
    capfd.readouterr()
    assert foedus("budget", "--output", "json", *state) == ExitCode.OK
    spent = answers(capfd)
    assert spent[FIRST]["epsilonSpent"] > 0.1
    assert spent[FIRST]["ready"] == {"status": "True", "reason": "Available", "message": ""}

    ledger.write_bytes(old_copy)
    assert foedus(*world.run(name="other", out="other")) == ExitCode.LEDGER_BEHIND
    check_one_line(
        capfd,
        f"error: LedgerBehind: silo {FIRST}: PrivacyBudget default/{FIRST}: {ledger}: the ledger is an old copy",
        "it holds 0 of 2 charges that the silo's own log has",
        f"foedus budget reconcile --state {world.state}",
    )
    assert not any((world.state / "pods").glob("*/other-*"))  # nothing was started
    assert world.ledger(FIRST).read().accounts == {}
    assert world.states() == {"Closed"}
    assert foedus("budget", "--output", "json", *state) == ExitCode.OK
    row = answers(capfd)[FIRST]
    assert (row["epsilonSpent"], row["ready"]["status"], row["ready"]["reason"]) == (0, "False", "LedgerBehind")

    check_a_strangers_log_is_refused(world, log_path(ledger), capfd)
    assert world.ledger(FIRST).read().accounts == {}
    assert foedus("budget", "reconcile", "--output", "json", *state) == ExitCode.OK
    rows = answers(capfd)
    (imported,) = rows[FIRST]["imported"]
    assert (imported["claimant"], imported["before"], imported["charged"]) == ("default/job", 0, 2)
    assert [row["imported"] for name, row in rows.items() if name != FIRST] == [[]] * 3
    assert {name: row["epsilonSpent"] for name, row in rows.items()} == {
        name: row["epsilonSpent"] for name, row in spent.items()
    }
    assert foedus("budget", "reconcile", FIRST, *state) == ExitCode.OK
    assert capfd.readouterr().out == f"budget {FIRST}: the log has nothing that the ledger lacks\n"

    assert foedus(*world.run(name="other", out="other")) == ExitCode.OK  # on what is left, with more noise
    assert world.charged() == len(SILOS) * 4
    capfd.readouterr()
    assert foedus("budget", "--output", "json", *state) == ExitCode.OK
    (both,) = {row["epsilonSpent"] for row in answers(capfd).values()}  # the same in each silo, restored or not
    assert spent[FIRST]["epsilonSpent"] < both <= 1
