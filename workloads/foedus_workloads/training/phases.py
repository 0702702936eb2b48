"""Where the seconds of an attempt went, from the moments at which its protocol stages began."""

from __future__ import annotations

from collections.abc import Mapping

from foedus_contract.progress import PhaseSeconds
from foedus_workloads.secagg.coordinator import CoordinatorStage


def phase_seconds(
    began: Mapping[CoordinatorStage, float], *, started: float, aggregated: float, finished: float
) -> PhaseSeconds:
    """Return the phases of an attempt: `started` before its broadcast, `aggregated` with its sum or its abortion.

    A phase that was never reached took no time; what an aborted attempt still did counts to the phase it was in.
    """
    delivered = began.get(CoordinatorStage.VECTORS, aggregated)
    collected = began.get(CoordinatorStage.CONFIRMATIONS, aggregated)
    return PhaseSeconds(
        agree=delivered - started,
        compute=collected - delivered,
        unmask=aggregated - collected,
        apply=finished - aggregated,
    )
