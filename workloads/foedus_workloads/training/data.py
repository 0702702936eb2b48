"""A silo's records: one JSON object a line, `{"text": …, "label": …}`, read strictly and named by digest.

The digest does not depend on the order of the lines nor on how JSON was written, so the same documents in another
order are the same data set to a privacy budget. Messages name file and line, never a text or a label: both are
private.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from foedus_contract import limits
from foedus_contract.canonical import canonical_json, digest
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode

FIELDS = ("text", "label")


@dataclass(frozen=True)
class Record:
    """One document and its class."""

    text: str
    label: str


@dataclass(frozen=True)
class Records:
    """All records of one file, with the digest that names the data set."""

    items: tuple[Record, ...]
    digest: str

    @property
    def count(self) -> int:
        """How many records there are; public under the neighbouring relation."""
        return len(self.items)


def read_records(path: Path, labels: Sequence[str] | None = None) -> Records:
    """Read every record of `path`; raises InvalidInput naming file and line.

    With `labels`, a record whose label is not among them is refused.
    """
    items = []
    for number, line in _lines(path):
        record = _parse(line, where=f"{path}:{number}")
        if labels is not None and record.label not in labels:
            _refuse(
                f"{path}:{number}", "the label is not one of " + ", ".join(labels), "correct it or the list of labels"
            )
        items.append(record)
        if len(items) > limits.MAX_RECORDS:
            _refuse(f"{path}:{number}", f"more than {limits.MAX_RECORDS} records", "split the data over several silos")
    if not items:
        _refuse(str(path), "the file holds no records", "a silo needs at least one record")
    return Records(tuple(items), records_digest(items))


def records_digest(records: Iterable[Record]) -> str:
    """Return `sha256:…` of the multiset of records."""
    # A multiset of hashes: 32 bytes a record are kept, and the order of lines does not count.
    return digest("foedus/data", {"records": sorted(record_hash(record).hex() for record in records)})


def record_hash(record: Record) -> bytes:
    """Return the SHA-256 of one record, 32 bytes; as private as the record, which can be guessed from it."""
    return hashlib.sha256(canonical_json({"text": record.text, "label": record.label})).digest()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write `records` as JSON lines, one object each, in the given order."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            json.dump({"text": record.text, "label": record.label}, file, ensure_ascii=False)
            file.write("\n")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line) of every line that is not blank, within the contract's size limits."""
    try:
        size = path.stat().st_size
        if size > limits.MAX_DATA_BYTES:
            _refuse(str(path), f"the file is larger than {limits.MAX_DATA_BYTES} bytes", "split it over several silos")
        with path.open("rb") as file:
            number = 0
            while line := file.readline(limits.MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > limits.MAX_LINE_BYTES:
                    _refuse(
                        f"{path}:{number}", f"the line is longer than {limits.MAX_LINE_BYTES} bytes", "shorten the text"
                    )
                if line.strip():
                    yield number, line
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInput(
            f"cannot read the data file ({reason})",
            where=str(path),
            cure="check clients[].data",
            code=ExitCode.INVALID_DATA,
        ) from None


def _parse(line: bytes, *, where: str) -> Record:
    value = _decode(line, where)
    if not isinstance(value, dict):
        _refuse(where, "not a JSON object", 'write {"text": "…", "label": "…"}')
    for field in FIELDS:
        if field not in value:
            _refuse(where, f"the field {field} is missing", "every record has text and label")
    if len(value) > len(FIELDS):
        _refuse(where, "an unknown field", "every record has text and label and nothing else")
    return Record(text=_text(value["text"], "text", where), label=_text(value["label"], "label", where))


def _decode(line: bytes, where: str) -> object:
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except UnicodeDecodeError:
        _refuse(where, "not UTF-8", "save the file as UTF-8 without a byte order mark")
    except _NotFinite:
        _refuse(where, "NaN or an infinity is not data", "leave out the record or give its text")
    except (ValueError, RecursionError):
        _refuse(where, "not valid JSON", 'write {"text": "…", "label": "…"} on one line, each field once')


def _text(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        _refuse(where, f"{field} is not text", "write it in double quotes")
    if not value.strip():
        _refuse(where, f"{field} is blank", "leave out the record or fill it in")
    if "\x00" in value:
        _refuse(where, f"{field} holds a NUL character", "remove it")
    if any("\ud800" <= character <= "\udfff" for character in value):
        _refuse(where, f"{field} holds half a surrogate pair", "save the text as valid Unicode")
    return value


class _NotFinite(ValueError):
    """JSON as Python writes it knows NaN; data does not."""


def _no_constant(_name: str) -> NoReturn:
    raise _NotFinite


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refuse(where: str, what: str, cure: str) -> NoReturn:
    raise InvalidInput(what, where=where, cure=cure, code=ExitCode.INVALID_DATA)
