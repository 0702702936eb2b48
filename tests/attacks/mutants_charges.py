"""Mutants of what keeps a restored ledger from refunding: the silo's own log, its head, taking charges over."""

from __future__ import annotations

from attacks.mutants import Patch, fails

SILO_LEDGER = "workloads/foedus_workloads/training/silo_ledger.py"
CHARGES, LEDGER = "workloads/foedus_ledger/charges.py", "workloads/foedus_ledger/ledger.py"
CHARGE_LOG, RECONCILE = "workloads/foedus_ledger/charge_log.py", "sdk/foedus/reconcile.py"
EMBEDDED = "operator/foedus_engine/cluster/embedded_ledgers.py"
GATHER, CHECKS = "operator/foedus_engine/cluster/gather.py", "operator/foedus_engine/decide/checks.py"
OF_SILO, OF_LOG = "unit/foedus_workloads/test_silo_ledger.py", "unit/foedus_ledger/test_charges.py"
OF_ENGINE, OF_RECONCILE = "unit/foedus_engine/test_embedded_ledgers.py", "unit/foedus/test_reconcile.py"
OLD_COPY = f"{OF_SILO}::test_an_old_copy_is_refused_at_the_start_and_at_the_next_charge"
ALTERED = f"{OF_LOG}::test_a_log_that_was_altered_is_refused_in_one_line_at_its_place"
SEEN = "unit/foedus_engine/test_gather.py::test_a_ledger_behind_the_head_that_its_silo_signed_is_news_of_the_job"

CHARGES_MUTANTS = {
    "charges-not-logged": fails(
        f"{OF_SILO}::test_a_charge_is_in_ledger_and_log_and_the_head_counts_it",
        Patch(SILO_LEDGER, 'append_durably(descriptor, line.to_json() + b"\\n")', "pass"),
    ),
    "old-copies-charged": fails(
        OLD_COPY, Patch(SILO_LEDGER, "        check_not_behind(record, before, self._ledger.where)\n", "")
    ),
    "charges-that-the-log-knows-released": fails(
        OLD_COPY,
        Patch(SILO_LEDGER, " or _last_attempt(after, job_uid) != attempt:", ":"),
    ),
    "attempts-that-the-log-knows-charged-again": fails(
        f"{OF_SILO}::test_an_attempt_that_the_log_knows_is_not_charged_again_on_an_old_copy",
        Patch(SILO_LEDGER, "        if _last_attempt(before, job_uid) >= attempt or ", "        if "),
    ),
    "logs-of-another-key-taken": fails(
        f"{OF_SILO}::test_a_log_signed_with_another_key_is_refused",
        Patch(
            CHARGES, "    if charges.head is not None and identity not in (None, charges.identity):", "    if False:"
        ),
    ),
    "logs-of-other-data-taken": fails(
        f"{OF_LOG}::test_a_log_that_is_not_the_ledgers_is_refused",
        Patch(
            CHARGES, "    if charges.head is not None and charges.head.dataset != record.spec.digest:", "    if False:"
        ),
    ),
    "logs-chain-not-checked": fails(
        ALTERED, Patch(CHARGES, "    if line.previous != end_of(charges, line.dataset):", "    if False:")
    ),
    "logs-end-not-checked": fails(
        ALTERED,
        Patch(
            CHARGES,
            "    if charges.head is not None and not is_signed(charges.head, charges.identity):",
            "    if False:",
        ),
    ),
    "reconciling-takes-back": fails(
        f"{OF_LOG}::test_what_is_missing_is_taken_over_as_spent_once",
        Patch(LEDGER, "max(held.charged, logged.charged), max(", "logged.charged, max("),
    ),
    "strangers-logs-taken-over": fails(
        f"{OF_LOG}::test_a_log_has_the_key_that_was_seen",
        Patch(CHARGES, "    if not is_signed(seen, charges.identity):", "    if False:"),
    ),
    "logs-of-any-key-taken-over": fails(
        f"{OF_RECONCILE}::test_a_log_that_a_stranger_signed_is_refused_and_nothing_is_written",
        Patch(CHARGE_LOG, "read_charges(path, identity=own_identity(path))", "read_charges(path)"),
    ),
    "heads-of-strangers-logs-kept": fails(
        f"{OF_RECONCILE}::test_the_engine_keeps_no_head_of_a_strangers_log",
        Patch(EMBEDDED, "read_charges(path, identity=identity)", "read_charges(path)"),
    ),
    "logs-without-the-head-taken-over": fails(
        f"{OF_RECONCILE}::test_a_copy_that_does_not_hold_the_head_that_is_kept_is_refused",
        Patch(CHARGES, "    if lines and (seen.count, seen.hash) not in ends:", "    if False:"),
    ),
    "nobodys-logs-taken-over": fails(
        f"{OF_RECONCILE}::test_a_copy_is_nobodys_while_no_head_is_kept",
        Patch(RECONCILE, "    if budget.head is None:", "    if False:"),
    ),
    "imports-not-checked": fails(
        f"{OF_LOG}::test_an_import_that_gives_something_back_is_refused",
        Patch(LEDGER, "        if after.charged < before.charged or ", "        if False and "),
    ),
    "engine-passes-over-the-log": fails(
        f"{OF_ENGINE}::test_a_restored_ledger_is_behind_its_silos_log",
        Patch(EMBEDDED, "    check_not_behind(record, charges, str(path))\n", ""),
        Patch(EMBEDDED, "        check_reaches(record, seen, str(path))", "        pass"),
        why="the head that the engine kept says so too",
    ),
    "heads-not-kept": fails(
        f"{OF_ENGINE}::test_ledger_and_log_restored_together_are_behind_what_the_engine_saw",
        Patch(EMBEDDED, "            write_durably(path, head.to_json())", "            pass"),
    ),
    "heads-not-compared": fails(SEEN, Patch(CHARGES, "    if held < head.count:", "    if False:")),
    "heads-of-anybody-taken": fails(SEEN, Patch(GATHER, " and is_signed(head, identities[silo])", "")),
    "old-copies-started-on": fails(
        "unit/foedus_engine/test_decide_training.py::"
        "test_a_ledger_that_cannot_be_read_is_a_condition_and_reservations_stand",
        Patch(CHECKS, "    check_ledgers,\n", ""),
        shows="StopIteration",  # the ledger's condition is not there
    ),
}
