"""Mutants of the ledger service: each link from a pod's token to the budget that it may charge, and the one charge.

And of what it has in common with the operator: who may read the numbers.
"""

from __future__ import annotations

from attacks.mutants import Patch, fails

IDENTITY = "operator/foedus_operator/ledger_service/identity.py"
CLAIMS = "operator/foedus_operator/ledger_service/incarnations.py"
CLIENT = "workloads/foedus_workloads/transport/ledger_client.py"
OF_IDENTITY, OF_CLIENT = "unit/foedus_operator/test_ledger_identity.py", "unit/foedus_workloads/test_ledger_client.py"
SERVING = "operator/foedus_operator/serving.py"
LINKS = f"{OF_IDENTITY}::test_each_link_is_checked"

LEDGER_SERVICE_MUTANTS = {
    "tokens-for-anybody-accepted": fails(
        LINKS, Patch(IDENTITY, " or AUDIENCE not in (status.get(", " or () and (status.get(")
    ),
    "pods-told-apart-by-name-alone": fails(
        LINKS, Patch(IDENTITY, '    if found["metadata"]["uid"] != key.uid:', "    if False:")
    ),
    "pods-that-have-ended-charge": fails(
        LINKS, Patch(IDENTITY, '.get("phase") in {"Succeeded", "Failed"}:', '.get("phase") in {""}:')
    ),
    "owners-that-do-not-control-count": fails(
        LINKS, Patch(IDENTITY, 'owner.get("controller") is True and (owner', "(owner")
    ),
    "numbers-shown-to-anybody": fails(
        "unit/foedus_operator/test_health.py::test_a_page_takes_nothing_and_is_for_whom_rbac_lets_read_it",
        Patch(SERVING, "return await page(request) if allowed else", "return await page(request) if True else"),
    ),
    "each-claim-is-a-new-start": fails(
        f"{OF_IDENTITY}::test_a_pod_keeps_its_number_and_the_next_one_gets_the_next",
        Patch(CLAIMS, "    if held is not None and _holder(held) == caller.pod_uid:", "    if False:"),
    ),
    "charges-sent-again": fails(
        f"{OF_CLIENT}::test_a_charge_that_was_sent_is_never_repeated",
        Patch(CLIENT, "ledger_wire.CHARGES_PATH, NotSent, request", "ledger_wire.CHARGES_PATH, Unavailable, request"),
    ),
    "any-ledger-service-believed": fails(
        f"{OF_CLIENT}::test_only_the_pinned_authority_counts",
        Patch(
            CLIENT,
            "    context.minimum_version = ssl.TLSVersion.TLSv1_3\n",
            "    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n",
        ),
    ),
}
