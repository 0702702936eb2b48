"""What a coordinator knows of itself, for whoever asks: a kubelet whether it lives, silos and the operator the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from foedus_contract import pages
from foedus_contract.pages import CoordinatorPrivacy, CoordinatorSecurity
from foedus_contract.run_spec import CoordinatorRunSpec
from foedus_workloads.training.coordinator_entries import Standing
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.server import Page

# Loading a base model, or taking masks off the largest sums, takes minutes; what takes so long never ends.
STUCK_SECONDS = 1800.0
JSON, LINES = "application/json", "application/jsonl"
TEXT = "text/plain; version=0.0.4"  # Prometheus' text format


@dataclass
class Vitals:
    """How far the job is, and since when the process has been at one piece of work (None: it waits for silos)."""

    spec: CoordinatorRunSpec
    around: Surroundings
    standing: Standing = field(default_factory=Standing)
    epsilon: float = 0.0
    busy_since: float | None = None

    def note(self, standing: Standing, epsilon: float) -> None:
        """Take note of how far the job is."""
        self.standing, self.epsilon = standing, epsilon

    def works(self) -> None:
        """Take note that a piece of work begins."""
        self.busy_since = self.around.clock()

    def waits(self) -> None:
        """Take note that there is nothing to do."""
        self.busy_since = None

    def is_well(self) -> bool:
        """Say whether the process gets on; when it does not, starting it again helps."""
        return self.busy_since is None or self.around.clock() - self.busy_since < STUCK_SECONDS

    def pages(self, present: Callable[[], frozenset[str]], progress: Callable[[], bytes]) -> Mapping[str, Page]:
        """Return the pages by their paths; `present` says who is connected, `progress` what is new in JSON lines."""
        return {
            pages.PRIVACY: lambda: (JSON, self._privacy().to_json()),
            pages.SECURITY: lambda: (JSON, self._security(present()).to_json()),
            pages.METRICS: lambda: (TEXT, self._metrics(present())),
            pages.PROGRESS: lambda: (LINES, progress()),
        }

    def _privacy(self) -> CoordinatorPrivacy:
        plan = self.spec.plan
        return CoordinatorPrivacy(
            plan_digest=plan.digest(),
            rounds=self.standing.rounds,
            attempts=self.standing.attempts,
            charged=self.standing.charged,
            epsilon_spent=self.epsilon,
            epsilon_limit=plan.privacy.epsilon,
            delta=plan.privacy.delta,
        )

    def _security(self, present: frozenset[str]) -> CoordinatorSecurity:
        privacy = self.spec.plan.privacy
        return CoordinatorSecurity(
            code_digest=self.around.code_digest(),
            incarnation=self.spec.incarnation,
            present=tuple(sorted(present)),
            threshold=privacy.threshold,
            min_honest=privacy.min_honest,
        )

    def _metrics(self, present: frozenset[str]) -> bytes:
        gauges: dict[str, tuple[str, float]] = {
            "rounds": ("Rounds whose sums were used", self.standing.rounds),
            "attempts": ("Attempts made", self.standing.attempts),
            "charged": ("Attempts that may have been charged", self.standing.charged),
            "epsilon_spent": ("Privacy loss of the attempts so far", self.epsilon),
            "silos_present": ("Silos that are connected", len(present)),
        }
        lines = (
            f"# HELP foedus_coordinator_{name} {help_}\n# TYPE foedus_coordinator_{name} gauge\n"
            f"foedus_coordinator_{name} {value}\n"
            for name, (help_, value) in gauges.items()
        )
        return "".join(lines).encode("ascii")
