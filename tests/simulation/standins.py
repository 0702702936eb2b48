"""Cheap stand-ins for key agreement, signatures and encodings, which keep their structure and not their security.

Whoever has X25519's place agrees symmetrically and only with the right private key; a signature is bound to public
key and message; a derived key is bound to secret and purpose. Nobody in the simulation forges or listens. Real in
every world: Shamir's sharing, ChaCha20 masks, ChaCha20-Poly1305 around shares, SHA-256 digests, journals, ledger
transitions, sessions. Standing in, in cheap worlds only:

- X25519 by exponentiation modulo 2^61 - 1, HKDF by BLAKE2b, Ed25519 by BLAKE2b over public key and message;
- the broadcast's ECDSA signature and certificate by BLAKE2b over the statement;
- frames, which pass as objects;
- `dataclasses.replace` in the machines by a copy that does not check the names of fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from cryptography.exceptions import InvalidSignature

from foedus_contract.canonical import bytes_digest
from foedus_contract.errors import InvalidInput
from foedus_contract.plan import TrainingPlan
from foedus_contract.wire import StartAttempt, broadcast_to_sign
from foedus_workloads.secagg import coordinator, keys, membership, silo, unmask
from foedus_workloads.training import coordinator_job, coordinator_state, silo_job
from foedus_workloads.transport import mailbox, sessions
from simulation import wire

PRIME = 2**61 - 1
GENERATOR = 37


class CheapPublicKey:
    """In the place of X25519PublicKey."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    @classmethod
    def from_public_bytes(cls, content: bytes) -> CheapPublicKey:
        return cls(content)

    def public_bytes_raw(self) -> bytes:
        return self.content


class CheapPrivateKey:
    """In the place of X25519PrivateKey."""

    def __init__(self, exponent: int) -> None:
        self._exponent = exponent

    @classmethod
    def from_private_bytes(cls, content: bytes) -> CheapPrivateKey:
        return cls(int.from_bytes(content[:5], "big"))

    def public_key(self) -> CheapPublicKey:
        return CheapPublicKey(pow(GENERATOR, self._exponent, PRIME).to_bytes(32, "big"))

    def exchange(self, peer: CheapPublicKey) -> bytes:
        return pow(int.from_bytes(peer.content, "big"), self._exponent, PRIME).to_bytes(32, "big")


class CheapHkdf:
    """In the place of HKDF."""

    def __init__(self, *, algorithm: object, length: int, salt: None, info: bytes) -> None:
        self._length, self._info = length, info

    def derive(self, secret: bytes) -> bytes:
        return hashlib.blake2b(self._info, key=secret, digest_size=self._length).digest()


class CheapSigningKey:
    """In the place of an Ed25519 key pair."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    @classmethod
    def from_private_bytes(cls, content: bytes) -> CheapSigningKey:
        return cls(hashlib.blake2b(content, digest_size=32).digest())

    def public_key(self) -> CheapPublicKey:
        return CheapPublicKey(self._public)

    def sign(self, statement: bytes) -> bytes:
        return hashlib.blake2b(statement, key=self._public).digest()


class CheapVerifyKey(CheapPublicKey):
    """In the place of Ed25519PublicKey."""

    @classmethod
    def from_public_bytes(cls, content: bytes) -> CheapVerifyKey:
        return cls(content)

    def verify(self, signature: bytes, statement: bytes) -> None:
        if signature != hashlib.blake2b(statement, key=self.content).digest():
            raise InvalidSignature


@dataclass(frozen=True)
class CheapSigner:
    """In the place of BroadcastSigner and BroadcastChecker."""

    key: bytes = b"coordinator"

    def sign(self, start: StartAttempt, plan: TrainingPlan, plan_digest: str) -> StartAttempt:
        return start.model_copy(update={"signature": self._signature(start, plan, plan_digest)})

    def check(self, start: StartAttempt, payload: bytes, plan: TrainingPlan, plan_digest: str) -> None:
        if bytes_digest(payload) != start.adapter_digest:
            raise InvalidInput("the adapter is not the one that is named", where="StartAttempt")
        if start.signature != self._signature(start, plan, plan_digest):
            raise InvalidInput("the broadcast is not signed by this job's coordinator", where="StartAttempt")

    def _signature(self, start: StartAttempt, plan: TrainingPlan, plan_digest: str) -> bytes:
        statement = broadcast_to_sign(start, job_uid=plan.uid, plan_digest=plan_digest)
        return hashlib.blake2b(statement, key=self.key).digest()


def fast_replace(value: Any, **changes: Any) -> Any:
    """Return what `dataclasses.replace` returns for classes without slots and without `__post_init__`."""
    new = object.__new__(type(value))
    new.__dict__.update(value.__dict__)
    new.__dict__.update(changes)
    return new


COPYING = (silo, coordinator, silo_job, coordinator_job, coordinator_state, mailbox)
REPLACED = (
    *((module, "replace", fast_replace) for module in COPYING),
    (keys, "X25519PrivateKey", CheapPrivateKey),
    (keys, "X25519PublicKey", CheapPublicKey),
    (keys, "HKDF", CheapHkdf),
    (silo, "X25519PrivateKey", CheapPrivateKey),
    (unmask, "X25519PrivateKey", CheapPrivateKey),
    (membership, "Ed25519PublicKey", CheapVerifyKey),
    (sessions, "encode_frame", lambda message, payload=b"": (message, payload)),
    (wire, "exact", False),
)


@contextmanager
def cheap() -> Iterator[None]:
    """Put the stand-ins in place while the block runs."""
    with ExitStack() as stack:
        for module, name, standin in REPLACED:
            stack.enter_context(patch.object(module, name, standin))
        yield
