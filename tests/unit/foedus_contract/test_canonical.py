"""The canonical encoding: one byte string a value, written out here by hand."""

import hashlib
from types import MappingProxyType

import pytest

from foedus_contract.canonical import canonical_json, digest, domain_bytes


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ({"b": 1, "a": [True, None]}, b'{"a":[true,null],"b":1}'),
        ({"key": b"\x00\xff"}, b'{"key":"00ff"}'),
        ("ε", '"ε"'.encode()),
        ((1, 2), b"[1,2]"),
        ({"outer": MappingProxyType({"2": (b"\x01", -2.5), "1": []})}, b'{"outer":{"1":[],"2":["01",-2.5]}}'),
    ],
)
def test_canonical_json_is_sorted_and_without_space(value, want):
    assert canonical_json(value) == want


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": float("-inf")}])
def test_numbers_that_json_cannot_write_are_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError, match="set has no canonical JSON"):
        canonical_json({"x": {1, 2}})


def test_the_domain_is_length_prefixed_and_versioned():
    assert domain_bytes("foedus/x", {}) == b"\x00\x0bfoedus/x/v1{}"


def test_the_same_words_in_two_domains_have_two_digests():
    assert digest("foedus/x", {"a": 1}) != digest("foedus/y", {"a": 1})
    assert digest("foedus/x", {"a": 1}) == "sha256:" + hashlib.sha256(b'\x00\x0bfoedus/x/v1{"a":1}').hexdigest()
