"""What the attempts of a job have cost so far, by the same accountants that planned it."""

from __future__ import annotations

from dataclasses import dataclass

from foedus_contract.plan import TrainingPlan
from foedus_ledger.accountants import composed_gaussian_epsilon
from foedus_ledger.gap import discretisation_gap
from foedus_ledger.mechanisms import Mechanism


@dataclass(frozen=True)
class Spending:
    """One release's mechanism, and the δ at which ε is told."""

    mechanism: Mechanism
    delta: float

    @classmethod
    def of(cls, plan: TrainingPlan, coordinates: int) -> Spending:
        """Return the mechanism of `plan` when a release has up to `coordinates`."""
        privacy = plan.privacy
        gap = discretisation_gap(plan.share_scale(coordinates), privacy.min_honest, coordinates)
        mechanism = Mechanism(noise_multiplier=privacy.noise_multiplier, gap_epsilon=gap.epsilon, gap_delta=gap.delta)
        return cls(mechanism, privacy.delta)

    def epsilon(self, charged: int) -> float:
        """Return ε after `charged` attempts: exact for full-batch Gaussians, the discretisation gap included."""
        return composed_gaussian_epsilon([(self.mechanism, charged)], self.delta) if charged else 0.0
