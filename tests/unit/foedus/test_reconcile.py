"""Whose log a ledger takes charges over from: its silo's own, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus.cluster.session import FoundBudget
from foedus.reconcile import read_copy, take_over
from foedus_contract.errors import Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import LedgerHead
from foedus_engine.cluster.embedded_ledgers import EmbeddedLedgers, head_path, ledger_path
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.charge_log import log_path, read_charges
from foedus_ledger.charges import LogDamaged
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec
from foedus_ledger.sqlite import SqliteLedger
from support.silo_ledgers import file_ledger, written_log

BUDGET = BudgetKey("default", "silo-1")
SPEC = BudgetSpec(digest="sha256:" + "a" * 64, records=5, epsilon=50.0, delta=1e-5)
SEED = bytes(range(32))
KEY, STRANGER = Ed25519PrivateKey.from_private_bytes(SEED), Ed25519PrivateKey.from_private_bytes(bytes(32))


def record(charged: int, noise: float = 9.0) -> BudgetRecord:
    account = Account(
        mechanism=Mechanism(noise_multiplier=noise),
        reserved=9,
        charged=charged,
        last_attempt=charged - 1,
        claimant="default/job",
    )
    return BudgetRecord(spec=SPEC, accounts={"uid": account})


@pytest.fixture
def restored(tmp_path: Path) -> Path:
    """A ledger from before its job reserved, beside the log of the job's two charges; returns its state folder."""
    path = ledger_path(tmp_path, BUDGET)
    SqliteLedger(path).create(SPEC)
    old_copy = path.read_bytes()
    path.with_name("identity.key").write_bytes(SEED)
    SqliteLedger(path).reserve("uid", Mechanism(noise_multiplier=9.0), 9, "default/job")
    silo = file_ledger(path, KEY)
    for attempt in (0, 1):
        silo.charge("uid", attempt)
    path.write_bytes(old_copy)
    return tmp_path


# In a state folder


@pytest.mark.parametrize("noise", [1e-2, 9.0, 1e6])  # it would burn the budget, be believed, or hide what was spent
def test_a_log_that_a_stranger_signed_is_refused_and_nothing_is_written(restored: Path, noise: float) -> None:
    log, ledger = log_path(ledger_path(restored, BUDGET)), ledger_path(restored, BUDGET)
    own, before = log.read_bytes(), ledger.read_bytes()
    log.write_bytes(written_log(record(2, noise), STRANGER))
    with pytest.raises(Refused) as caught:
        take_over(restored, BUDGET)
    assert str(caught.value) == (
        f"{log}: the charge log is not signed with this silo's identity key; "
        "restore the silo's own log, and the key that signed it"
    )
    assert caught.value.code is ExitCode.IDENTITY_REFUSED
    assert ledger.read_bytes() == before
    log.write_bytes(own)
    assert take_over(restored, BUDGET).account("uid").charged == 2


@pytest.mark.parametrize("seed", [None, b"", SEED[:31], SEED + b"x", bytes(32)])
def test_without_the_key_that_signed_it_no_log_is_taken_over(restored: Path, seed: bytes | None) -> None:
    key = ledger_path(restored, BUDGET).with_name("identity.key")
    key.unlink() if seed is None else key.write_bytes(seed)
    with pytest.raises(Refused, match="not signed with this silo's identity key"):
        take_over(restored, BUDGET)
    assert SqliteLedger(ledger_path(restored, BUDGET)).read().accounts == {}


async def test_the_engine_keeps_no_head_of_a_strangers_log(restored: Path) -> None:
    log, ledgers = log_path(ledger_path(restored, BUDGET)), EmbeddedLedgers(restored)
    own = log.read_bytes()
    log.write_bytes(written_log(record(9), STRANGER))
    for act in (ledgers.read(BUDGET), ledgers.close(BUDGET, job_uid="uid")):
        with pytest.raises(Refused, match="not signed with this silo's identity key"):
            await act
    assert not head_path(restored, BUDGET).exists()
    log.write_bytes(own)
    assert take_over(restored, BUDGET).account("uid").charged == 2


async def test_a_log_whose_key_was_exchanged_with_it_is_not_the_one_that_was_seen(restored: Path) -> None:
    await EmbeddedLedgers(restored).close(BUDGET, job_uid="uid")  # keeps the head
    path = ledger_path(restored, BUDGET)
    path.with_name("identity.key").write_bytes(bytes(32))
    log_path(path).write_bytes(written_log(record(2), STRANGER))
    with pytest.raises(LogDamaged, match="signed with another key than when its end was last seen"):
        take_over(restored, BUDGET)
    assert SqliteLedger(path).read().accounts == {}


# On a cluster


def head(folder: Path, *charged: int, key: Ed25519PrivateKey = KEY) -> LedgerHead:
    """Return the end of a log that followed a ledger through these states."""
    found = read_charges(copy(folder / "seen", *charged, key=key)).head
    assert found is not None
    return found


def copy(path: Path, *charged: int, key: Ed25519PrivateKey = KEY) -> Path:
    """Write the log of a ledger that a silo has seen with so many charges, one state after the other."""
    folder = path.with_suffix(".folder")
    ledger = SqliteLedger(folder / "ledger.sqlite")
    ledger.create(SPEC)
    ledger.reserve("uid", Mechanism(noise_multiplier=9.0), 9, "default/job")
    done = 0
    for many in charged:
        for attempt in range(done, many):
            ledger.charge("uid", attempt)
        file_ledger(ledger.path, key).open()
        done = many
    return log_path(ledger.path).rename(path)


def found(head: LedgerHead | None) -> FoundBudget:
    return FoundBudget(BUDGET, BudgetRecord(spec=SPEC), head, None)


@pytest.mark.parametrize("seen", [(1,), (1, 2), (1, 2, 5)])
def test_a_copy_of_the_log_is_read_that_goes_on_from_the_head_that_is_kept(tmp_path: Path, seen: tuple[int]) -> None:
    log = copy(tmp_path / "copy", 1, 2, 5)
    assert read_copy(log, found(head(tmp_path, *seen))).accounts["uid"].charged == 5


@pytest.mark.parametrize(
    ("charged", "key", "seen", "why"),
    [
        ((1, 2, 5), STRANGER, (1, 2), "signed with another key than when its end was last seen"),
        ((5,), KEY, (1, 2), "does not hold the end that was seen after 2 charges"),  # another history
        ((2, 5), KEY, (1, 2), "does not hold the end that was seen after 2 charges"),  # its count alone is there
        ((1,), KEY, (1, 2), "does not hold the end that was seen after 2 charges"),  # an old copy
    ],
)
def test_a_copy_that_does_not_hold_the_head_that_is_kept_is_refused(
    tmp_path: Path, charged: tuple[int, ...], key: Ed25519PrivateKey, seen: tuple[int, ...], why: str
) -> None:
    log = copy(tmp_path / "copy", *charged, key=key)
    with pytest.raises(LogDamaged, match=why) as caught:
        read_copy(log, found(head(tmp_path, *seen)))
    assert str(caught.value).startswith(f"{log}: the charge log cannot be trusted: ")


def test_a_copy_is_nobodys_while_no_head_is_kept(tmp_path: Path) -> None:
    log = copy(tmp_path / "copy", 1)
    why = r"nothing tells whose log this is: .*PrivacyBudget default/silo-1; leave --log out"
    with pytest.raises(Refused, match=why) as caught:
        read_copy(log, found(None))
    assert caught.value.code is ExitCode.IDENTITY_REFUSED
