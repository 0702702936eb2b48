from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from foedus_contract.errors import InvalidInput
from foedus_contract.wire import AttemptId
from foedus_workloads.secagg import keys
from foedus_workloads.secagg.keys import Purpose
from foedus_workloads.secagg.masks import (
    add_pair_mask,
    expand,
    remove_pair_mask,
    vector_from_bytes,
    vector_to_bytes,
)
from foedus_workloads.secagg.membership import Membership, read_membership
from support.secagg_world import make_context, make_world

WORDS = st.integers(0, 2**32 - 1)


def test_a_mask_is_the_chacha20_key_stream() -> None:
    # RFC 8439, appendix A.1, key and nonce zero: test vector 1 (counter 0) starts 76 b8 e0 ad a0 f1 3d 90
    # 40 5d 6a e5 53 86 bd 28, test vector 2 (counter 1) starts 9f 07 e7 be 55 51 38 7a.
    stream = expand(bytes(32), 18).tolist()
    assert stream[:4] == [0xADE0B876, 0x903DF1A0, 0xE56A5D40, 0x28BD8653]
    assert stream[16:] == [0xBEE7079F, 0x7A385155]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=20))
def test_a_pairs_masks_cancel(rows: list[tuple[int, int, int]]) -> None:
    one, two, mask = (np.array(column, np.uint32) for column in zip(*rows, strict=True))
    first, second = one.copy(), two.copy()
    add_pair_mask(first, mask, own="a", peer="b")
    add_pair_mask(second, mask, own="b", peer="a")
    assert (first + second).tolist() == [(x + y) % 2**32 for x, y, _ in rows]
    assert first.tolist() == [(x + m) % 2**32 for x, _, m in rows]
    remove_pair_mask(first, mask, own="a", peer="b")
    assert first.tolist() == [x for x, _, _ in rows]


@given(st.lists(WORDS, min_size=1, max_size=20))
def test_a_vector_survives_its_payload(words: list[int]) -> None:
    vector = np.array(words, np.uint32)
    payload = vector_to_bytes(vector)
    assert payload == b"".join(word.to_bytes(4, "little") for word in words)
    assert vector_from_bytes(payload, len(words)).tolist() == words


@pytest.mark.parametrize("length", [0, 31, 33, 36, 28, 2**16])
def test_a_payload_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match=rf"{length} bytes, 32 are needed"):
        vector_from_bytes(bytes(length), 8)


@pytest.fixture(scope="module")
def membership() -> Membership:
    world = make_world(silos=4)
    return read_membership(world.context, (state.advertised for state in world.silos.values()))


def test_every_name_in_a_keys_derivation_changes_it(membership: Membership) -> None:
    context, names = make_context(silos=4), ("silo-01", "silo-02")
    uses = [
        (b"s" * 32, context, membership, Purpose.PAIR_MASK, names),
        (b"t" * 32, context, membership, Purpose.PAIR_MASK, names),
        (b"s" * 32, context, membership, Purpose.SHARES, names),
        (b"s" * 32, context, membership, Purpose.PAIR_MASK, ("silo-02", "silo-01")),
        (b"s" * 32, context, membership, Purpose.PAIR_MASK, ("silo-01", "silo-03")),
        (b"s" * 32, replace(context, job_uid="another"), membership, Purpose.PAIR_MASK, names),
        (b"s" * 32, replace(context, id=AttemptId(round=0, attempt=1)), membership, Purpose.PAIR_MASK, names),
        (b"s" * 32, replace(context, id=AttemptId(round=1, attempt=0)), membership, Purpose.PAIR_MASK, names),
        (b"s" * 32, context, replace(membership, digest="sha256:" + "0" * 64), Purpose.PAIR_MASK, names),
    ]
    derived = [keys.derive_key(*use) for use in uses]
    assert len(set(derived)) == len(uses)
    assert {len(key) for key in derived} == {32}


def test_both_sides_of_a_pair_derive_one_key() -> None:
    world = make_world(silos=4)
    roster = read_membership(world.context, (state.advertised for state in world.silos.values()))
    one, two = (
        keys.pair_mask_key(
            X25519PrivateKey.from_private_bytes(world.silos[own].masking_private),
            world.context,
            roster,
            own=own,
            peer=peer,
        )
        for own, peer in [("silo-01", "silo-02"), ("silo-02", "silo-01")]
    )
    assert one == two


@pytest.mark.parametrize(
    "change",
    [
        {"adapter_digest": "sha256:" + "3" * 64},
        {"plan_digest": "sha256:" + "3" * 64},
        {"job_uid": "another"},
        {"threshold": 4},
        {"coordinates": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_rosters_digest_binds_the_context(membership: Membership, change: dict) -> None:
    changed = read_membership(replace(make_context(silos=4), **change), membership.entries.values())
    assert changed.digest != membership.digest


def test_the_rosters_digest_does_not_depend_on_the_order(membership: Membership) -> None:
    entries = list(membership.entries.values())
    assert read_membership(make_context(silos=4), reversed(entries)).digest == membership.digest
    assert read_membership(make_context(silos=4), entries[1:]).digest != membership.digest
