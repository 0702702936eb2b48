"""Mutual TLS 1.3: both sides' contexts, and who the certificate says the other side is.

A silo's leaf carries exactly one URI name, `foedus://<namespace>/<job>/silo/<name>`, the operator's
`foedus://<namespace>/<job>/operator`; the coordinator's carries its Service's DNS names. A party of an inference
carries `foedus://<namespace>/<cluster>/party/<number>`, its dealer `foedus://<namespace>/<cluster>/dealer`, its clients
`foedus://<namespace>/<cluster>/caller/<name>`. All leaves of a job or cluster are signed by its own authority, and
nothing else is trusted.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from foedus_contract.durable import read_at_most
from foedus_contract.errors import InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.identities import operator_uri, silo_uri
from foedus_contract.mpc_wire import DEALER

MAX_FILE_BYTES = 64 * 1024  # a chain of several certificates, or a key, is below 16 KiB
DATE = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True)
class TlsPaths:
    """Where the role's certificate chain, private key and the job's CA certificate lie."""

    certificate: Path
    key: Path
    ca: Path


def party_uri(namespace: str, cluster: str, party: int) -> str:
    """Return the URI name that the certificate of a party, or of the dealer, carries."""
    return f"foedus://{namespace}/{cluster}/{'dealer' if party == DEALER else f'party/{party}'}"


def caller_uri(namespace: str, cluster: str, caller: str) -> str:
    """Return the URI name that the certificate of a client of an inference carries."""
    return f"foedus://{namespace}/{cluster}/caller/{caller}"


def server_context(files: TlsPaths) -> ssl.SSLContext:
    """Return the coordinator's context: TLS 1.3 at least, and no peer without a certificate of the job's authority."""
    context = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    context.num_tickets = 0  # a resumed session would outlive the check of the peer's certificate
    return context


def probe_context(files: TlsPaths) -> ssl.SSLContext:
    """Return the context of the port for a kubelet's probes: TLS 1.3 at least, and no certificate is asked for."""
    asked = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    asked.verify_mode = ssl.CERT_NONE
    return asked


def client_context(files: TlsPaths) -> ssl.SSLContext:
    """Return a silo's context: TLS 1.3 at least, the job's authority alone, and the server's name is checked."""
    context = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)
    context.check_hostname = True
    return context


def party_contexts(files: TlsPaths) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a party's contexts for serving and for dialling: TLS 1.3 at least, the authority alone.

    A party is known by its URI name wherever it runs: whoever dials compares it with `party_of`, not the host's name.
    """
    dialling = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)
    dialling.check_hostname = False  # the chain is verified all the same
    return server_context(files), dialling


def check_dates(files: TlsPaths, now: float) -> None:
    """Raise InvalidInput unless the role's certificate and its authority's are good at `now` (seconds since 1970)."""
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    for path in (files.certificate, files.ca):
        try:
            certificate = x509.load_pem_x509_certificate(read_at_most(path, MAX_FILE_BYTES))
        except ValueError:
            raise _unusable(path, "this is not a PEM certificate") from None
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begin <= moment <= end:
            raise InvalidInput(
                f"the certificate is good from {begin:{DATE}} to {end:{DATE}}, and this machine's clock says "
                f"{moment:{DATE}}",
                where=str(path),
                cure="set the clock, or create the job again: each job has certificates of its own",
                code=ExitCode.IDENTITY_REFUSED,
            )


def silo_of(peer_certificate: Mapping[str, Any] | None, *, namespace: str, job: str) -> str:
    """Return the silo that a verified certificate names for this job; raises Refused for any other certificate."""
    prefix = silo_uri(namespace, job, "")
    uri = _only_uri(peer_certificate)
    if uri is None or not uri.startswith(prefix):
        raise Refused(
            "the certificate names no silo of this job",
            where=f"{namespace}/{job}",
            cure="use the certificate that was issued to the silo for this job",
            code=ExitCode.IDENTITY_REFUSED,
        )
    return uri.removeprefix(prefix)


def is_operator(peer_certificate: Mapping[str, Any] | None, *, namespace: str, job: str) -> bool:
    """Tell whether a verified certificate is the operator's for this job."""
    return _only_uri(peer_certificate) == operator_uri(namespace, job)


def party_of(
    peer_certificate: Mapping[str, Any] | None, *, namespace: str, cluster: str, parties: Iterable[int]
) -> int:
    """Return which of `parties` a verified certificate names for this cluster; raises Refused for any other."""
    uri = _only_uri(peer_certificate)
    for party in parties:
        if uri == party_uri(namespace, cluster, party):
            return party
    raise Refused(
        "the certificate names no party of this cluster",
        where=f"{namespace}/{cluster}",
        cure="use the certificate that was issued to the party for this cluster",
        code=ExitCode.IDENTITY_REFUSED,
    )


def is_caller(peer_certificate: Mapping[str, Any] | None, *, namespace: str, cluster: str) -> bool:
    """Tell whether a verified certificate names a client of this cluster."""
    uri = _only_uri(peer_certificate)
    prefix = caller_uri(namespace, cluster, "")
    return uri is not None and uri.startswith(prefix) and len(uri) > len(prefix)


def _only_uri(peer_certificate: Mapping[str, Any] | None) -> str | None:
    names = (peer_certificate or {}).get("subjectAltName", ())
    uris = [str(value) for kind, value in names if kind == "URI"]
    return uris[0] if len(uris) == 1 else None


def _load(context: ssl.SSLContext, files: TlsPaths) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_COMPRESSION
    for path in (files.certificate, files.key, files.ca):
        if not path.is_file():
            raise _unusable(path, "the file is missing")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _unusable(path, f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        context.load_verify_locations(cafile=files.ca)
    except ssl.SSLError:
        raise _unusable(files.ca, "this is not a PEM certificate") from None
    try:
        # An empty password keeps OpenSSL from asking on the terminal when the key is encrypted.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError:
        raise _unusable(files.certificate, f"certificate and key ({files.key}) do not fit or are not PEM") from None
    return context


def _unusable(path: Path, what: str) -> InvalidInput:
    return InvalidInput(
        what,
        where=str(path),
        cure="mount the Secret that holds this role's certificate, key and the job's CA",
        code=ExitCode.IDENTITY_REFUSED,
    )
