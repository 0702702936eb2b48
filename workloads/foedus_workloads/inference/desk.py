"""A party's side of one client's session, as a state machine without effects.

1. Open: the client says what the session will be about. Another model, sharing, program or fraction is refused here,
   before the client has sent anything secret; the answer holds the digest of the terms as this party makes it.
2. Input: names, types and shapes are compared with what the program takes before the payload is read.
3. The session with the two neighbours runs outside; this makes the messages about it.

The driver owns clock and connection. What raises ends the session; `failure` is what the client is told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from foedus_contract.errors import FoedusError, InvalidInput, Refused, describe_defect
from foedus_contract.exit_codes import ExitCode
from foedus_contract.inference_wire import (
    INFERENCE_PROTOCOL_VERSION,
    MAX_WORDS,
    Computing,
    Failure,
    Input,
    Open,
    Output,
    Ready,
)
from foedus_contract.mpc_wire import DEALER, SessionTerms, member_name
from foedus_workloads.inference.shares import ShareLabel
from foedus_workloads.inference.task import SAME_FILES, Task, Tasks, named_header
from foedus_workloads.mpc.wire import buffer, bytes_in, kind_of, tensor_header

_MEMBERS = {member: member_name(member) for member in range(DEALER + 1)}


class Desk:
    """One client's session at one party."""

    def __init__(self, label: ShareLabel, incarnation: int, tasks: Tasks) -> None:
        self._label, self._incarnation, self._tasks = label, incarnation, tasks
        self._asked: Open | None = None
        self._rooms: dict[str, np.ndarray] = {}
        self._task: Task | None = None

    @property
    def terms(self) -> SessionTerms:
        """What was agreed on; only after `open`."""
        assert self._asked is not None
        return self._asked.terms

    @property
    def task(self) -> Task:
        """What is to be computed; only after `open`."""
        assert self._task is not None
        return self._task

    def open(self, header: bytes) -> bytes:
        """Take the first message and return Ready; raises Refused or InvalidInput."""
        asked = Open.from_json(header)
        if asked.version != INFERENCE_PROTOCOL_VERSION:
            raise self._refused(
                f"the client speaks version {asked.version} of the protocol, here it is {INFERENCE_PROTOCOL_VERSION}"
            )
        if asked.model_digest != self._label.model_digest:
            raise self._refused(
                f"the client asks for the model {asked.model_digest}, here are shares of {self._label.model_digest}"
            )
        terms, label = asked.terms, self._label
        if (terms.protocol, terms.parties) != (label.protocol, label.parties):
            raise self._refused(
                f"the client asks for {terms.protocol} by {terms.parties} parties, here are shares for "
                f"{label.protocol} by {label.parties}"
            )
        if (terms.model_digest, terms.fraction) != (label.digest, label.fraction):
            raise self._refused("the client asks for another sharing of the model")
        task = self._tasks(asked.tokens)
        if asked.terms.program_digest != task.digest:
            raise self._refused("the client's program is another one")
        self._asked, self._task = asked, task
        ready = Ready(party=self._label.party, incarnation=self._incarnation, terms_digest=asked.terms.digest)
        return ready.to_json()

    def announce(self, header: bytes) -> tuple[memoryview, ...]:
        """Check an Input's header and return what its payload fills, in order; raises InvalidInput."""
        message = Input.from_json(header)
        if message.session != self.terms.session:
            raise InvalidInput("the input is of another session", where="Input")
        if message.tensors != tuple(named_header(name, kind) for name, kind in self.task.inputs.items()):
            raise InvalidInput("the input has other tensors than the program takes", where="Input")
        self._rooms = {name: buffer(kind) for name, kind in self.task.inputs.items()}
        return tuple(map(bytes_in, self._rooms.values()))

    def inputs(self) -> Mapping[str, Tensor]:
        """Return the input's shares, once; after its payload has come."""
        rooms, self._rooms = self._rooms, {}
        return {name: torch.from_numpy(room) for name, room in rooms.items()}

    def computing(self, rounds: int) -> bytes:
        """Return the message that says how many rounds have begun."""
        return Computing(session=self.terms.session, rounds=rounds).to_json()

    def output(self, summand: Tensor, rounds: int, bytes_sent: int) -> bytes:
        """Return the header of the result."""
        tensor = tensor_header(kind_of(summand))
        return Output(session=self.terms.session, tensor=tensor, rounds=rounds, bytes_sent=bytes_sent).to_json()

    def _refused(self, what: str) -> Refused:
        return Refused(what, where=member_name(self._label.party), cure=SAME_FILES, code=ExitCode.INVALID_MODEL)


def failure(party: int, error: Exception) -> bytes:
    """Return what a client is told of the end of its session; of a defect only its place: its text may hold data."""
    blamed, code = party, ExitCode.INTERNAL
    if isinstance(error, FoedusError):
        blamed, code = _blamed(error, party), error.code
        where = error.where if error.where in _MEMBERS.values() else member_name(party)
        words = str(FoedusError(error.what, where=where, cure=error.cure))
    else:
        words = f"{member_name(party)}: {describe_defect(error)}"
    return Failure(blames=blamed, code=int(code), message=words[:MAX_WORDS]).to_json()


def _blamed(error: FoedusError, party: int) -> int:
    return next((each for each, name in _MEMBERS.items() if error.where == name), party)
