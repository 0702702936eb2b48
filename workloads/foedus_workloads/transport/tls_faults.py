"""Why a TLS connection did not come about: dates, identity or version, which no new try mends."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import aiohttp

# The last is what a certificate of another authority under the same name meets: its signature does not hold.
REFUSALS = ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT_ERROR")
DATE_FAULTS = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


def version_refused(error: BaseException) -> bool:
    """Tell whether the other side speaks no TLS 1.3."""
    return any(isinstance(each, ssl.SSLError) and "PROTOCOL" in _reason(each) for each in _chain(error))


def _reason(error: ssl.SSLError) -> str:
    return str(getattr(error, "reason", ""))  # aiohttp's own kind of SSLError is made without one


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def dates_refused(error: BaseException) -> str | None:
    """Return what OpenSSL says of a certificate that is not good now; None when that is not the fault."""
    for seen in _chain(error):
        # aiohttp's own kind of this error is made without OpenSSL's words; the one that it was made from follows.
        if isinstance(seen, ssl.SSLCertVerificationError) and getattr(seen, "verify_code", None) in DATE_FAULTS:
            return seen.verify_message
    return None


def identity_refused(error: BaseException) -> bool:
    """Tell a certificate that was refused, by us or by the other side's alert, from a connection that broke."""
    for seen in _chain(error):
        if isinstance(seen, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
            return True
        if isinstance(seen, ssl.SSLError) and any(word in _reason(seen) for word in REFUSALS):
            return True
    return False
