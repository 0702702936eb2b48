"""Reads a silo's charge log from its file; only the silo itself writes it."""

from __future__ import annotations

from pathlib import Path

from foedus_contract.errors import Unavailable
from foedus_ledger.charges import LOG_FILE, MAX_LOG_BYTES, Charges, damaged, parse_charges


def log_path(ledger: Path) -> Path:
    """Return where the log of a ledger's silo lies."""
    return ledger.with_name(LOG_FILE)


def read_charges(path: Path) -> Charges:
    """Return what the log says, an empty one when there is no file; raises LogDamaged or Unavailable.

    A last line without its line feed was never acted on: nothing was released after it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LOG_BYTES + 1)
    except FileNotFoundError:
        return Charges()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"cannot be read ({reason})", where=str(path), cure="check the file's permissions") from None
    if len(content) > MAX_LOG_BYTES:
        raise damaged("it is too large", str(path))
    whole, separator, _ = content.rpartition(b"\n")
    return parse_charges(whole.split(b"\n") if separator else (), path)
