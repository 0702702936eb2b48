"""Pages on which processes say how they are, and what a coordinator says there of itself.

Operator and ledger service have pages at the same paths. A coordinator's `HEALTH` and `READY` are answered on
PROBE_PORT to whoever gets there, for a kubelet shows no certificate. Its other pages are answered on its own port, over
mutual TLS, to the silos of its job and to the operator; `PROGRESS` has a JSON line for the latest event of each kind.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foedus_contract import limits
from foedus_contract.models import ContractModel, Digest, SiloName

PROBE_PORT = 8081
HEALTH, READY = "/health", "/ready"
METRICS, PRIVACY, SECURITY = "/metrics", "/privacy/status", "/security/status"
PROGRESS = "/progress"

Count = Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)]


class CoordinatorPrivacy(ContractModel):
    """`/privacy/status`: what the job has cost so far, of what it may cost."""

    plan_digest: Digest
    rounds: Count
    attempts: Count
    charged: Count
    epsilon_spent: Annotated[float, Field(ge=0)]
    epsilon_limit: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]


class CoordinatorSecurity(ContractModel):
    """`/security/status`: who answers, what it runs, and whom it counts on."""

    least_tls: Literal["1.3"] = "1.3"
    code_digest: Digest
    incarnation: Annotated[int, Field(ge=0)]
    present: tuple[SiloName, ...]
    threshold: Annotated[int, Field(ge=1, le=limits.MAX_SILOS)]
    min_honest: Annotated[int, Field(ge=1, le=limits.MAX_SILOS)]
