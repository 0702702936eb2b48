"""The one canonical encoding for everything that is signed or hashed, with a domain tag and a version.

Canonical JSON: UTF-8, keys sorted, no insignificant space, no NaN or infinity, bytes as lower-case hex. A digest
or a signature covers `len(tag) || tag || canonical JSON`, so words said in one domain never stand in another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

ENCODING_VERSION = "v1"

Canonical = None | bool | int | float | str | bytes | Sequence["Canonical"] | Mapping[str, "Canonical"]


def canonical_json(value: Canonical) -> bytes:
    """Return the one byte string that stands for `value`. Raises ValueError on NaN or infinity."""
    return _ENCODER.encode(value).encode("utf-8")


def domain_bytes(domain: str, value: Canonical) -> bytes:
    """Return what is hashed or signed for `value` in `domain`, e.g. `foedus/secagg/keys`."""
    tag = f"{domain}/{ENCODING_VERSION}".encode()
    return len(tag).to_bytes(2, "big") + tag + canonical_json(value)


def digest(domain: str, value: Canonical) -> str:
    """Return `sha256:<hex>` of `value` in `domain`."""
    return "sha256:" + hashlib.sha256(domain_bytes(domain, value)).hexdigest()


def bytes_digest(content: bytes) -> str:
    """Return `sha256:<hex>` of plain bytes, such as an adapter."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _plain(value: Canonical) -> object:
    """Return what the encoder, which knows only JSON's own types, writes for any other."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


# Made once: each attempt of secure aggregation encodes hundreds of small values.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)
