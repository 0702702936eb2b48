"""The coordinator's side of one attempt of secure aggregation.

Steps (Bonawitz et al. 2017, section 5 and figure 4). Before them the driver broadcasts StartAttempt with the
adapter; after them it sends AttemptOver.

0. Collect advertised keys until all silos answered, or t at the deadline; send the roster U1.
1. Collect sealed shares from U1; give each silo of U2 what the others of U2 sealed for it.
2. Collect masked vectors from U2 (deadline: `compute_seconds`) and add them mod 2^32; name the survivors U3.
3. Collect signatures over U3; hand them round as the proof.
4. Collect shares; take the masks off and release the sum over U3.

At each step: fewer than t silos that can still answer ends the attempt with no sum. A silo counts as lost when it
refuses, misses a deadline, answers with something malformed, or its process is gone; it has no further part in the
attempt. What it sent before stays valid where others already build on it: a vector that arrived remains in the sum.
The first answer of a silo to a step counts; anything else it sends, and anything of another attempt, is passed over.

Adversary here: silos that send anything. The coordinator's checks serve the attempt's success only; no silo relies
on them. That a message comes from the silo it names is the transport's guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from foedus_contract.errors import InvalidInput
from foedus_contract.wire import (
    AdvertiseKeys,
    ConfirmSurvivors,
    CoordinatorMessage,
    DeliverShares,
    Join,
    MaskedVector,
    Offer,
    Refuse,
    Roster,
    ShareKeys,
    SiloMessage,
    SurvivorProof,
    Survivors,
    Unmask,
)
from foedus_workloads.secagg.effects import (
    Aborted,
    AttemptContext,
    Released,
    SendTo,
    SetDeadline,
    Step,
    Vector,
)
from foedus_workloads.secagg.masks import vector_from_bytes
from foedus_workloads.secagg.membership import (
    Membership,
    check_keys_signature,
    check_signature,
    read_membership,
    survivors_statement,
)
from foedus_workloads.secagg.unmask import check_unmask, unmask_total


class CoordinatorStage(Enum):
    """What the coordinator collects."""

    KEYS = "AdvertiseKeys"
    SHARES = "ShareKeys"
    VECTORS = "MaskedVector"
    CONFIRMATIONS = "ConfirmSurvivors"
    UNMASKING = "Unmask"
    ENDED = "nothing"


@dataclass(frozen=True)
class CoordinatorAttempt:
    """The coordinator's state in one attempt; `dropped` says why each lost silo was lost, `began` when stages began."""

    context: AttemptContext
    identities: Mapping[str, bytes]
    stage_seconds: float
    compute_seconds: float
    deadline: float
    awaited: frozenset[str]
    stage: CoordinatorStage = CoordinatorStage.KEYS
    answers: Mapping[str, SiloMessage] = field(default_factory=dict, repr=False)
    dropped: Mapping[str, str] = field(default_factory=dict)
    membership: Membership | None = None
    sharers: frozenset[str] = frozenset()
    survivors: frozenset[str] = frozenset()
    total: Vector | None = field(default=None, repr=False)
    began: Mapping[CoordinatorStage, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """True after Released or Aborted."""
        return self.stage is CoordinatorStage.ENDED


def start_coordinator(
    context: AttemptContext,
    silos: frozenset[str],
    stage_seconds: float,
    compute_seconds: float,
    now: float,
    *,
    identities: Mapping[str, bytes] | None = None,
) -> Step[CoordinatorAttempt]:
    """Begin an attempt with the silos that were sent StartAttempt.

    With `identities` (Ed25519 public keys by silo) a silo whose signature is not valid counts as lost; without, its
    signature makes the other silos refuse and the attempt abort.
    """
    deadline = now + stage_seconds
    state = CoordinatorAttempt(
        context=context,
        identities=dict(identities or {}),
        stage_seconds=stage_seconds,
        compute_seconds=compute_seconds,
        deadline=deadline,
        awaited=silos,
    )
    step = _settle(state, now)
    return step if step.state.ended else Step(state, (SetDeadline(deadline),))


def coordinator_receives(
    state: CoordinatorAttempt, message: SiloMessage, payload: bytes, now: float
) -> Step[CoordinatorAttempt]:
    """Take one message of a silo; the step that it completes, or nothing."""
    if isinstance(message, Join | Offer) or message.id != state.context.id:
        return Step(state)
    if isinstance(message, Refuse):
        return coordinator_loses(state, message.silo, now, reason=f"refused: {message.reason}")
    if message.silo not in state.awaited or message.kind != state.stage.value:
        return Step(state)
    try:
        state = _accept(state, message, payload)
    except InvalidInput as problem:
        return coordinator_loses(state, message.silo, now, reason=str(problem))
    answered = replace(state, awaited=state.awaited - {message.silo}, answers={**state.answers, message.silo: message})
    return _settle(answered, now)


def coordinator_times_out(state: CoordinatorAttempt, now: float) -> Step[CoordinatorAttempt]:
    """Count every silo that has not answered as lost; does nothing before the deadline."""
    if state.ended or now < state.deadline:
        return Step(state)
    late = dict.fromkeys(state.awaited, f"sent no {state.stage.value} in time")
    return _settle(replace(state, awaited=frozenset(), dropped={**state.dropped, **late}), now)


def coordinator_loses(
    state: CoordinatorAttempt, silo: str, now: float, *, reason: str = "its process is gone"
) -> Step[CoordinatorAttempt]:
    """Count one silo as lost for the rest of the attempt."""
    if state.ended or silo in state.dropped or silo not in state.awaited | set(state.answers):
        return Step(state)
    answers = dict(state.answers)
    if state.stage in {CoordinatorStage.KEYS, CoordinatorStage.SHARES}:
        answers.pop(silo, None)  # nobody builds on it yet, so leaving it out now costs no recovery later
    lost = replace(state, awaited=state.awaited - {silo}, answers=answers, dropped={**state.dropped, silo: reason})
    return _settle(lost, now)


def _accept(state: CoordinatorAttempt, message: SiloMessage, payload: bytes) -> CoordinatorAttempt:
    """Return the state with what the message adds to it; raises InvalidInput when the message is malformed."""
    if payload and not isinstance(message, MaskedVector):
        raise InvalidInput("it must have no payload", where=message.kind)
    match message:
        case AdvertiseKeys():
            _check_keys(state, message)
        case ShareKeys():
            peers = {name for name in _membership(state).entries if name != message.silo}
            if set(message.ciphertexts) != peers:
                raise InvalidInput("it is not for exactly the other silos of the roster", where="ShareKeys")
        case MaskedVector():
            return _add_vector(state, message, payload)
        case ConfirmSurvivors():
            _check_confirmation(state, message)
        case Unmask():
            check_unmask(message, survivors=state.survivors, sharers=state.sharers)
    return state


def _check_keys(state: CoordinatorAttempt, message: AdvertiseKeys) -> None:
    read_membership(state.context, (message, *_entries(state)))
    if message.silo in state.identities:
        check_keys_signature(state.context, message, state.identities[message.silo])


def _check_confirmation(state: CoordinatorAttempt, message: ConfirmSurvivors) -> None:
    if message.silo in state.identities:
        statement = survivors_statement(state.context, _membership(state), tuple(sorted(state.survivors)))
        check_signature(state.identities[message.silo], message.signature, statement, what="the survivors")


def _add_vector(state: CoordinatorAttempt, message: MaskedVector, payload: bytes) -> CoordinatorAttempt:
    if message.coordinates != state.context.coordinates:
        raise InvalidInput(f"the vector must have {state.context.coordinates} coordinates", where="MaskedVector")
    vector = vector_from_bytes(payload, state.context.coordinates)
    return replace(state, total=vector if state.total is None else state.total + vector)


def _settle(state: CoordinatorAttempt, now: float) -> Step[CoordinatorAttempt]:
    """End the attempt when t answers are out of reach, go on when every silo answered, else wait."""
    if state.ended:
        return Step(state)
    able = state.awaited | set(state.answers)
    if state.stage is not CoordinatorStage.UNMASKING:
        able -= set(state.dropped)  # whoever answered and is gone cannot answer the next step
    if len(able) < state.context.threshold:
        return _abort(state, f"{len(able)} silos left, {state.context.threshold} are needed")
    return Step(state) if state.awaited else _advance(state, now)


def _advance(state: CoordinatorAttempt, now: float) -> Step[CoordinatorAttempt]:
    answered = frozenset(state.answers)
    match state.stage:
        case CoordinatorStage.KEYS:
            entries = _entries(state)
            state = replace(state, membership=read_membership(state.context, entries))
            roster = Roster(id=state.context.id, entries=entries)
            return _enter(state, CoordinatorStage.SHARES, dict.fromkeys(answered, roster), now)
        case CoordinatorStage.SHARES:
            return _enter(replace(state, sharers=answered), CoordinatorStage.VECTORS, _deliveries(state), now)
        case CoordinatorStage.VECTORS:
            survivors = Survivors(id=state.context.id, survivors=tuple(sorted(answered)))
            state = replace(state, survivors=answered)
            return _enter(state, CoordinatorStage.CONFIRMATIONS, dict.fromkeys(answered, survivors), now)
        case CoordinatorStage.CONFIRMATIONS:
            signatures = {
                name: answer.signature
                for name, answer in sorted(state.answers.items())
                if isinstance(answer, ConfirmSurvivors)
            }
            proof = SurvivorProof(id=state.context.id, signatures=signatures)
            return _enter(state, CoordinatorStage.UNMASKING, dict.fromkeys(answered, proof), now)
        case _:
            return _release(state)


def _enter(
    state: CoordinatorAttempt, stage: CoordinatorStage, messages: Mapping[str, CoordinatorMessage], now: float
) -> Step[CoordinatorAttempt]:
    """Begin `stage` with the silos of `messages` that are still there."""
    awaited = frozenset(messages) - set(state.dropped)
    seconds = state.compute_seconds if stage is CoordinatorStage.VECTORS else state.stage_seconds
    began = {**state.began, stage: now}
    state = replace(state, stage=stage, awaited=awaited, answers={}, deadline=now + seconds, began=began)
    sends = tuple(SendTo(name, messages[name]) for name in sorted(awaited))
    return Step(state, (*sends, SetDeadline(state.deadline)))


def _deliveries(state: CoordinatorAttempt) -> Mapping[str, DeliverShares]:
    shared = {name: answer for name, answer in sorted(state.answers.items()) if isinstance(answer, ShareKeys)}
    return {
        receiver: DeliverShares(
            id=state.context.id,
            ciphertexts={
                sender: answer.ciphertexts[receiver] for sender, answer in shared.items() if sender != receiver
            },
        )
        for receiver in shared
    }


def _release(state: CoordinatorAttempt) -> Step[CoordinatorAttempt]:
    assert state.total is not None
    answers = {name: answer for name, answer in state.answers.items() if isinstance(answer, Unmask)}
    try:
        total = unmask_total(
            state.total,
            state.context,
            _membership(state),
            answers,
            survivors=state.survivors,
            sharers=state.sharers,
        )
    except InvalidInput as problem:
        return _abort(state, str(problem))
    return Step(_finished(state), (Released(total, tuple(sorted(state.survivors))),))


def _abort(state: CoordinatorAttempt, reason: str) -> Step[CoordinatorAttempt]:
    return Step(_finished(state), (Aborted(reason, tuple(sorted(state.dropped))),))


def _finished(state: CoordinatorAttempt) -> CoordinatorAttempt:
    return replace(state, stage=CoordinatorStage.ENDED, awaited=frozenset(), answers={}, total=None)


def _entries(state: CoordinatorAttempt) -> tuple[AdvertiseKeys, ...]:
    entries = (answer for _, answer in sorted(state.answers.items()))
    return tuple(entry for entry in entries if isinstance(entry, AdvertiseKeys))


def _membership(state: CoordinatorAttempt) -> Membership:
    assert state.membership is not None
    return state.membership
