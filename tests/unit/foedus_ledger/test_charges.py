"""A silo's log of charges: what it refuses to be, and what it says about a ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.errors import Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import head_to_sign
from foedus_ledger.charge_log import read_charges
from foedus_ledger.charges import (
    Charges,
    LedgerBehind,
    LogDamaged,
    add_line,
    check_holds,
    check_not_behind,
    check_reaches,
    check_signer,
    head_of,
    is_signed,
    missing,
    next_lines,
    parse_charges,
)
from foedus_ledger.ledger import check_import, import_charges
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec

DATA, OTHER_DATA = "sha256:" + "a" * 64, "sha256:" + "b" * 64
KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
IDENTITY, OTHER_IDENTITY = (key.public_key().public_bytes_raw() for key in (KEY, OTHER_KEY))


def account(charged: int, last: int | None = None, *, reserved: int = 9, state: str = "Open") -> Account:
    return Account(
        mechanism=Mechanism(noise_multiplier=9.0),
        reserved=reserved,
        charged=charged,
        last_attempt=charged - 1 if last is None else last,
        claimant="default/job",
        state=state,
    )


def record(data: str = DATA, **accounts: Account) -> BudgetRecord:
    spec = BudgetSpec(digest=data, records=5, epsilon=50.0, delta=1e-5)
    return BudgetRecord(spec=spec, accounts={name.replace("_", "-"): held for name, held in accounts.items()})


def log_of(*records: BudgetRecord, key: Ed25519PrivateKey = KEY) -> list[bytes]:
    """Return the lines of a log that followed these records of a ledger."""
    charges, lines = Charges(), []
    for each in records:
        for line in next_lines(charges, each, key.public_key().public_bytes_raw(), key.sign):
            charges = add_line(charges, line)
            lines.append(line.to_json())
    return lines


FIVE = log_of(
    *(record(job_a=account(n)) for n in (1, 2, 3)), record(job_a=account(3), job_b=account(2, 4), job_c=account(0))
)


def test_a_log_says_who_charged_how_much_and_ends_in_a_signed_count() -> None:
    charges = parse_charges(FIVE, Path("log"), identity=None)
    assert {job: (held.charged, held.last_attempt) for job, held in charges.accounts.items()} == {
        "job-a": (3, 2),
        "job-b": (2, 4),
    }
    assert charges.head is not None
    assert (charges.head.dataset, charges.head.count, charges.identity) == (DATA, 5, IDENTITY)
    assert is_signed(charges.head, IDENTITY)
    assert not is_signed(charges.head, OTHER_IDENTITY)
    assert not is_signed(charges.head.model_copy(update={"count": 4}), IDENTITY)
    assert head_of(charges, DATA, KEY.sign) == charges.head


def test_an_empty_log_ends_at_its_data_set() -> None:
    heads = [head_of(Charges(), data, KEY.sign) for data in (DATA, OTHER_DATA)]
    assert [head.count for head in heads] == [0, 0]
    assert heads[0].hash != heads[1].hash
    assert is_signed(heads[0], IDENTITY)


def test_what_a_head_signs_has_one_spelling() -> None:
    assert head_to_sign("sha256:aa", 7, "sha256:bb") == (
        b'\x00\x15foedus/ledger/head/v1{"count":7,"dataset":"sha256:aa","hash":"sha256:bb"}'
    )


def edited(line: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(line) | changes).encode()


def charged_less(line: bytes) -> bytes:
    held = json.loads(line)["account"] | {"charged": 1, "lastAttempt": 0}
    return edited(line, account=held)


OTHERS = log_of(*(record(job_a=account(n)) for n in (1, 2, 3)), key=OTHER_KEY)


@pytest.mark.parametrize(
    ("lines", "place", "why"),
    [
        pytest.param([FIVE[0], FIVE[2]], 2, "does not follow the line before", id="cut in the middle"),
        pytest.param(FIVE[1:], 1, "does not follow the line before", id="its beginning is gone"),
        pytest.param([FIVE[0], *FIVE], 2, "does not follow the line before", id="a line twice"),
        pytest.param([FIVE[0], FIVE[1][:40], FIVE[2]], 2, "Invalid JSON", id="half a line in the middle"),
        pytest.param([FIVE[0], b"", *FIVE[1:]], 2, "Invalid JSON", id="an empty line"),
        pytest.param([*FIVE[:2], b" " * 5000], 3, "too long", id="a line without end"),
        pytest.param([edited(FIVE[0], count=2), *FIVE[1:]], 1, "do not follow those before", id="another count"),
        pytest.param([*FIVE[:2], charged_less(FIVE[2])], 3, "do not follow", id="a charge taken back"),
        pytest.param([edited(FIVE[0], job="job-x"), *FIVE[1:]], 2, "does not follow the line before", id="another job"),
        pytest.param([*FIVE[:2], edited(FIVE[2], job="job-x")], 3, "do not follow those before", id="a line altered"),
        pytest.param([*FIVE[:2], edited(FIVE[2], signature="A" * 86 + "==")], 3, "not signed with", id="no signature"),
        pytest.param([FIVE[0], OTHERS[1]], 2, "of another data set or key", id="goes on under another key"),
        pytest.param(
            [edited(FIVE[0], identity=json.loads(OTHERS[0])["identity"])], 1, "not signed with", id="another key's name"
        ),
        pytest.param([edited(FIVE[0], dataset=OTHER_DATA)], 1, "does not follow", id="another data set's name"),
        pytest.param([edited(FIVE[0], more=1)], 1, "Extra inputs", id="an unknown field"),
    ],
)
def test_a_log_that_was_altered_is_refused_in_one_line_at_its_place(lines: list[bytes], place: int, why: str) -> None:
    with pytest.raises(LogDamaged, match=why) as caught:
        parse_charges(lines, Path("charges.jsonl"), identity=None)
    said = str(caught.value)
    assert said.startswith(f"charges.jsonl:{place}: the charge log cannot be trusted: ")
    assert "\n" not in said
    assert "restore the newest copy" in said
    assert caught.value.code is ExitCode.BUDGET_REFUSED


def test_half_a_last_line_was_never_acted_on(tmp_path: Path) -> None:
    path = tmp_path / "charges.jsonl"
    path.write_bytes(b"\n".join(FIVE[:3]) + b"\n" + FIVE[3][:100])
    assert read_charges(path) == parse_charges(FIVE[:3], path, identity=None)
    path.write_bytes(FIVE[0])
    assert read_charges(path) == Charges()


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        (record(job_a=account(3), job_b=account(2, 4)), []),
        (record(job_a=account(5), job_b=account(2, 4, state="Closed"), job_x=account(1)), []),
        (record(job_a=account(2), job_b=account(2, 4)), ["job-a"]),
        (record(job_a=account(3)), ["job-b"]),
        (record(job_a=account(3), job_b=account(2, 3)), ["job-b"]),
        (record(), ["job-a", "job-b"]),
    ],
)
def test_a_ledger_is_behind_when_it_lacks_a_charge_of_any_job(held: BudgetRecord, lacking: list[str]) -> None:
    charges = parse_charges(FIVE, Path("log"), identity=None)
    assert sorted(missing(held, charges)) == lacking
    if not lacking:
        return check_not_behind(held, charges)
    with pytest.raises(LedgerBehind, match="foedus budget reconcile") as caught:
        check_not_behind(held, charges)
    assert caught.value.code is ExitCode.LEDGER_BEHIND
    return None


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (record(OTHER_DATA, job_a=account(3), job_b=account(2, 4)), "the log of another data set"),
        (record(job_a=account(3, reserved=8), job_b=account(2, 4)), "different reservations of job job-a"),
    ],
)
def test_a_log_that_is_not_the_ledgers_is_refused(held: BudgetRecord, why: str) -> None:
    with pytest.raises(LogDamaged, match=why):
        check_not_behind(held, parse_charges(FIVE, Path("log"), identity=None))


@pytest.mark.parametrize(
    ("held", "error"),
    [
        (record(job_a=account(5)), None),
        (record(job_a=account(2), job_z=account(3)), None),
        (record(job_a=account(4)), LedgerBehind),
        (record(OTHER_DATA, job_a=account(9)), LogDamaged),
    ],
)
def test_a_head_that_was_seen_is_a_lower_bound(held: BudgetRecord, error: type[Exception] | None) -> None:
    head = parse_charges(FIVE, Path("log"), identity=None).head
    assert head is not None
    if error is None:
        return check_reaches(held, head)
    with pytest.raises(error):
        check_reaches(held, head)
    return None


@pytest.mark.parametrize(
    ("lines", "seen", "why"),
    [
        (FIVE, FIVE, None),
        (FIVE, FIVE[:2], None),
        (FIVE, [], None),
        ([], FIVE, None),  # nothing is taken over from an empty one
        (log_of(record(job_a=account(9)), key=OTHER_KEY), FIVE, "signed with another key"),
        (FIVE, log_of(record(job_a=account(9)), key=OTHER_KEY), "signed with another key"),
    ],
)
def test_a_log_has_the_key_that_was_seen(lines: list[bytes], seen: list[bytes], why: str | None) -> None:
    charges, head = (
        parse_charges(lines, Path("log"), identity=None),
        parse_charges(seen, Path("log"), identity=None).head,
    )
    if why is None:
        return check_signer(charges, head)
    with pytest.raises(LogDamaged, match=why):
        check_signer(charges, head)
    return None


@pytest.mark.parametrize(
    ("lines", "seen", "holds"),
    [
        (FIVE, FIVE, True),
        (FIVE, FIVE[:2], True),
        ([], FIVE, True),  # nothing is taken over from an empty one
        (FIVE[:2], FIVE, False),
        (log_of(record(job_a=account(5))), FIVE, False),
        (log_of(record(job_a=account(2)), record(job_a=account(5))), FIVE[:2], False),  # so many charges, others
    ],
)
def test_a_log_holds_the_end_that_was_seen(lines: list[bytes], seen: list[bytes], holds: bool) -> None:
    head = parse_charges(seen, Path("log"), identity=IDENTITY).head
    assert head is not None
    if holds:
        return check_holds(lines, head)
    with pytest.raises(LogDamaged, match=f"does not hold the end that was seen after {head.count} charges"):
        check_holds(lines, head)
    return None


@pytest.mark.parametrize(
    ("held", "want"),
    [
        ({}, {"job-a": account(3, state="Closed"), "job-b": account(2, 4, state="Closed")}),
        ({"job_a": account(1)}, {"job-a": account(3), "job-b": account(2, 4, state="Closed")}),
        (
            {"job_b": account(1, state="Closed")},
            {"job-a": account(3, state="Closed"), "job-b": account(2, 4, state="Closed")},
        ),
        (
            {"job_a": account(5, 7), "job_x": account(1)},
            {"job-a": account(5, 7), "job-b": account(2, 4, state="Closed"), "job-x": account(1)},
        ),
    ],
)
def test_what_is_missing_is_taken_over_as_spent_once(held: dict[str, Account], want: dict[str, Account]) -> None:
    before, logged = record(**held), parse_charges(FIVE, Path("log"), identity=None).accounts
    after = import_charges(before, logged)
    assert after.accounts == want
    check_import(before, after)
    assert import_charges(after, logged) is after


def test_charges_are_taken_over_also_beyond_the_limit() -> None:
    spec = BudgetSpec(digest=DATA, records=5, epsilon=0.1, delta=1e-5)
    after = import_charges(BudgetRecord(spec=spec), parse_charges(FIVE, Path("log"), identity=None).accounts)
    assert sum(held.charged for held in after.accounts.values()) == 5
    check_import(BudgetRecord(spec=spec), after)


def changed(**accounts: Account) -> Callable[[BudgetRecord], BudgetRecord]:
    return lambda old: BudgetRecord(
        spec=old.spec,
        accounts={name.replace("_", "-"): held for name, held in accounts.items()},
        version=old.version + 1,
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed(), "is missing"),
        (changed(job_a=account(1)), "never fall"),
        (changed(job_a=account(3, 2, reserved=10)), "never change"),
        (changed(job_a=account(2, state="Closed")), "neither closes nor opens"),
        (changed(job_a=account(2), job_b=account(1)), "taken over closed"),
        (lambda old: old, "does not follow"),
        (lambda old: record(OTHER_DATA).model_copy(update={"version": 1}), "spec never changes"),
    ],
)
def test_an_import_that_gives_something_back_is_refused(
    change: Callable[[BudgetRecord], BudgetRecord], why: str
) -> None:
    old = record(job_a=account(2))
    with pytest.raises(Refused, match=why):
        check_import(old, change(old))
