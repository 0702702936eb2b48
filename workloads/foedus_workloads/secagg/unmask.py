"""The coordinator's last step: recover what the shares give and take the masks off the sum."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from foedus_contract.errors import InvalidInput
from foedus_contract.wire import Unmask
from foedus_workloads.secagg import keys, masks, shamir
from foedus_workloads.secagg.effects import AttemptContext, Vector
from foedus_workloads.secagg.membership import Membership


def check_unmask(answer: Unmask, *, survivors: frozenset[str], sharers: frozenset[str]) -> None:
    """Raise InvalidInput unless the answer holds exactly one well-formed share of every silo that shared."""
    if set(answer.self_mask_shares) != survivors or set(answer.masking_key_shares) != sharers - survivors:
        raise InvalidInput("it does not hold the shares that were asked for", where="Unmask")
    for share in (*answer.self_mask_shares.values(), *answer.masking_key_shares.values()):
        shamir.parse_share(share)


def unmask_total(
    masked: Vector,
    context: AttemptContext,
    membership: Membership,
    answers: Mapping[str, Unmask],
    *,
    survivors: frozenset[str],
    sharers: frozenset[str],
) -> Vector:
    """Return the sum of the survivors' vectors mod 2^32; raises InvalidInput when shares do not fit.

    1. For each survivor u: recover b_u, subtract PRG(b_u).
    2. For each silo v that shared but sent no vector: recover s_v's private key, check it against the roster,
       subtract what every survivor u added for v.
    """
    total = masked.copy()
    points = membership.points()
    for name in sorted(survivors):
        shares = {points[giver]: answer.self_mask_shares[name] for giver, answer in answers.items()}
        seed = shamir.recover(shares, threshold=context.threshold)
        key = keys.self_mask_key(seed, context, membership, silo=name)
        total -= masks.expand(key, context.coordinates)
    for name in sorted(sharers - survivors):
        shares = {points[giver]: answer.masking_key_shares[name] for giver, answer in answers.items()}
        private = _masking_private(shamir.recover(shares, threshold=context.threshold), membership, name)
        for peer in sorted(survivors):
            key = keys.pair_mask_key(private, context, membership, own=name, peer=peer)
            masks.remove_pair_mask(total, masks.expand(key, context.coordinates), own=peer, peer=name)
    return total


def _masking_private(secret: bytes, membership: Membership, name: str) -> X25519PrivateKey:
    private = X25519PrivateKey.from_private_bytes(secret)
    if private.public_key().public_bytes_raw() != membership.entries[name].masking_key:
        raise InvalidInput(f"silo {name} shared another key than it advertised", where="Unmask")
    return private
