"""Opening to all three: each party gets the component that it lacks from its previous one; the next vouches for it.

1. Party i sends x_i to party i + 1, which lacks exactly that one.
2. What party i received, x_{i-1}, party i + 1 holds as well: both note it in the transcript of their pair.
3. The components add up to the secret. A false one gives a false value, and the session ends at the comparison.
Only what is uniformly masked is opened, so a value that turns out false has shown nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC, Domain
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.party import Party, Shared, expected, from_wire, to_wire
from foedus_workloads.mpc.ring import total
from foedus_workloads.mpc.rounds import Exchange, Operation


def open_to_all(
    party: Party, secrets: Sequence[Shared], domain: Domain, transcripts: Transcripts, *, bits: int
) -> Operation[list[Tensor]]:
    """Return the secrets, mod 2^bits, at every party: 1 round."""
    received = yield Exchange(
        to_next=tuple(to_wire(each.own, bits) for each in secrets),
        from_previous=tuple(expected(each.shape, bits) for each in secrets),
    )
    return [
        opened_of(each.own, each.next, missing, domain, transcripts, bits)
        for each, missing in zip(secrets, received.from_previous, strict=True)
    ]


def opened_of(
    own: Tensor, following: Tensor, missing: Tensor, domain: Domain, transcripts: Transcripts, bits: int
) -> Tensor:
    """Return what a secret's components and the one that came add up to (steps 2 and 3)."""
    transcripts.opened(missing, following, bits)
    missing = from_wire(missing, bits)
    if domain is ARITHMETIC:
        return total((own, following, missing))
    return domain.add(domain.add(own, following), missing)
