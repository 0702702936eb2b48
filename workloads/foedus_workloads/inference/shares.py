"""A party's shares of a model as one safetensors file that says what they are shares of."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foedus_contract import limits
from foedus_contract.canonical import digest
from foedus_contract.durable import unwritable
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import ContractModel, Digest
from foedus_contract.mpc_wire import PARTIES, PartyCount, PartyIndex, ProtocolName, member_name
from foedus_workloads.model_folder import safetensors_header

SHARING_BYTES = 16
WEIGHTS_FILE = "weights.safetensors"
_LABEL = "foedus"  # the key in the file's metadata
_CURE = "share the model again"


class ShareLabel(ContractModel):
    """What a file of shares belongs to; it stands in the file itself."""

    version: Literal[1] = 1
    protocol: ProtocolName = "Replicated3PC"
    parties: PartyCount = PARTIES
    party: PartyIndex
    model_digest: Digest
    sharing: Annotated[bytes, Field(min_length=SHARING_BYTES, max_length=SHARING_BYTES)]
    fraction: Annotated[int, Field(ge=8, le=20)]
    architecture: str  # public: JSON of what the program is made from

    @property
    def digest(self) -> str:
        """What the files of one sharing have in common: shares of two sharings of one model give nonsense."""
        common = self.model_dump(exclude={"party"})
        return digest("foedus/inference/shares", common)


def write_shares(path: Path, shares: Mapping[str, Tensor], label: ShareLabel) -> None:
    """Write a party's shares for this user alone; raises Unavailable when the volume does not take them."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # before there is anything in it
        save_file(dict(shares), path, metadata={_LABEL: label.to_json().decode("utf-8")})
    except OSError as error:
        raise unwritable(path, error) from None
    except SafetensorError as error:
        raise unwritable(path, _cause(error)) from None


class StoredShares(Mapping[str, Tensor]):
    """The shares of a file, each read when it is asked for: all of them at once would double a party's memory.

    They are read and not mapped, for pages of a mapping that were looked at count as memory, too.
    """

    def __init__(self, path: Path) -> None:
        """Read where each tensor lies; raises InvalidInput for a file that is cut off."""
        self._path = path
        self._entries = {name: entry for name, entry in safetensors_header(path).items() if name != "__metadata__"}
        self._begin = path.stat().st_size - max(entry["data_offsets"][1] for entry in self._entries.values())

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        size = torch.int64.itemsize
        try:
            values = np.fromfile(self._path, "<i8", (end - begin) // size, offset=self._begin + begin)
            return torch.from_numpy(values).reshape(entry["shape"])
        except OSError as error:
            raise _unusable(self._path, f"the file cannot be read ({error.strerror})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def read_shares(path: Path, party: int, model_digest: str) -> tuple[ShareLabel, StoredShares]:
    """Return label and shares of the file; raises InvalidInput unless it holds this party's shares of this model."""
    try:
        size = path.stat().st_size
        if size > limits.MAX_SHARE_BYTES:
            raise _unusable(path, f"the file is larger than {limits.MAX_SHARE_BYTES} bytes")
        with safe_open(path, framework="pt") as file:
            label = _label(path, (file.metadata() or {}).get(_LABEL, ""))
            _check_owner(path, label, party, model_digest)
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except OSError as error:
        raise _unusable(path, f"the file cannot be read ({error.strerror or type(error).__name__})") from None
    except SafetensorError:
        raise _unusable(path, "the file is cut off or not safetensors") from None
    if kinds - {"I64"}:
        raise _unusable(path, "the file holds something else than shares")
    return label, StoredShares(path)


def _label(path: Path, text: str) -> ShareLabel:
    try:
        return ShareLabel.from_json(text)
    except InvalidInput:
        raise _unusable(path, "the file does not say what it holds shares of") from None


def _check_owner(path: Path, label: ShareLabel, party: int, model_digest: str) -> None:
    if label.party != party:
        raise _unusable(path, f"these are the shares of {member_name(label.party)}, not of {member_name(party)}")
    if label.model_digest != model_digest:
        raise _unusable(path, f"these are shares of the model {label.model_digest}, not of {model_digest}")


def _unusable(path: Path, what: str) -> InvalidInput:
    return InvalidInput(what, where=str(path), cure=_CURE, code=ExitCode.INVALID_MODEL)


def _cause(error: SafetensorError) -> OSError:
    """Return the operating system's error, of which safetensors passes the number on in words."""
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, os.strerror(number))
