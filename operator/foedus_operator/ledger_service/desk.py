"""What the service does for a pod: read its budget, charge it, say which incarnation it is."""

from __future__ import annotations

from foedus_contract.errors import Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.ledger_wire import ChargeRequest, Incarnation
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.records import BudgetRecord
from foedus_operator.api_server import ApiServer
from foedus_operator.ledger_service.identity import Caller, identify
from foedus_operator.ledger_service.incarnations import try_to_claim
from foedus_operator.ledgers import KubeLedgers

MAX_RACES = 8  # a role has one live pod, rarely two


class Desk:
    """Serves pods by their tokens. Without state: any replica can answer any request."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._ledgers = KubeLedgers(server)

    async def read(self, token: str) -> BudgetRecord:
        """Return the ledger of the silo that shows the token; raises Refused, Unavailable."""
        budget = _budget(await identify(self._server, token))
        record = await self._ledgers.read(budget)
        if record is None:
            cure = "its holder runs `foedus budget create`"
            raise Refused("there is no budget here", where=f"PrivacyBudget {budget}", cure=cure)
        return record

    async def charge(self, token: str, request: ChargeRequest) -> BudgetRecord:
        """Charge one release and return the ledger as it is then. After any error the attempt counts as charged."""
        caller = await identify(self._server, token)
        return await self._ledgers.charge(
            _budget(caller),
            job_uid=caller.job_uid,
            attempt=request.attempt,
            noise_multiplier=request.noise_multiplier,
        )

    async def claim(self, token: str) -> Incarnation:
        """Return which start of its role the pod is; the same pod always gets the same answer."""
        for _ in range(MAX_RACES):
            caller = await identify(self._server, token)
            number = await try_to_claim(self._server, caller)
            if number is not None:
                return Incarnation(incarnation=number)
        raise Unavailable("other pods keep claiming this role", where=caller.role, cure="see why several run")


def _budget(caller: Caller) -> BudgetKey:
    if caller.budget is None:
        cure = "only a silo has a ledger"
        raise Refused("a coordinator charges nothing", where=caller.role, cure=cure, code=ExitCode.IDENTITY_REFUSED)
    return caller.budget
