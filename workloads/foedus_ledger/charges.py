"""A silo's own log of what it has charged: a hash chain whose end is signed, and what it says about a ledger.

A restored copy of a ledger has forgotten charges whose releases are out. The log lies elsewhere, so it knows:

1. The silo charges its ledger.
2. It appends a line with the job's account as the ledger holds it now, before noise is drawn and anything is uploaded.
3. Every line bears the hash of the one before (of the data set, in the first), and a signature of the silo's identity
   key over data set, count of releases, and the line's own hash: the head.

So the log never lacks a release, and a ledger that was not restored never lacks a line. A ledger that lacks one is
*behind*; it takes the missing charges over as spent, and gives nothing back. Adversary: whoever restores or alters the
ledger's file, or alters the log. A log names its key itself, so its reader says whose it must be: by the key that lies
beside it, or by a head that was seen. Not covered: ledger and log restored together; that is seen by who has kept a
newer head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from foedus_contract import limits
from foedus_contract.canonical import digest
from foedus_contract.errors import InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import ContractModel, Digest
from foedus_contract.wire import Key, LedgerHead, Signature, head_to_sign
from foedus_ledger.records import Account, BudgetRecord, JobUid

LOG_FILE = "charges.jsonl"  # beside the identity key that signs it
MAX_LINE_BYTES = 4096  # a line is below 1 KiB with the longest uid and claimant
MAX_LOG_BYTES = 256 * 1024 * 1024  # some 300,000 charges; a budget holds thousands at most

Sign = Callable[[bytes], bytes]


class LedgerBehind(Refused):
    """The ledger holds less than what was released: it is an old copy. Nothing may be charged on it."""

    default_code = ExitCode.LEDGER_BEHIND


class LogDamaged(Refused):
    """The log is not one that can be trusted; nothing may be charged beside it."""


class ChargeLine(ContractModel):
    """One line: a job's account after a charge, and the releases of all jobs up to here."""

    dataset: Digest
    job: JobUid
    account: Account
    count: Annotated[int, Field(ge=1, le=limits.MAX_CHARGES)]
    previous: Digest
    identity: Key
    signature: Signature


@dataclass(frozen=True)
class Charges:
    """What a log says: each job's account as it was last charged, and where the log ends; an empty one has no end."""

    accounts: Mapping[str, Account] = field(default_factory=dict)
    head: LedgerHead | None = None
    identity: bytes = b""


def parse_charges(
    lines: Sequence[bytes], where: Path, *, identity: bytes | None, after: Charges | None = None, first: int = 1
) -> Charges:
    """Return what a log of these lines says; raises LogDamaged naming the first line that does not fit.

    A log of another key than `identity` is Refused; None takes a log of any key. `after` is what the lines before the
    `first` one said.
    """
    charges = after or Charges()
    for number, text in enumerate(lines, start=first):
        try:
            if len(text) > MAX_LINE_BYTES:
                raise InvalidInput("too long")
            charges = add_line(charges, ChargeLine.from_json(text))
        except InvalidInput as error:
            raise damaged(error.what, f"{where}:{number}") from None
    if charges.head is not None and identity not in (None, charges.identity):
        raise Refused(
            "the charge log is not signed with this silo's identity key",
            where=str(where),
            cure="restore the silo's own log, and the key that signed it",
            code=ExitCode.IDENTITY_REFUSED,
        )
    if charges.head is not None and not is_signed(charges.head, charges.identity):
        raise damaged("its end is not signed with the key that it names", f"{where}:{first + len(lines) - 1}")
    return charges


def add_line(charges: Charges, line: ChargeLine) -> Charges:
    """Return the charges with one more line; raises InvalidInput unless it follows."""
    head = charges.head
    if head is not None and (line.dataset, line.identity) != (head.dataset, charges.identity):
        raise InvalidInput("it is of another data set or key than the line before")
    if line.previous != end_of(charges, line.dataset):
        raise InvalidInput("it does not follow the line before")
    before = charges.accounts.get(line.job)
    more = line.account.charged - (before.charged if before else 0)
    if more < 1 or line.count != charges_in(charges) + more:
        raise InvalidInput("its charges do not follow those before")
    if before and (not is_same(before, line.account) or line.account.last_attempt < before.last_attempt):
        raise InvalidInput("its account is not the one before")
    end = LedgerHead(dataset=line.dataset, count=line.count, hash=line_hash(line), signature=line.signature)
    return Charges({**charges.accounts, line.job: line.account}, end, line.identity)


def next_lines(charges: Charges, record: BudgetRecord, identity: bytes, sign: Sign) -> Iterator[ChargeLine]:
    """Yield the lines that the log lacks of what the ledger holds, in the order of the jobs."""
    dataset = record.spec.digest
    for job, account in sorted(record.accounts.items()):
        before = charges.accounts.get(job)
        more = account.charged - (before.charged if before else 0)
        if more < 1:
            continue
        line = ChargeLine(
            dataset=dataset,
            job=job,
            account=account,
            count=charges_in(charges) + more,
            previous=end_of(charges, dataset),
            identity=identity,
            signature=bytes(64),
        )
        signature = sign(head_to_sign(dataset, line.count, line_hash(line)))
        line = line.model_copy(update={"signature": signature})
        charges = add_line(charges, line)
        yield line


def head_of(charges: Charges, dataset: str, sign: Sign) -> LedgerHead:
    """Return the signed end of the log."""
    if charges.head is not None:
        return charges.head
    end = end_of(charges, dataset)
    return LedgerHead(dataset=dataset, count=0, hash=end, signature=sign(head_to_sign(dataset, 0, end)))


def is_signed(head: LedgerHead, identity: bytes) -> bool:
    """Tell whether the head is signed with this identity's key."""
    signed = head_to_sign(head.dataset, head.count, head.hash)
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(head.signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def missing(record: BudgetRecord, charges: Charges, where: str = "") -> dict[str, Account]:
    """Return the log's accounts that the ledger lacks, or holds with fewer charges.

    Raises LogDamaged when log and ledger are not of the same data or the same reservations.
    """
    if charges.head is not None and charges.head.dataset != record.spec.digest:
        raise damaged("it is the log of another data set", where)
    lacking = {}
    for job, logged in charges.accounts.items():
        held = record.accounts.get(job)
        if held is not None and not is_same(held, logged):
            raise damaged(f"log and ledger tell different reservations of job {job}", where)
        if held is None or held.charged < logged.charged or held.last_attempt < logged.last_attempt:
            lacking[job] = logged
    return lacking


def check_not_behind(record: BudgetRecord, charges: Charges, where: str = "") -> None:
    """Raise LedgerBehind when the ledger lacks charges of the log, LogDamaged when they do not belong together."""
    lacking = missing(record, charges, where)
    if lacking:
        held = sum(record.accounts[job].charged for job in lacking if job in record.accounts)
        released = sum(account.charged for account in lacking.values())
        raise LedgerBehind(
            f"the ledger is an old copy: it holds {held} of {released} charges that the silo's own log has",
            where=where,
            cure="take the others over as spent with: foedus budget reconcile",
        )


def check_reaches(record: BudgetRecord, head: LedgerHead, where: str = "") -> None:
    """Raise LedgerBehind when the ledger holds fewer charges than a head that was seen; LogDamaged for other data."""
    if head.dataset != record.spec.digest:
        raise damaged("the head that was seen is of another data set", where)
    held = sum(account.charged for account in record.accounts.values())
    if held < head.count:
        raise LedgerBehind(
            f"the ledger is an old copy: it holds {held} charges, {head.count} have been seen",
            where=where,
            cure=f"restore the newest copies of ledger and {LOG_FILE}, then run: foedus budget reconcile",
        )


def check_signer(charges: Charges, seen: LedgerHead | None, where: str = "") -> None:
    """Raise LogDamaged when a log is signed with another key than its end that was seen."""
    if seen is None or charges.head is None:
        return
    if not is_signed(seen, charges.identity):
        raise damaged("it is signed with another key than when its end was last seen", where)


def check_holds(lines: Sequence[bytes], seen: LedgerHead, where: str = "") -> None:
    """Raise LogDamaged unless one of these lines of a log, where there are any, is the end that was seen."""
    ends = ((line.count, line_hash(line)) for line in map(ChargeLine.from_json, lines))
    if lines and (seen.count, seen.hash) not in ends:
        raise damaged(f"it does not hold the end that was seen after {seen.count} charges", where)


def damaged(what: str, where: str = "") -> LogDamaged:
    """Return the error of a log that cannot be trusted."""
    return LogDamaged(
        f"the charge log cannot be trusted: {what}",
        where=where,
        cure="restore the newest copy of the file; nothing is charged on this budget before",
    )


def is_same(one: Account, other: Account) -> bool:
    """Tell whether two states are of one reservation."""
    return (one.mechanism, one.reserved, one.claimant) == (other.mechanism, other.reserved, other.claimant)


def charges_in(charges: Charges) -> int:
    """Return how many releases the log holds."""
    return 0 if charges.head is None else charges.head.count


def end_of(charges: Charges, dataset: str) -> str:
    """Return what the next line follows: the last line's hash, or what stands for the data set before the first."""
    if charges.head is not None:
        return charges.head.hash
    return digest("foedus/ledger/charges", {"dataset": dataset})


def line_hash(line: ChargeLine) -> str:
    """Return what the next line follows: a hash of all but the signature."""
    return digest("foedus/ledger/charge", line.model_dump(mode="json", by_alias=True, exclude={"signature"}))
