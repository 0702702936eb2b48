"""Reads a silo's charge log from its file; only the silo itself writes it."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.durable import read_at_most
from foedus_contract.errors import Unavailable
from foedus_contract.run_spec import KEY_FILE
from foedus_contract.wire import LedgerHead
from foedus_ledger.charges import LOG_FILE, MAX_LOG_BYTES, Charges, check_holds, check_signer, damaged, parse_charges

MAX_KEY_BYTES = 32


def log_path(ledger: Path) -> Path:
    """Return where the log of a ledger's silo lies."""
    return ledger.with_name(LOG_FILE)


def own_identity(log: Path) -> bytes:
    """Return the public key of the identity key beside a log, nothing when there is none: then no log is the silo's."""
    try:
        seed = _read(log.with_name(KEY_FILE), MAX_KEY_BYTES)
        return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    except (FileNotFoundError, ValueError):
        return b""


def read_own_charges(path: Path) -> Charges:
    """Return what the log says, which the identity key beside it must have signed; as `read_charges`."""
    if not path.exists():  # asked first: a silo makes its key before its log
        return Charges()
    return read_charges(path, identity=own_identity(path))


def read_charges(
    path: Path, *, identity: bytes | None = None, seen: LedgerHead | None = None, where: Path | None = None
) -> Charges:
    """Return what the log says, an empty one when there is no file; raises LogDamaged, Refused or Unavailable.

    It must be of `identity`, and hold and continue the end that was `seen`, as far as these are known. A last line
    without its line feed was never acted on: nothing was released after it. `where` is the log's place for people.
    """
    where = where or path
    try:
        content = _read(path, MAX_LOG_BYTES)
    except FileNotFoundError:
        return Charges()
    if len(content) > MAX_LOG_BYTES:
        raise damaged("it is too large", str(where))
    whole, separator, _ = content.rpartition(b"\n")
    lines = whole.split(b"\n") if separator else ()
    charges = parse_charges(lines, where, identity=identity)
    if seen is not None:
        check_signer(charges, seen, str(where))
        check_holds(lines, seen, str(where))
    return charges


def _read(path: Path, most: int) -> bytes:
    try:
        return read_at_most(path, most)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"cannot be read ({reason})", where=str(path), cure="check the file's permissions") from None
