"""The job's certificates: what they say, and what a TLS library accepts of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from foedus_contract.errors import Unavailable
from foedus_engine import names
from foedus_engine.decide.plan import ContentRequest, ObjectKey
from foedus_engine.pki import certificate_end, certificate_problem, content_factory

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
ISSUER = ObjectKey("v1", "Secret", "team-a", "demo-ca")
WEEK = 7 * 24 * 3600
ROOT = ContentRequest("Authority", "foedus team-a/demo", valid_seconds=WEEK)
DNS_NAMES = names.coordinator_dns_names("team-a", "demo")
SERVER = ContentRequest("ServerLeaf", "coordinator", dns_names=DNS_NAMES, issuer=ISSUER, valid_seconds=WEEK)
URI = "foedus://team-a/demo/silo/silo-1"
CLIENT = ContentRequest("ClientLeaf", "silo-1", uris=(URI,), issuer=ISSUER, valid_seconds=WEEK)


def counting() -> Callable[[int], bytes]:
    calls = iter(range(1, 100))
    return lambda size: next(calls).to_bytes(1, "big") * size


MAKE = content_factory(lambda: NOW, counting())
AUTHORITY = MAKE(ROOT, None)
SERVER_LEAF = MAKE(SERVER, AUTHORITY)
CLIENT_LEAF = MAKE(CLIENT, AUTHORITY)


def certificate(data: dict[str, bytes]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data["tls.crt"])


def verifier(moment: datetime, authority: dict[str, bytes] = AUTHORITY) -> verification.PolicyBuilder:
    return verification.PolicyBuilder().store(verification.Store([certificate(authority)])).time(moment)


@pytest.mark.parametrize("name", ["demo-coordinator", "demo-coordinator.team-a", "demo-coordinator.team-a.svc"])
def test_the_coordinator_is_trusted_under_every_name_of_its_service(name: str) -> None:
    verifier(NOW).build_server_verifier(x509.DNSName(name)).verify(certificate(SERVER_LEAF), [])


def test_a_silo_is_trusted_as_a_client_and_bears_its_identity() -> None:
    verified = verifier(NOW).build_client_verifier().verify(certificate(CLIENT_LEAF), [])

    assert [name.value for name in verified.subjects or []] == ["foedus://team-a/demo/silo/silo-1"]


@pytest.mark.parametrize("name", ["other-coordinator", "demo-coordinator.team-b", "silo-1"])
def test_the_coordinator_is_not_trusted_under_another_name(name: str) -> None:
    with pytest.raises(verification.VerificationError):
        verifier(NOW).build_server_verifier(x509.DNSName(name)).verify(certificate(SERVER_LEAF), [])


def test_a_party_of_an_inference_serves_and_dials_under_its_own_name() -> None:
    uri = "foedus://team-a/demo/party/1"
    leaf = MAKE(ContentRequest("PeerLeaf", "party-1", uris=(uri,), issuer=ISSUER, valid_seconds=WEEK), AUTHORITY)

    verified = verifier(NOW).build_client_verifier().verify(certificate(leaf), [])
    assert [name.value for name in verified.subjects or []] == [uri]
    usage = certificate(leaf).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_a_silo_cannot_serve_and_the_coordinator_cannot_dial() -> None:
    with pytest.raises(verification.VerificationError):
        verifier(NOW).build_client_verifier().verify(certificate(SERVER_LEAF), [])
    usage = certificate(CLIENT_LEAF).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_another_jobs_authority_vouches_for_nobody() -> None:
    other = MAKE(ROOT, None)

    with pytest.raises(verification.VerificationError):
        verifier(NOW, other).build_client_verifier().verify(certificate(CLIENT_LEAF), [])


@pytest.mark.parametrize(("days", "minutes", "valid"), [(0, -5, True), (0, -6, False), (7, 0, True), (7, 1, False)])
def test_certificates_hold_for_a_week_and_a_little_before(days: int, minutes: int, valid: bool) -> None:
    moment = NOW + timedelta(days=days, minutes=minutes)
    leaf = certificate(CLIENT_LEAF)

    assert (leaf.not_valid_before_utc <= moment <= leaf.not_valid_after_utc) is valid


def test_a_leaf_made_late_does_not_outlive_its_authority() -> None:
    late = content_factory(lambda: NOW + timedelta(days=3), counting())(CLIENT, AUTHORITY)

    assert certificate(late).not_valid_after_utc == certificate(AUTHORITY).not_valid_after_utc


def test_a_renewed_authority_vouches_for_what_it_signed_before_and_for_longer() -> None:
    later = NOW + timedelta(days=20)
    make = content_factory(lambda: later, counting())
    renewed = make(replace(ROOT, issuer=ISSUER), AUTHORITY)
    leaf = make(CLIENT, renewed)

    verifier(later + timedelta(days=6), renewed).build_client_verifier().verify(certificate(leaf), [])
    certificate(CLIENT_LEAF).verify_directly_issued_by(certificate(renewed))
    assert certificate_end(leaf) == later + timedelta(days=7)
    assert leaf["ca.crt"] == renewed["tls.crt"] != AUTHORITY["tls.crt"]


@pytest.mark.parametrize("data", [{}, {"tls.crt": b""}, {"tls.crt": b"no certificate"}])
def test_what_is_no_certificate_has_no_end(data: dict[str, bytes]) -> None:
    assert certificate_end(data) is None


def test_serials_come_from_the_entropy_and_are_positive() -> None:
    serial = int.from_bytes(b"\x01" * 20, "big") >> 1
    assert certificate(AUTHORITY).serial_number == serial
    high = content_factory(lambda: NOW, lambda size: b"\xff" * size)(CLIENT, AUTHORITY)

    assert 0 < certificate(high).serial_number < 2**159


def test_the_authority_signs_leaves_only_and_its_key_is_in_no_leaf() -> None:
    extensions = certificate(AUTHORITY).extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert not certificate(SERVER_LEAF).extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert AUTHORITY["tls.key"] not in {*SERVER_LEAF.values(), *CLIENT_LEAF.values()}
    assert SERVER_LEAF["ca.crt"] == AUTHORITY["tls.crt"]


def test_each_leaf_comes_with_its_own_key() -> None:
    for data in (SERVER_LEAF, CLIENT_LEAF):
        key = load_pem_private_key(data["tls.key"], password=None)
        assert key.public_key() == certificate(data).public_key()
    assert SERVER_LEAF["tls.key"] != CLIENT_LEAF["tls.key"]


@pytest.mark.parametrize(
    "issuer",
    [
        None,
        {},
        {"tls.crt": AUTHORITY["tls.crt"]},
        {**AUTHORITY, "tls.key": CLIENT_LEAF["tls.key"]},
        {**AUTHORITY, "tls.key": b"no key"},
        {**AUTHORITY, "tls.crt": b""},
    ],
)
def test_without_a_whole_authority_nothing_is_signed(issuer: dict[str, bytes] | None) -> None:
    with pytest.raises(Unavailable, match="certificate authority"):
        MAKE(CLIENT, issuer)


OTHER = MAKE(ROOT, None)
RENEWED = MAKE(replace(ROOT, issuer=ISSUER), AUTHORITY)
UNREADABLE = "holds no certificate and key that can be read"
FOREIGN = "is not signed by the job's certificate authority"


@pytest.mark.parametrize(
    ("secret", "authority", "problem"),
    [
        (AUTHORITY, None, ""),
        (CLIENT_LEAF, AUTHORITY, ""),
        (CLIENT_LEAF, RENEWED, ""),  # under the same key
        (MAKE(CLIENT, RENEWED), AUTHORITY, ""),
        ({}, AUTHORITY, UNREADABLE),
        ({**CLIENT_LEAF, "tls.crt": b"no certificate"}, AUTHORITY, UNREADABLE),
        ({**CLIENT_LEAF, "tls.key": b""}, AUTHORITY, UNREADABLE),
        ({**CLIENT_LEAF, "tls.key": SERVER_LEAF["tls.key"]}, AUTHORITY, "holds a key that does not belong to its "
         "certificate"),
        (CLIENT_LEAF, OTHER, FOREIGN),
        (OTHER, AUTHORITY, FOREIGN),
        ({**CLIENT_LEAF, "ca.crt": OTHER["tls.crt"]}, AUTHORITY, FOREIGN),
        ({**CLIENT_LEAF, "ca.crt": b"none"}, AUTHORITY, FOREIGN),
        (CLIENT_LEAF, {}, FOREIGN),
    ],
)  # fmt: skip
def test_a_secret_that_was_changed_is_told_from_a_good_one(
    secret: dict[str, bytes], authority: dict[str, bytes] | None, problem: str
) -> None:
    assert certificate_problem(secret, authority) == problem
