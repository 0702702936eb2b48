"""One certificate authority a job and one leaf certificate a role, as the content of Secrets.

The authority's key stands in its own Secret, which no pod mounts; a leaf is signed with it when the leaf's Secret is
created, and again when a job is resumed with too little of its validity left (`decide` says when). The authority's own
certificate is then renewed with the same key, so broadcasts that silos keep stay signed. A new job has a new authority,
so a leaf of one job means nothing in another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from foedus_contract.errors import Unavailable
from foedus_engine.decide.plan import ContentFactory, ContentRequest
from foedus_engine.names import CA_CERTIFICATE_KEY, CERTIFICATE_KEY, PRIVATE_KEY_KEY

CLOCK_SKEW = timedelta(minutes=5)  # a silo's clock may be behind the engine's by this much
SERIAL_BYTES = 20  # RFC 5280 allows 20 octets; the top bit is cleared so that the number stays positive

_USAGES = {
    "ServerLeaf": [ExtendedKeyUsageOID.SERVER_AUTH],
    "ClientLeaf": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "PeerLeaf": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
}

Clock = Callable[[], datetime]
Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class _Issuer:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    not_after: datetime


def content_factory(clock: Clock, entropy: Entropy) -> ContentFactory:
    """Return the factory that `execute` calls for the content of a Secret that does not exist yet."""

    def make(request: ContentRequest, issuer: Mapping[str, bytes] | None) -> dict[str, bytes]:
        if request.kind == "Authority":
            return make_authority(request, issuer, now=clock(), entropy=entropy)
        if not issuer or PRIVATE_KEY_KEY not in issuer or CERTIFICATE_KEY not in issuer:
            raise Unavailable(
                "the job's certificate authority is not readable",
                where=str(request.issuer),
                cure="delete the job and create it again if this lasts",
            )
        return make_leaf(request, issuer, now=clock(), entropy=entropy)

    return make


def certificate_end(data: Mapping[str, bytes]) -> datetime | None:
    """Return until when a Secret's certificate is valid; None when there is none to be read."""
    try:
        return x509.load_pem_x509_certificate(data.get(CERTIFICATE_KEY, b"")).not_valid_after_utc
    except ValueError:
        return None


def certificate_problem(data: Mapping[str, bytes], authority: Mapping[str, bytes] | None) -> str:
    """Return why a Secret's certificate and key are of no use, as the rest of a sentence; empty when they are good.

    `authority` is the Secret of whoever must have signed; None: it is an authority itself.
    """
    try:
        certificate = x509.load_pem_x509_certificate(data.get(CERTIFICATE_KEY, b""))
        key = serialization.load_pem_private_key(data.get(PRIVATE_KEY_KEY, b""), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "holds no certificate and key that can be read"
    if key.public_key() != certificate.public_key():
        return "holds a key that does not belong to its certificate"
    if authority is None:
        return ""
    try:
        for one in (authority, {CERTIFICATE_KEY: data.get(CA_CERTIFICATE_KEY, b"")}):
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(one.get(CERTIFICATE_KEY, b"")))
    except (ValueError, TypeError, InvalidSignature):
        return "is not signed by the job's certificate authority"
    return ""


def make_authority(
    request: ContentRequest, before: Mapping[str, bytes] | None, *, now: datetime, entropy: Entropy
) -> dict[str, bytes]:
    """Return a self-signed authority that may sign leaves and nothing else: a new one, or `before` for longer."""
    key = ec.generate_private_key(ec.SECP256R1()) if before is None else _load_issuer(before).key
    name = _name(request.common_name)
    builder = (
        _builder(name, name, key.public_key(), now, now + timedelta(seconds=request.valid_seconds), entropy)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return {CERTIFICATE_KEY: _pem(builder.sign(key, hashes.SHA256())), PRIVATE_KEY_KEY: _key_pem(key)}


def make_leaf(
    request: ContentRequest, issuer: Mapping[str, bytes], *, now: datetime, entropy: Entropy
) -> dict[str, bytes]:
    """Return a new leaf for the names of `request`, its key, and the authority's certificate.

    A server's leaf is good for serving only, a client's for dialling only, a peer's for both.
    """
    authority = _load_issuer(issuer)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in request.dns_names]
    names += [x509.UniformResourceIdentifier(uri) for uri in request.uris]
    not_after = min(now + timedelta(seconds=request.valid_seconds), authority.not_after)
    builder = (
        _builder(_name(request.common_name), authority.name, key.public_key(), now, not_after, entropy)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USAGES[request.kind]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    return {
        CERTIFICATE_KEY: _pem(builder.sign(authority.key, hashes.SHA256())),
        PRIVATE_KEY_KEY: _key_pem(key),
        CA_CERTIFICATE_KEY: issuer[CERTIFICATE_KEY],
    }


def _load_issuer(data: Mapping[str, bytes]) -> _Issuer:
    problem = certificate_problem(data, None)
    if not problem:
        certificate = x509.load_pem_x509_certificate(data[CERTIFICATE_KEY])
        key = serialization.load_pem_private_key(data[PRIVATE_KEY_KEY], password=None)
    if problem or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unavailable(
            f"the Secret {problem or 'holds a key of another kind'}",
            where="certificate authority",
            cure="delete the job and create it again",
        )
    return _Issuer(certificate.subject, key, certificate.not_valid_after_utc)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    not_after: datetime,
    entropy: Entropy,
) -> x509.CertificateBuilder:
    serial = int.from_bytes(entropy(SERIAL_BYTES), "big") >> 1
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    # X.509 bounds a common name at 64 characters; who is meant stands in the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
