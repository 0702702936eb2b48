"""What a coordinator and colluding silos see of an attempt, as a few small numbers whose distribution can be tested.

n = 4, t = 3: the smallest case. silo-01 and silo-02 are honest, and one mask between them is all that hides their
vectors. silo-04 colludes. silo-03 is lost after its upload (which is seen all the same), or colludes too: then t - 1
silos do. The state machines are the production ones; entropy is a keyed stream, one key a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy.stats import chi2_contingency

from foedus_contract.errors import InvalidInput
from foedus_contract.wire import (
    CoordinatorMessage,
    DeliverShares,
    Roster,
    SiloMessage,
    SurvivorProof,
    Survivors,
    Unmask,
)
from foedus_workloads.secagg import keys, masks, shamir
from foedus_workloads.secagg.effects import Contribute, Send, Vector
from foedus_workloads.secagg.membership import Membership
from foedus_workloads.secagg.silo import SiloAttempt, silo_contributes, silo_receives, start_silo
from support.secagg_world import keyed_entropy, make_context, make_identities, of_kind, public_key

COORDINATES = 2
ONE, TWO, THREE, FOUR = NAMES = tuple(f"silo-{index:02d}" for index in range(1, 5))
SPIES = {"one colludes, one is lost": (FOUR,), "two collude": (THREE, FOUR)}
CONTEXT = make_context(silos=4, coordinates=COORDINATES)
IDENTITIES = make_identities(4)
PINNED = {name: public_key(identity) for name, identity in IDENTITIES.items()}
# The sums of both worlds are the same; low and high bits of the vectors differ.
LEFT = {ONE: (1, 0x7000_0004), TWO: (6, 0x0000_000B), THREE: (9, 3), FOUR: (0, 0)}
RIGHT = {**LEFT, ONE: LEFT[TWO], TWO: LEFT[ONE]}


@dataclass(frozen=True)
class View:
    """The whole transcript: what everybody said, the uploads, and the spies' states and keys, not yet erased."""

    said: Mapping[str, tuple[SiloMessage, ...]]
    uploads: Mapping[str, Vector]
    spies: Mapping[str, SiloAttempt]
    privates: Mapping[str, bytes]

    @property
    def membership(self) -> Membership:
        membership = self.spies[FOUR].membership
        assert membership is not None
        return membership


class Attempt:
    """One attempt under way: everybody's states, and what was said."""

    def __init__(self, vectors: Mapping[str, tuple[int, ...]], seed: object) -> None:
        self._vectors = vectors
        self._entropies = {name: keyed_entropy(seed, name) for name in NAMES}
        steps = {name: start_silo(CONTEXT, IDENTITIES[name], PINNED, self._entropies[name]) for name in NAMES}
        self.states = {name: step.state for name, step in steps.items()}
        self.said: dict[str, list[SiloMessage]] = {name: [step.state.advertised] for name, step in steps.items()}
        self.uploads: dict[str, Vector] = {}

    def hear(self, name: str, message: CoordinatorMessage) -> None:
        """Give one silo one message and keep what it says."""
        step = silo_receives(self.states[name], message, self._entropies[name])
        if of_kind(step.effects, Contribute):
            step = silo_contributes(step.state, np.array(self._vectors[name], dtype=np.uint32))
        self.states[name] = step.state
        for send in of_kind(step.effects, Send):
            self.said[name].append(send.message)
            if send.payload:
                self.uploads[name] = masks.vector_from_bytes(send.payload, COORDINATES)


def play(vectors: Mapping[str, tuple[int, ...]], spies: tuple[str, ...], seed: object) -> View:
    """Run one attempt to its end; silo-03 is lost after its upload unless it is a spy."""
    survivors = tuple(sorted({ONE, TWO, *spies}))
    attempt = Attempt(vectors, seed)
    said = attempt.said
    privates = {name: attempt.states[name].masking_private for name in spies}
    roster = Roster(id=CONTEXT.id, entries=tuple(said[name][0] for name in NAMES))
    for name in NAMES:
        attempt.hear(name, roster)
    for name in NAMES:
        texts = {sender: said[sender][1].ciphertexts[name] for sender in NAMES if sender != name}
        attempt.hear(name, DeliverShares(id=CONTEXT.id, ciphertexts=texts))
    told = {name: attempt.states[name] for name in spies}
    for name in survivors:
        attempt.hear(name, Survivors(id=CONTEXT.id, survivors=survivors))
    signatures = {name: said[name][-1].signature for name in survivors}
    for name in survivors:
        attempt.hear(name, SurvivorProof(id=CONTEXT.id, signatures=signatures))
    return View({name: tuple(messages) for name, messages in said.items()}, attempt.uploads, told, privates)


def secret(view: View, kind: str, of: str) -> bytes | None:
    """Return the secret behind the shares that were given, and the spies' own; None when they are too few."""
    points = view.membership.points()
    answers = [message for messages in view.said.values() for message in messages if isinstance(message, Unmask)]
    shares = {points[answer.silo]: getattr(answer, f"{kind}_shares").get(of) for answer in answers}
    shares |= {points[spy]: getattr(state.held[of], kind) for spy, state in view.spies.items()}
    try:
        return shamir.recover({x: share for x, share in shares.items() if share}, threshold=CONTEXT.threshold)
    except InvalidInput:
        return None


def residual(view: View, silo: str) -> Vector:
    """Return the silo's upload without every mask that the view allows to take off."""
    membership = view.membership
    total = view.uploads[silo].copy()
    seed = secret(view, "self_mask", silo)
    if seed is not None:
        total -= masks.expand(keys.self_mask_key(seed, CONTEXT, membership, silo=silo), COORDINATES)
    own = secret(view, "masking_key", silo)
    for peer in (name for name in NAMES if name != silo):
        theirs = view.privates.get(peer) or secret(view, "masking_key", peer)
        if own is None and theirs is None:
            continue
        holder, first, second = (own, silo, peer) if own is not None else (theirs, peer, silo)
        private = X25519PrivateKey.from_private_bytes(holder or b"")
        key = keys.pair_mask_key(private, CONTEXT, membership, own=first, peer=second)
        masks.remove_pair_mask(total, masks.expand(key, COORDINATES), own=silo, peer=peer)
    return total


def _low(value: object, bits: int = 4) -> int:
    return int(value) & ((1 << bits) - 1)


def statistics(view: View) -> dict[str, int]:
    """Sixteen cells each: of uploads, of what is left of them, of both together, of shares and ciphertexts."""
    first, second = residual(view, ONE), residual(view, TWO)
    uploads = view.uploads
    answer = next(message for message in view.said[ONE] if isinstance(message, Unmask))
    return {
        "upload of 1": _low(uploads[ONE][0]),
        "upload of 2": _low(uploads[TWO][0]),
        "upload of 3": _low(uploads[THREE][0]),
        "sum of uploads": _low((uploads[ONE] + uploads[TWO])[0]),
        "within the upload of 1": _low(np.diff(uploads[ONE])[0]),
        "rest of 1": _low(first[0]),
        "rest of 2": _low(second[0]),
        "rest of 1, high": int(first[1]) >> 28,
        "rests of 1 and 2": _low(first[0], 2) | _low(second[0], 2) << 2,
        "rest of 1 beside the upload of 2": _low(first[0] ^ uploads[TWO][0]),
        "share of the seed of 1": _low(answer.self_mask_shares[ONE][-1]),
        "a spy's share of the key of 1": _low(view.spies[FOUR].held[ONE].masking_key[-1]),
        "ciphertext of 1 for 2": _low(view.said[ONE][1].ciphertexts[TWO][-1]),
    }


def cells(world: str, spies: tuple[str, ...], first: int, last: int) -> list[dict[str, int]]:
    """The statistics of runs `first` to `last` in a world; no seed occurs in both worlds."""
    vectors = {"left": LEFT, "right": RIGHT}[world]
    return [statistics(play(vectors, spies, (world, run))) for run in range(first, last)]


def p_values(left: Sequence[Mapping[str, int]], right: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Return for each statistic the p-value of "both worlds are alike", by χ² over sixteen cells."""
    found = {}
    for name in left[0]:
        table = np.array([np.bincount([each[name] for each in world], minlength=16) for world in (left, right)])
        table = table[:, table.sum(axis=0) > 0]
        found[name] = float(chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0
    return found
