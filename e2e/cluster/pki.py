"""The cluster's keys: three authorities (cluster, aggregation, etcd), the certificates under them, and kubeconfigs.

They are made once for a data folder and last as long as it does; no authority is known outside this machine.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2e.cluster.files import write_atomically
from e2e.cluster.layout import Layout

VALIDITY = timedelta(days=30)  # no test cluster lives that long
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Leaf:
    """One certificate: the file's name, the authority's file, whom it names, and under which addresses it serves."""

    name: str
    authority: str
    user: str
    group: str | None = None
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def leaves(layout: Layout) -> tuple[Leaf, ...]:
    """Return every certificate of the cluster below its authorities."""
    api_names = tuple(f"kubernetes{tail}" for tail in ("", ".default", ".default.svc", ".default.svc.cluster.local"))
    api_addresses = (layout.api_address, layout.api_service_address)
    return (
        Leaf("apiserver", "ca", "kube-apiserver", addresses=api_addresses, names=api_names),
        Leaf("apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client", "system:masters"),
        Leaf("front-proxy-client", "front-proxy-ca", "front-proxy-client"),
        Leaf("etcd", "etcd-ca", "etcd", addresses=(layout.loopback,)),
        Leaf("admin", "ca", "admin", "system:masters"),
        Leaf("controller-manager", "ca", "system:kube-controller-manager"),
        Leaf("scheduler", "ca", "system:kube-scheduler"),
        Leaf("kube-proxy", "ca", "system:kube-proxy"),
        Leaf("policy-enforcer", "ca", "foedus-e2e:policy-enforcer"),
        *(
            Leaf(node.name, "ca", f"system:node:{node.name}", "system:nodes", (node.address,), (node.name,))
            for node in layout.nodes
        ),
    )


# Who talks to the API server by kubeconfig; the administrator's has a place of its own.
USERS = ("controller-manager", "scheduler", "kube-proxy")


def ensure_keys(layout: Layout, now: datetime) -> None:
    """Make the authorities, the certificates and the kubeconfigs, unless they were made before."""
    if layout.kubeconfig.exists():
        return
    layout.pki.mkdir(parents=True, exist_ok=True)
    authorities = {name: _authority(layout.pki, name, now) for name in ("ca", "front-proxy-ca", "etcd-ca")}
    for leaf in leaves(layout):
        _issue(layout.pki, leaf, *authorities[leaf.authority], now)
    service_accounts = ec.generate_private_key(ec.SECP256R1())
    _write_key(layout.pki / "service-accounts.key", service_accounts)
    write_atomically(layout.pki / "service-accounts.pub", _public(service_accounts))
    for user in (*USERS, *(node.name for node in layout.nodes)):
        write_atomically(layout.pki / f"{user}.kubeconfig", _kubeconfig(layout, user))
    write_atomically(layout.kubeconfig, _kubeconfig(layout, "admin"))  # last: it says that all the others are there


def _authority(folder: Path, name: str, now: datetime) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(subject, subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / f"{name}.key", key)
    _write_certificate(folder / f"{name}.crt", certificate)
    return subject, key


def _issue(folder: Path, leaf: Leaf, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_subject(leaf.user, leaf.group), issuer, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
    )
    if names := _alternatives(leaf.addresses, leaf.names):
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    _write_key(folder / f"{leaf.name}.key", key)
    _write_certificate(folder / f"{leaf.name}.crt", builder.sign(issuer_key, hashes.SHA256()))


_PURPOSES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALIDITY)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _alternatives(addresses: Sequence[str], names: Sequence[str]) -> list[x509.GeneralName]:
    return [
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
        *(x509.DNSName(name) for name in names),
    ]


def _subject(user: str, group: str | None = None) -> x509.Name:
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    # SEC 1 ("EC PRIVATE KEY") is the form that all of Kubernetes' readers know.
    form = serialization.PrivateFormat.TraditionalOpenSSL
    write_atomically(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode())


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    write_atomically(path, certificate.public_bytes(serialization.Encoding.PEM).decode())


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def _kubeconfig(layout: Layout, user: str) -> str:
    def data(name: str) -> str:
        return base64.b64encode((layout.pki / name).read_bytes()).decode()

    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": layout.name,
                    "cluster": {"server": layout.api_url, "certificate-authority-data": data("ca.crt")},
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": data(f"{user}.crt"),
                        "client-key-data": data(f"{user}.key"),
                    },
                }
            ],
            "contexts": [{"name": layout.name, "context": {"cluster": layout.name, "user": user}}],
            "current-context": layout.name,
        }
    )
