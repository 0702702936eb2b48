"""The last signed broadcast that a silo was sent: what a coordinator without its volume goes on from."""

from __future__ import annotations

from pathlib import Path

from foedus_contract import limits
from foedus_contract.durable import unwritable, write_durably
from foedus_contract.errors import InvalidInput
from foedus_contract.wire import StartAttempt, decode_frame, encode_frame
from foedus_workloads.training.journal import name_of

MAX_FILE_BYTES = 4 + limits.MAX_HEADER_BYTES + limits.MAX_PAYLOAD_BYTES


class KeptBroadcast:
    """One file beside the job's journal, replaced as a whole."""

    def __init__(self, folder: Path, job_uid: str) -> None:
        self._path = folder / f"broadcast-{name_of(job_uid)}.frame"

    def write(self, start: StartAttempt, payload: bytes) -> None:
        """Make the broadcast durable in place of the one before; raises Unavailable."""
        try:
            write_durably(self._path, encode_frame(start, payload))
        except OSError as error:
            raise unwritable(self._path, error) from error

    def read(self) -> tuple[StartAttempt, bytes] | None:
        """Return the broadcast, None when there is none.

        A damaged file counts as none: other silos keep the same, and whoever is offered it checks the signature.
        """
        try:
            with self._path.open("rb") as file:
                message, payload = decode_frame(file.read(MAX_FILE_BYTES))
        except (OSError, InvalidInput):
            return None
        return (message, payload) if isinstance(message, StartAttempt) else None
