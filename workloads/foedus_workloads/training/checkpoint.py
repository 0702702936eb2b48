"""Checkpoints of the coordinator: adapter and optimiser's velocities in one safetensors file, named by its digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from foedus_contract import limits
from foedus_contract.canonical import bytes_digest
from foedus_contract.durable import unwritable, write_durably
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode

Adapter = dict[str, npt.NDArray[np.float32]]
Velocity = dict[str, npt.NDArray[np.float64]]

ADAPTER, VELOCITY = "adapter/", "velocity/"  # what a tensor's name begins with
# Adapter in float32, and velocities in float64 of about as many coordinates.
MAX_CHECKPOINT_BYTES = 4 * limits.MAX_PAYLOAD_BYTES


class CheckpointStore:
    """The checkpoint of one job in one folder; names begin with `prefix`."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix

    def save(self, content: bytes) -> str:
        """Make a checkpoint durable beside the one before; return its digest. Raises Unavailable."""
        digest = bytes_digest(content)
        path = self._path(digest)
        try:
            write_durably(path, content)
        except OSError as error:
            raise unwritable(path, error) from error
        return digest

    def load(self, digest: str) -> bytes:
        """Return the checkpoint; raises InvalidInput unless it is there, whole."""
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_CHECKPOINT_BYTES)
        except OSError as error:
            raise _damaged(path, error.strerror or type(error).__name__) from None
        if bytes_digest(content) != digest:
            raise _damaged(path, "it is not what the journal names")
        return content

    def keep_only(self, digest: str) -> None:
        """Remove the others, once the journal names this one."""
        for path in self._folder.glob(f"{self._prefix}-*.safetensors*"):
            if path != self._path(digest):
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{self._prefix}-{digest.partition(':')[2][:16]}.safetensors"


def pack_checkpoint(adapter: Mapping[str, npt.NDArray[np.float32]], velocity: Mapping[str, object]) -> bytes:
    """Return both as safetensors; the same values give the same bytes."""
    tensors = {ADAPTER + name: value for name, value in adapter.items()}
    tensors |= {VELOCITY + name: np.asarray(value, np.float64) for name, value in velocity.items()}
    return bytes(safetensors.numpy.save(tensors))


def unpack_checkpoint(content: bytes) -> tuple[Adapter, Velocity]:
    """Return what `pack_checkpoint` was given; raises InvalidInput on anything else."""
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError):
        raise _damaged(Path("checkpoint"), "it is not safetensors") from None
    adapter = {name.removeprefix(ADAPTER): value for name, value in tensors.items() if name.startswith(ADAPTER)}
    velocity = {name.removeprefix(VELOCITY): value for name, value in tensors.items() if name.startswith(VELOCITY)}
    return adapter, velocity


def _damaged(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"the checkpoint cannot be used ({why})",
        where=str(path),
        cure="start a new job; what was charged stays charged",
        code=ExitCode.INVALID_DATA,
    )
