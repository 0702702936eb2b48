"""Messages between silo and coordinator, and their one encoding.

A frame is `uint32 header length (big endian) || header || payload`. The header is a message of this module as
JSON; the payload is raw bytes (a masked vector of little-endian uint32, or an adapter as safetensors) or empty.
Every message but Join, Offer, Welcome and JobOver names its round and attempt; a receiver refuses any other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from foedus_contract import limits
from foedus_contract.canonical import domain_bytes
from foedus_contract.errors import InvalidInput
from foedus_contract.models import ContractModel, Digest, SiloName, first_problem

PROTOCOL_VERSION = 4  # 2: signed broadcasts, offers; 3: a Join bears the head of the silo's charge log; 4: its code
Key = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
Ciphertext = Annotated[bytes, Field(max_length=512)]
Share = Annotated[bytes, Field(max_length=128)]


class AttemptId(ContractModel):
    """Names one attempt of one round; both count from 0, and an attempt number is never used twice in a job."""

    round: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)]
    attempt: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)]


class StartAttempt(ContractModel):
    """The broadcast that opens an attempt; the payload is the common adapter as safetensors.

    It is all that a coordinator without its volume needs to go on, so it is signed: rounds and attempts done before it
    stand in `id`, `charged` is how many of these attempts may have been charged. `signature` (ECDSA with SHA-256) is
    by the key of `certificate` (DER), the coordinator's own in TLS.
    """

    kind: Literal["StartAttempt"] = "StartAttempt"
    id: AttemptId
    factor: Literal["A", "B", "None"]  # the active LoRA factor; None trains the head alone
    adapter_digest: Digest  # SHA-256 of the payload
    charged: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)] = 0
    certificate: Annotated[bytes, Field(max_length=4096)] = b""
    signature: Annotated[bytes, Field(max_length=128)] = b""


class LedgerHead(ContractModel):
    """Where a silo's charge log ends: how many releases it holds for the data, and the hash that fixes all its lines.

    Signed with the silo's identity key. Whoever has seen it knows a ledger of that data that holds less for an old one.
    """

    dataset: Digest
    count: Annotated[int, Field(ge=0, le=limits.MAX_CHARGES)]
    hash: Digest
    signature: Signature


class Join(ContractModel):
    """A silo is here: its incarnation, identity key, the plan it was given, the code it runs, its charge log's head."""

    kind: Literal["Join"] = "Join"
    protocol: int = PROTOCOL_VERSION
    silo: SiloName
    incarnation: Annotated[int, Field(ge=0)]
    identity: Key
    plan_digest: Digest
    code_digest: Digest
    head: LedgerHead


class AdvertiseKeys(ContractModel):
    """Stage 0: fresh X25519 public keys, signed with the silo's long-lived key together with what it was shown."""

    kind: Literal["AdvertiseKeys"] = "AdvertiseKeys"
    id: AttemptId
    silo: SiloName
    encryption_key: Key
    masking_key: Key
    signature: Signature


class ShareKeys(ContractModel):
    """Stage 1: for each peer, both shares in one AEAD ciphertext."""

    kind: Literal["ShareKeys"] = "ShareKeys"
    id: AttemptId
    silo: SiloName
    ciphertexts: dict[SiloName, Ciphertext]


class MaskedVector(ContractModel):
    """Stage 2: the masked, noised sum of clipped gradients; the payload is `coordinates` little-endian uint32."""

    kind: Literal["MaskedVector"] = "MaskedVector"
    id: AttemptId
    silo: SiloName
    coordinates: Annotated[int, Field(ge=1, le=limits.MAX_COORDINATES)]


class ConfirmSurvivors(ContractModel):
    """Stage 3: the silo's signature over the set of survivors it was shown."""

    kind: Literal["ConfirmSurvivors"] = "ConfirmSurvivors"
    id: AttemptId
    silo: SiloName
    signature: Signature


class Unmask(ContractModel):
    """Stage 4: self-mask shares of survivors, masking-key shares of the dropped; never both of one silo."""

    kind: Literal["Unmask"] = "Unmask"
    id: AttemptId
    silo: SiloName
    self_mask_shares: dict[SiloName, Share]
    masking_key_shares: dict[SiloName, Share]


class Offer(ContractModel):
    """The last broadcast that this silo was sent, None when there was none; the payload is that broadcast's."""

    kind: Literal["Offer"] = "Offer"
    silo: SiloName
    broadcast: StartAttempt | None = None


class Refuse(ContractModel):
    """The silo takes no further part in this attempt, and says why in one line."""

    kind: Literal["Refuse"] = "Refuse"
    id: AttemptId
    silo: SiloName
    reason: Annotated[str, Field(max_length=512)]


class Welcome(ContractModel):
    """The coordinator knows the silo; with `resume` it has no state and asks for an Offer."""

    kind: Literal["Welcome"] = "Welcome"
    incarnation: int
    resume: bool = False


class Roster(ContractModel):
    """The advertised keys of all silos that take part."""

    kind: Literal["Roster"] = "Roster"
    id: AttemptId
    entries: Annotated[tuple[AdvertiseKeys, ...], Field(max_length=limits.MAX_SILOS)]


class DeliverShares(ContractModel):
    """The ciphertexts meant for this silo, by sender; its keys are the silos that shared."""

    kind: Literal["DeliverShares"] = "DeliverShares"
    id: AttemptId
    ciphertexts: dict[SiloName, Ciphertext]


class Survivors(ContractModel):
    """The silos whose masked vectors arrived."""

    kind: Literal["Survivors"] = "Survivors"
    id: AttemptId
    survivors: Annotated[tuple[SiloName, ...], Field(max_length=limits.MAX_SILOS)]


class SurvivorProof(ContractModel):
    """The silos' signatures over one and the same set of survivors."""

    kind: Literal["SurvivorProof"] = "SurvivorProof"
    id: AttemptId
    signatures: dict[SiloName, Signature]


class AttemptOver(ContractModel):
    """The attempt has ended; anything still open in it is void."""

    kind: Literal["AttemptOver"] = "AttemptOver"
    id: AttemptId
    applied: bool
    reason: Annotated[str, Field(max_length=512)] = ""


class JobOver(ContractModel):
    """No further attempt will start."""

    kind: Literal["JobOver"] = "JobOver"
    outcome: str
    reason: Annotated[str, Field(max_length=512)] = ""


SiloMessage = Join | AdvertiseKeys | ShareKeys | MaskedVector | ConfirmSurvivors | Unmask | Offer | Refuse
CoordinatorMessage = Welcome | StartAttempt | Roster | DeliverShares | Survivors | SurvivorProof | AttemptOver | JobOver
Message = SiloMessage | CoordinatorMessage

_MESSAGE: TypeAdapter[Any] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode_frame(message: Message, payload: bytes = b"") -> bytes:
    """Return the bytes of one message and its payload."""
    header = message.to_json()
    return len(header).to_bytes(4, "big") + header + payload


def decode_frame(frame: bytes) -> tuple[Message, bytes]:
    """Parse one frame; raises InvalidInput on anything malformed, oversized or unknown."""
    length = int.from_bytes(frame[:4], "big")
    if len(frame) < 4 or length > min(limits.MAX_HEADER_BYTES, len(frame) - 4):
        raise InvalidInput("the header length is wrong", where="frame")
    if len(frame) - 4 - length > limits.MAX_PAYLOAD_BYTES:
        raise InvalidInput("the payload is too large", where="frame")
    try:
        message: Message = _MESSAGE.validate_json(frame[4 : 4 + length])
    except ValidationError as error:
        raise InvalidInput(first_problem(error), where="frame") from None
    return message, frame[4 + length :]


def keys_to_sign(
    attempt: AttemptId,
    *,
    job_uid: str,
    plan_digest: str,
    adapter_digest: str,
    silo: str,
    encryption_key: bytes,
    masking_key: bytes,
) -> bytes:
    """Return what AdvertiseKeys' signature covers: keys, attempt, job, plan and the model the silo was shown."""
    return domain_bytes(
        "foedus/secagg/keys",
        {
            "round": attempt.round,
            "attempt": attempt.attempt,
            "job": job_uid,
            "plan": plan_digest,
            "adapter": adapter_digest,
            "silo": silo,
            "encryptionKey": encryption_key,
            "maskingKey": masking_key,
        },
    )


def broadcast_to_sign(start: StartAttempt, *, job_uid: str, plan_digest: str) -> bytes:
    """Return what StartAttempt's signature covers: job, plan, attempt, adapter and what was charged before."""
    return domain_bytes(
        "foedus/training/broadcast",
        {
            "job": job_uid,
            "plan": plan_digest,
            "round": start.id.round,
            "attempt": start.id.attempt,
            "factor": start.factor,
            "adapter": start.adapter_digest,
            "charged": start.charged,
        },
    )


def survivors_to_sign(
    attempt: AttemptId,
    *,
    job_uid: str,
    roster_digest: str,
    survivors: tuple[str, ...],
) -> bytes:
    """Return what ConfirmSurvivors' signature covers: the sorted survivors and the roster they are part of."""
    return domain_bytes(
        "foedus/secagg/survivors",
        {
            "round": attempt.round,
            "attempt": attempt.attempt,
            "job": job_uid,
            "roster": roster_digest,
            "survivors": sorted(survivors),
        },
    )


def head_to_sign(dataset: str, count: int, hash_: str) -> bytes:
    """Return what LedgerHead's signature covers: all of it."""
    return domain_bytes("foedus/ledger/head", {"dataset": dataset, "count": count, "hash": hash_})
