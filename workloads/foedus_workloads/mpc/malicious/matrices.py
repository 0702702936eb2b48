"""Check A: matrix products by random projections on both sides.

Steps, for claims Z_c = X_c Y_c over Z_2^k, c = 1, 2, ...; s = SECURITY + 1:
1. Toss coins when all Z_c have arrived, and draw binary R_c [n_c x s]; V_c = Y_c R_c is local.
2. Draw random sharings A_c [s x k_c] from the common streams; compute the one sum D of all A_c V_c [s x s], as every
   product is computed: shared anew, with an error if a party wants one.
3. Toss coins again when D has arrived, and draw binary T_c [s x m_c]. Open rho_c = T_c X_c - A_c, which is uniform.
4. The sum of all T_c (Z_c R_c) - rho_c V_c, less D, is zero if all are right: into the transcripts.

With Z_c = X_c Y_c + E_c and D wrong by E, step 4 gives the sum of T_c E_c R_c, less E. E_c was fixed before R_c: some
E_c R_c is zero for a nonzero E_c with probability at most 2^-s (a nonzero row times a random binary column is zero mod
2^k with probability at most 1/2, after Freivalds). E was fixed before T_c: each row of step 4 is then zero with
probability at most 1/2, independently. Together 2 * 2^-s = 2^-SECURITY. The ring needs no extension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC, reshare
from foedus_workloads.mpc.malicious.buckets import SECURITY
from foedus_workloads.mpc.malicious.claims import MatrixClaim
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.opening import open_to_all
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.party import Party, Shared, Step, Summand
from foedus_workloads.mpc.ring import matmul
from foedus_workloads.mpc.rounds import Operation

REPETITIONS = SECURITY + 1


def check_matrices(
    party: Party, claims: Sequence[MatrixClaim], toss: Callable[[], Operation[Coins]], transcripts: Transcripts
) -> Operation[None]:
    """Check all claims: 6 rounds, whose comparison is left to the transcripts."""
    right = yield from toss()
    projections = [right.binary(c, (*_batch(each.y), each.z.shape[-1], REPETITIONS)) for c, each in enumerate(claims)]
    v = [_times(claim.y, r) for claim, r in zip(claims, projections, strict=True)]
    step = party.begin()
    masks = [_mask(step, slot, claim) for slot, claim in enumerate(claims)]
    parts = [_summed(_summand(a, each)) for a, each in zip(masks, v, strict=True)]
    d = yield from reshare(party, Summand(torch.stack(parts).sum(0)))
    left = yield from toss()
    rows = [left.binary(c, (*_batch(claim.x), REPETITIONS, claim.x.shape[-2])) for c, claim in enumerate(claims)]
    masked = [_projected(w, claim.x) - a for claim, w, a in zip(claims, rows, masks, strict=True)]
    opened = yield from open_to_all(party, masked, ARITHMETIC, transcripts, bits=party.ring.bits)
    rest = -d
    for claim, r, w, rho, each in zip(claims, projections, rows, opened, v, strict=True):
        rest = rest + (_projected(w, _times(claim.z, r)) - _projected(rho, each)).map(_summed)
    transcripts.zero(rest.own, rest.next, party.ring.bits)


def _times(x: Shared, public: Tensor) -> Shared:
    return x.map(lambda t: matmul(t, public))


def _projected(public: Tensor, x: Shared) -> Shared:
    return x.map(lambda t: matmul(public, t))


def _mask(step: Step, slot: int, claim: MatrixClaim) -> Shared:
    shape = (*_batch(claim.x), REPETITIONS, claim.x.shape[-1])
    party = step.party
    return Shared(step.draw(party.index, slot, shape), step.draw(party.following, slot, shape))


def _batch(x: Shared) -> tuple[int, ...]:
    return x.shape[:-2]


def _summand(a: Shared, v: Shared) -> Tensor:
    """Return this party's summand of a @ v."""
    return matmul(a.own, v.own + v.next) + matmul(a.next, v.own)


def _summed(products: Tensor) -> Tensor:
    """Return the sum over a batch."""
    return products.reshape(-1, *products.shape[-2:]).sum(0)
