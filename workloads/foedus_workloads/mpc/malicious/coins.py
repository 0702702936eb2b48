"""Coins that nobody can choose: commit, then reveal, when everything that they decide on is fixed.

Steps:
1. Draw 32 bytes from the operating system; send both others SHA-256 of them, of the session, the step and the party.
2. When both commitments are there, send both others the bytes, and with them the commitment of the third as it came
   here.
3. A reveal that does not fit its commitment, or a commitment that another party saw differently, ends the session.
4. The seed is SHA-256 of the three parties' bytes in their order.

One party's coins are uniform and were fixed before it saw the others', so a seed is uniform whatever one party does,
unless it ends the session. What coins decide on must have arrived everywhere before step 2: that is the caller's
matter, and holds because a party reveals only after it has received all that it expects of earlier rounds.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus_workloads.mpc.malicious.errors import cheated
from foedus_workloads.mpc.malicious.wire import as_bytes, as_tensor, has_content, short
from foedus_workloads.mpc.party import PARTIES, Party
from foedus_workloads.mpc.rounds import Exchange, Operation
from foedus_workloads.mpc.streams import KEY_BYTES, expand

NONCE_BYTES, _COMMITMENT_BYTES = 32, 32
Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class Coins:
    """A seed of which nobody knew anything before it was made, and what is drawn from it."""

    seed: bytes
    planned: bool = False  # no content: a plan counts

    def draw(self, number: int, bits: int, shape: tuple[int, ...]) -> Tensor:
        """Return the seed's draw of this number, uniform mod 2^bits."""
        if self.planned:
            return torch.empty(shape, dtype=torch.int64, device="meta")
        return expand(self.seed, number, 0, bits, shape)

    def turn(self, number: int, units: int) -> int:
        """Return the seed's number in 0 to units - 1; it is uniform but for units / 2^63."""
        return 0 if self.planned else (int(self.draw(number, 63, (1,))) & (2**63 - 1)) % units


def toss(party: Party, session: bytes, entropy: Entropy) -> Operation[Coins]:
    """Return coins: 2 rounds; raises JobFailed when a reveal does not fit."""
    number = party.begin().number
    nonce = entropy(NONCE_BYTES)
    mine = commitment(session, number, party.index, nonce)
    received = yield _to_both(mine, mine)
    of_previous, of_next = as_bytes(received.from_previous[0]), as_bytes(received.from_next[0])
    received = yield _to_both(nonce + of_next, nonce + of_previous)
    from_previous, from_next = as_bytes(received.from_previous[0]), as_bytes(received.from_next[0])
    if not has_content(received.from_next[0]):
        return Coins(bytes(KEY_BYTES), planned=True)
    nonces = {party.index: nonce}
    # The previous party's other neighbour is this one's next, and the other way round.
    for other, seen, said, echo in (
        ((party.index - 1) % PARTIES, of_previous, from_previous, of_next),
        (party.following, of_next, from_next, of_previous),
    ):
        nonces[other] = said[:NONCE_BYTES]
        if not hmac.compare_digest(commitment(session, number, other, nonces[other]), seen):
            raise cheated("a party reveals other coins than it has committed to")
        if not hmac.compare_digest(said[NONCE_BYTES:], echo):
            raise cheated("a party has committed to different coins")
    return Coins(hashlib.sha256(b"foedus/mpc/coins\0" + b"".join(nonces[i] for i in range(PARTIES))).digest())


def commitment(session: bytes, number: int, party: int, nonce: bytes) -> bytes:
    """Return what a party sends of its bytes first."""
    place = b"foedus/mpc/commitment\0" + session + number.to_bytes(8, "big") + bytes([party])
    return hashlib.sha256(place + nonce).digest()


def _to_both(previous: bytes, following: bytes) -> Exchange:
    return Exchange(
        to_previous=(as_tensor(previous),),
        to_next=(as_tensor(following),),
        from_previous=(short(len(following)),),
        from_next=(short(len(previous)),),
    )
