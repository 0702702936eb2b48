"""Certificates for tests: an authority of one job, and leaves with the names that the product's own carry."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from foedus_workloads.transport.tls import TlsPaths

_EARLY = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_LATE = dt.datetime(2120, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        builder = (
            _builder(name, key)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    def issue(
        self,
        folder: Path,
        name: x509.GeneralName,
        *,
        trust: Authority | None = None,
        years: tuple[float, float] | None = None,
    ) -> TlsPaths:
        """Write certificate and key for `name`, and the CA that the role trusts (this one unless told).

        `years` says from when to when the certificate is good, counted from now.
        """
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(x509.Name([]), key, years)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
        )
        paths = TlsPaths(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        paths.certificate.write_bytes(_pem(builder.sign(self.key, hashes.SHA256())))
        paths.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        paths.ca.write_bytes(_pem((trust or self).certificate))
        return paths


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, years: tuple[float, float] | None = None
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    begin, end = (_EARLY, _LATE) if years is None else (now + dt.timedelta(days=365 * each) for each in years)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
