"""What two parties must hold alike, as two running authenticators a party, and their comparison.

Steps for each pair of neighbours (i, i + 1):
1. Both draw a fresh key of 32 bytes from their common stream, which the third party does not know.
2. Whatever must be equal at both (a component that both hold, an opened message and what its other holder would have
   sent, a value that must be zero) goes into a GMAC under that key, in the program's order.
3. To compare, both send their tag to the third party. It tells nothing from a tag, for it lacks the key. Unequal
   tags end the session there. Equal or not, each waits for a word from both others before it goes on.
4. Then both show each other their tags, and unequal ones end the session; again each waits for a word from both.

With one party k that deviates, the pair of the two others is compared by step 4 whatever k says in step 3. For a pair
with k in it step 3 is judged by an honest third party, so k is shown an honest party's tag only when it equals k's own:
of values that are wrong it learns that they are wrong, and nothing by which it could try guesses of them.

Two parties that hold different strings pass with probability below 2^-80: k does not know the key of the others, and
GHASH of at most 2^40 blocks under a random key collides with 2^-88.

A key serves one comparison. Adversary, assumptions: the package's.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, algorithms, modes
from torch import Tensor

from foedus_workloads.mpc.malicious.errors import cheated
from foedus_workloads.mpc.malicious.wire import as_bytes, as_tensor, has_content, short
from foedus_workloads.mpc.party import Party, to_wire
from foedus_workloads.mpc.ring import combination
from foedus_workloads.mpc.rounds import Exchange, Operation
from foedus_workloads.mpc.streams import KEY_BYTES
from foedus_workloads.mpc.wire import bytes_of

TAG_BYTES = 16
_NONCE = bytes(12)  # the key is used once
_KEY_SLOT = 0
_PIECE = 1 << 28  # bytes given to OpenSSL at once
_WORD = b"\x01"  # what parties say to each other when a comparison has passed


class Transcripts:
    """What this party holds alike with its next and with its previous party, since the last comparison."""

    def __init__(self, party: Party) -> None:
        step = party.begin()
        keys = [step.draw_narrow(each, _KEY_SLOT, (KEY_BYTES,), 8) for each in (party.following, party.index)]
        self._next, self._previous = (_authenticator(as_bytes(key)) for key in keys)

    def with_next(self, values: Tensor, bits: int) -> None:
        """Note values mod 2^bits that the next party holds too."""
        _feed(self._next, values, bits)

    def with_previous(self, values: Tensor, bits: int) -> None:
        """Note values mod 2^bits that the previous party holds too."""
        _feed(self._previous, values, bits)

    def opened(self, missing: Tensor, held: Tensor, bits: int) -> None:
        """Note an opening to all: the component that came, and the second own one, which the previous party is sent."""
        self.with_next(missing, bits)
        self.with_previous(held, bits)

    def zero(self, own: Tensor, following: Tensor, bits: int) -> None:
        """Note that a sharing is of zero: the third component, which the next party holds, follows from these two."""
        self.with_next(combination([(own, -1), (following, -1)]), bits)
        self.with_previous(following, bits)

    def zero_words(self, own: Tensor, following: Tensor) -> None:
        """Note the same of Boolean words."""
        self.with_next(own ^ following, 64)
        self.with_previous(following, 64)

    def tags(self) -> tuple[bytes, bytes]:
        """Return the tags with the next and with the previous party; nothing can be noted any more."""
        return _tag(self._next), _tag(self._previous)


def compare(party: Party, transcripts: Transcripts) -> Operation[None]:
    """Compare all that was noted (steps 3 and 4): 4 rounds; raises JobFailed where something differs."""
    ahead, behind = map(as_tensor, transcripts.tags())
    # The third party of the pair with the next one is the previous one, and the other way round.
    received = yield _swap(to_previous=ahead, to_next=behind)
    _check(received.from_next[0], received.from_previous[0])
    yield from confirm()
    received = yield _swap(to_previous=behind, to_next=ahead)
    _check(received.from_next[0], ahead)
    _check(received.from_previous[0], behind)
    yield from confirm()


def confirm() -> Operation[None]:
    """Wait until both others are as far: 1 round. That their word came is all that it says."""
    yield _swap(to_previous=as_tensor(_WORD), to_next=as_tensor(_WORD))


def _swap(*, to_previous: Tensor, to_next: Tensor) -> Exchange:
    size = short(to_next.numel())
    return Exchange(to_previous=(to_previous,), to_next=(to_next,), from_previous=(size,), from_next=(size,))


def _check(left: Tensor, right: Tensor) -> None:
    if has_content(left) and not hmac.compare_digest(as_bytes(left), as_bytes(right)):
        raise cheated("the parties hold different values: one of them has deviated")


def _authenticator(key: bytes) -> AEADEncryptionContext:
    return Cipher(algorithms.AES256(key), modes.GCM(_NONCE)).encryptor()


def _feed(authenticator: AEADEncryptionContext, values: Tensor, bits: int) -> None:
    if not has_content(values):
        return
    content = bytes_of(to_wire(values, bits))
    for start in range(0, content.nbytes, _PIECE):
        authenticator.authenticate_additional_data(content[start : start + _PIECE])


def _tag(authenticator: AEADEncryptionContext) -> bytes:
    authenticator.finalize()
    return authenticator.tag
