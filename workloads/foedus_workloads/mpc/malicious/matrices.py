"""Check A: matrix products by random projections on both sides.

Steps, for claims Z_c = X_c Y_c over Z_2^k, c = 1, 2, ..., each matrix of a batch one of them; s = SECURITY + 1:
1. Toss coins when all Z_c have arrived, and draw binary R_c [n_c x s], one for all of a batch; V_c = Y_c R_c and
   Z_c R_c are local. V is all V_c below each other [K x s].
2. Draw a random sharing A [s x K] from the common streams; compute D = A V [s x s], as every product is computed:
   shared anew, with an error if a party wants one.
3. Toss coins again when D has arrived, and draw binary T_c [s x m_c], each of a batch its own. Open rho = T X - A, with
   T X all T_c X_c beside each other [s x K], which is uniform.
4. The sum of all T_c (Z_c R_c), less rho V, less D, is zero if all are right: into the transcripts.

With Z_c = X_c Y_c + E_c and D wrong by E, step 4 gives the sum of T_c E_c R_c, less E. E_c was fixed before R_c: some
E_c R_c is zero for a nonzero E_c with probability at most 2^-s (a nonzero row times a random binary column is zero mod
2^k with probability at most 1/2, after Freivalds), whatever other matrices R_c is used for as well. E was fixed before
T_c, which are independent: each row of step 4 is then zero with probability at most 1/2, independently. Together
2 * 2^-s = 2^-SECURITY. The ring needs no extension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC, reshare
from foedus_workloads.mpc.malicious.buckets import SECURITY
from foedus_workloads.mpc.malicious.claims import MatrixClaim
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.local import project
from foedus_workloads.mpc.malicious.opening import open_to_all
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.party import Party, Shared, Summand
from foedus_workloads.mpc.ring import WORD_BITS, matmul
from foedus_workloads.mpc.rounds import Operation

REPETITIONS = SECURITY + 1  # no more than a word's bits: a row of R and a column of T are words
_MASK = 0  # slot


def check_matrices(
    party: Party, claims: Sequence[MatrixClaim], toss: Callable[[], Operation[Coins]], transcripts: Transcripts
) -> Operation[None]:
    """Check all claims: 6 rounds, whose comparison is left to the transcripts.

    What is s wide is kept with s columns: V, A and rho above as [K x s], and T (Z R) turned.
    """
    right = yield from toss()
    rights = [right.draw(c, WORD_BITS, (claim.z.shape[-1],)) for c, claim in enumerate(claims)]
    v = _below([_times(claim.y, r) for claim, r in zip(claims, rights, strict=True)])
    zr = _below([_times(claim.z, r) for claim, r in zip(claims, rights, strict=True)])
    step, shape = party.begin(), v.shape
    a = Shared(step.draw(party.index, _MASK, shape), step.draw(party.following, _MASK, shape))
    d = yield from reshare(party, Summand(matmul(a.own.t(), v.own + v.next) + matmul(a.next.t(), v.own)))
    left = (yield from toss()).draw(0, WORD_BITS, (zr.shape[0],))
    masked = _projected(claims, left) - a
    (rho,) = yield from open_to_all(party, [masked], ARITHMETIC, transcripts, bits=party.ring.bits)
    rest = zr.map(lambda t: project(t.t(), left, REPETITIONS).t()) - v.map(lambda t: matmul(rho.t(), t)) - d
    transcripts.zero(rest.own, rest.next, party.ring.bits)


def _times(x: Shared, coins: Tensor) -> Shared:
    """Return [..., m, n] -> [all m, s], each matrix times R."""
    return x.map(lambda t: project(t, coins, REPETITIONS))


def _below(parts: Sequence[Shared]) -> Shared:
    return Shared(torch.cat([each.own for each in parts]), torch.cat([each.next for each in parts]))


def _projected(claims: Sequence[MatrixClaim], coins: Tensor) -> Shared:
    """Return T X, turned: each matrix takes as many of the coins as it has rows."""
    own, following = ([getattr(claim.x, name) for claim in claims] for name in ("own", "next"))
    return Shared(torch.cat(list(_turned(own, coins))), torch.cat(list(_turned(following, coins))))


def _turned(factors: Sequence[Tensor], coins: Tensor) -> Iterator[Tensor]:
    start = 0
    for factor in factors:
        for matrix in factor.reshape(-1, *factor.shape[-2:]):
            stop = start + matrix.shape[0]
            yield project(matrix.t(), coins[start:stop], REPETITIONS)
            start = stop
