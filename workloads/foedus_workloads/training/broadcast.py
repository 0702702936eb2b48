"""Who signed a broadcast: the coordinator's TLS key, whose certificate the job's own authority issued for serving.

A silo keeps the last broadcast, and a coordinator that lost its volume goes on from it; the signature is what keeps a
silo from making one up. Validity in time is not looked at: the same certificate was checked when the session opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from foedus_contract.canonical import bytes_digest
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import TrainingPlan
from foedus_contract.wire import StartAttempt, broadcast_to_sign

if TYPE_CHECKING:
    from foedus_workloads.transport.tls import TlsPaths

MAX_FILE_BYTES = 64 * 1024  # a certificate or key is below 4 KiB


@dataclass(frozen=True)
class BroadcastSigner:
    """The coordinator's certificate (DER) and key."""

    certificate: bytes
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def load(cls, files: TlsPaths) -> BroadcastSigner:
        """Read certificate and key; raises InvalidInput unless they are PEM and on an elliptic curve."""
        try:
            certificate = x509.load_pem_x509_certificate(_read(files.certificate))
            key = serialization.load_pem_private_key(_read(files.key), password=None)
        except (ValueError, TypeError):
            raise _unusable(files.certificate) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _unusable(files.key)
        return cls(certificate.public_bytes(serialization.Encoding.DER), key)

    def sign(self, start: StartAttempt, plan: TrainingPlan, plan_digest: str) -> StartAttempt:
        """Return the broadcast with certificate and signature; the same broadcast gives the same bytes."""
        statement = broadcast_to_sign(start, job_uid=plan.uid, plan_digest=plan_digest)
        # RFC 6979: no second source of randomness, so a run can be replayed.
        signature = self.key.sign(statement, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        return start.model_copy(update={"certificate": self.certificate, "signature": signature})


@dataclass(frozen=True)
class BroadcastChecker:
    """The job's authority and the coordinator's DNS name."""

    authority: x509.Certificate
    hostname: str

    @classmethod
    def load(cls, files: TlsPaths, hostname: str) -> BroadcastChecker:
        """Read the authority's certificate; raises InvalidInput unless it is PEM."""
        try:
            return cls(x509.load_pem_x509_certificate(_read(files.ca)), hostname)
        except ValueError:
            raise _unusable(files.ca) from None

    def check(self, start: StartAttempt, payload: bytes, plan: TrainingPlan, plan_digest: str) -> None:
        """Raise InvalidInput unless the job's coordinator signed this broadcast of this adapter."""
        if bytes_digest(payload) != start.adapter_digest:
            raise InvalidInput("the adapter is not the one that is named", where="StartAttempt")
        statement = broadcast_to_sign(start, job_uid=plan.uid, plan_digest=plan_digest)
        try:
            certificate = x509.load_der_x509_certificate(start.certificate)
            certificate.verify_directly_issued_by(self.authority)
            if not self._is_coordinators(certificate):
                raise ValueError
            key = certificate.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise ValueError
            key.verify(start.signature, statement, ec.ECDSA(hashes.SHA256()))
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, x509.InvalidVersion):
            raise InvalidInput("the broadcast is not signed by this job's coordinator", where="StartAttempt") from None

    def _is_coordinators(self, certificate: x509.Certificate) -> bool:
        # A silo's leaf is for dialling only and has no DNS name, so no silo can sign.
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return ExtendedKeyUsageOID.SERVER_AUTH in usage and self.hostname in names.get_values_for_type(x509.DNSName)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES)


def _unusable(path: Path) -> InvalidInput:
    return InvalidInput(
        "this is no PEM certificate with a key on an elliptic curve",
        where=str(path),
        cure="mount the Secret that the engine made for this role",
        code=ExitCode.IDENTITY_REFUSED,
    )
