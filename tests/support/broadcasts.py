"""A coordinator that signs broadcasts, and what checks them, for tests without files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cryptography import x509

from foedus_workloads.training.broadcast import BroadcastChecker, BroadcastSigner
from support.certificates import Authority

HOST = "job-coordinator"


def make_signer(authority: Authority, name: x509.GeneralName) -> BroadcastSigner:
    with tempfile.TemporaryDirectory() as folder:
        return BroadcastSigner.load(authority.issue(Path(folder), name))


AUTHORITY = Authority.create()
SIGNER = make_signer(AUTHORITY, x509.DNSName(HOST))
CHECKER = BroadcastChecker(AUTHORITY.certificate, HOST)
