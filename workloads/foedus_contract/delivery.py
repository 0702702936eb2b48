"""What a folder delivers: names, sizes and digests of its files, and how they travel.

1. One line of JSON: the `Delivery`.
2. The bytes of its files, in its order, without anything between them.

A job's result names the digest of its delivery, so whoever has the files can tell that they are the job's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from foedus_contract.canonical import digest
from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.models import ContractModel, Digest

HANDOVER_PORT = 8444  # on a pod's loopback interface
MAX_FILES = 16  # an adapter's folder has four
MAX_FILE_BYTES = 256 * 1024 * 1024  # both factors of the largest adapter, or the longest charge log
MAX_HEADER_BYTES = 16 * 1024  # the line of MAX_FILES with the longest names
BLOCK_BYTES = 64 * 1024
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class DeliveredFile(ContractModel):
    """One file."""

    name: Annotated[str, StringConstraints(pattern=FILE_NAME, max_length=128)]
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    digest: Digest


class Delivery(ContractModel):
    """The files of one folder, by name."""

    files: Annotated[tuple[DeliveredFile, ...], Field(min_length=1, max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _in_order(self) -> Delivery:
        found = [file.name for file in self.files]
        if found != sorted(set(found)):
            raise ValueError("the files must be in the order of their names, each once")
        return self

    def digest(self) -> str:
        """Return the digest that a job's result names."""
        return digest("foedus/delivery", [[file.name, file.size, file.digest] for file in self.files])


def describe_folder(folder: Path, only: Iterable[str] = ()) -> Delivery:
    """Return what the folder delivers: all of its files, or those of these names.

    Raises Unavailable when a file cannot be read, InvalidInput when there is none, or what is there is no delivery.
    """
    try:
        chosen = sorted(only) or sorted(path.name for path in folder.iterdir() if path.is_file())
        found = [(name, *_measure(folder / name)) for name in chosen]
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"cannot be read ({reason})", where=str(error.filename or folder)) from None
    try:
        return Delivery(files=tuple(DeliveredFile(name=name, size=size, digest=each) for name, size, each in found))
    except ValueError:
        what = f"holds what cannot be handed over: 1 to {MAX_FILES} files of up to {MAX_FILE_BYTES:,} bytes can"
        raise InvalidInput(what, where=str(folder)) from None


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return file.tell(), f"sha256:{found.hexdigest()}"
