"""Frames: what is well formed is read back whole, everything else is refused before it is touched."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_contract.wire import (
    AttemptId,
    MaskedVector,
    ShareKeys,
    decode_frame,
    encode_frame,
    keys_to_sign,
    survivors_to_sign,
)

ID = AttemptId(round=3, attempt=5)


@given(payload=st.binary(max_size=64), ciphertext=st.binary(max_size=512))
def test_a_frame_is_read_back_whole(payload, ciphertext):
    message = ShareKeys(id=ID, silo="a", ciphertexts={"b": ciphertext})
    assert decode_frame(encode_frame(message, payload)) == (message, payload)


def frame(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "big") + text


VECTOR = {"kind": "MaskedVector", "id": {"round": 0, "attempt": 0}, "silo": "a", "coordinates": 4}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"", "header length"),
        (b"\x00\x00\x00", "header length"),
        (b"\x00\x00\x00\x09{}", "header length"),
        ((limits.MAX_HEADER_BYTES + 1).to_bytes(4, "big") + b" " * (limits.MAX_HEADER_BYTES + 1), "header length"),
        (frame(VECTOR | {"kind": "Pickle"}), "does not match any of the expected tags"),
        (frame(VECTOR | {"coordinates": 0}), "coordinates"),
        (frame(VECTOR | {"coordinates": limits.MAX_COORDINATES + 1}), "coordinates"),
        (frame(VECTOR | {"silo": "../etc"}), "silo"),
        (frame(VECTOR | {"extra": 1}), "extra"),
        (frame(VECTOR | {"id": {"round": -1, "attempt": 0}}), "round"),
        (frame([1]), "should be an object"),
        (b"\x00\x00\x00\x02\xff\xfe", "JSON"),
    ],
)
def test_a_malformed_frame_is_refused_in_one_line(bad, says):
    with pytest.raises(InvalidInput) as refusal:
        decode_frame(bad)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_payload_above_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PAYLOAD_BYTES", 3)
    message = MaskedVector(id=ID, silo="a", coordinates=1)
    with pytest.raises(InvalidInput, match="payload is too large"):
        decode_frame(encode_frame(message, b"1234"))


KEYS = {
    "job_uid": "u",
    "plan_digest": "p",
    "adapter_digest": "m",
    "silo": "a",
    "encryption_key": b"e" * 32,
    "masking_key": b"k" * 32,
}


@pytest.mark.parametrize(
    "change",
    [
        {"job_uid": "v"},
        {"plan_digest": "q"},
        {"adapter_digest": "n"},
        {"silo": "b"},
        {"encryption_key": b"E" * 32},
        {"masking_key": b"K" * 32},
        {"attempt": AttemptId(round=3, attempt=6)},
        {"attempt": AttemptId(round=4, attempt=5)},
    ],
)
def test_the_key_signature_covers_every_field(change):
    whole = {"attempt": ID, **KEYS}
    assert keys_to_sign(**whole) != keys_to_sign(**(whole | change))


def test_the_survivor_signature_does_not_depend_on_order():
    words = {"job_uid": "u", "roster_digest": "r"}
    assert survivors_to_sign(ID, **words, survivors=("b", "a")) == survivors_to_sign(ID, **words, survivors=("a", "b"))
    assert survivors_to_sign(ID, **words, survivors=("a",)) != survivors_to_sign(ID, **words, survivors=("a", "b"))
