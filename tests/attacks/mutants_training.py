"""Mutants of what stands around secure aggregation: noise, clipping, ledger, journal, plans. Tests fail."""

from __future__ import annotations

from attacks.mutants import Patch, fails

UNIT = "unit/foedus_workloads"
WORKLOADS = "workloads/foedus_workloads"
PLAN, SCALE, WIRE = (f"workloads/foedus_contract/{name}.py" for name in ("plan", "scale", "wire"))
LEDGER, SQLITE = "workloads/foedus_ledger/ledger.py", "workloads/foedus_ledger/sqlite.py"
DURABLE = "workloads/foedus_contract/durable.py"
CLIENT, JOURNAL, SILO_JOB, BROADCAST, COORDINATOR_JOB, COORDINATOR_ENTRIES = (
    f"{WORKLOADS}/training/{name}.py"
    for name in ("client", "journal", "silo_job", "broadcast", "coordinator_job", "coordinator_entries")
)
GUARDS = f"{UNIT}/test_client_guards.py"
NOT_THE_PLANS = "test_an_attempt_that_is_not_the_plans_is_refused_and_leaves_no_trace"
NOT_SIGNED = "test_an_offer_that_the_coordinator_did_not_sign_counts_as_none"
NEWEST = "test_the_newest_broadcast_is_taken_its_attempt_counts_as_charged_and_the_next_number_is_above_it"
UNMASK, COORDINATOR = f"{WORKLOADS}/secagg/unmask.py", f"{WORKLOADS}/secagg/coordinator.py"
DROPOUTS = "simulation/test_secagg_dropouts.py"

TRAINING_MUTANTS = {
    # Noise and sensitivity
    "noise-scaled-for-all-silos": fails(
        f"{UNIT}/test_training_local_step.py::test_a_contribution_is_the_sum_plus_one_share_of_the_plans_scale",
        Patch(PLAN, "/ math.sqrt(privacy.min_honest)", "/ math.sqrt(len(self.silos))"),
    ),
    "local-noise-shared-out": fails(
        f"{UNIT}/test_noise_local.py::test_each_silos_own_share_is_all_the_noise_and_the_sum_bears_n_of_them",
        Patch(PLAN, "math.sqrt(privacy.min_honest)", "math.sqrt(privacy.threshold - privacy.colluders)"),
    ),
    "noise-left-out": fails(
        f"{UNIT}/test_training_local_step.py::test_the_released_sum_bears_the_noise_that_the_plan_promises",
        Patch(
            f"{WORKLOADS}/training/local_step.py",
            "to_ring(total + sampler(plan.share_scale(len(total)), len(total)))",
            "to_ring(total)",
        ),
    ),
    "budgets-not-calibrated-for": fails(
        "unit/foedus_ledger/test_calibration.py",
        Patch("workloads/foedus_ledger/calibration.py", "    needs += [_needed(", "    needs += [0.0 * _needed("),
    ),
    "rounding-not-in-the-sensitivity": fails(
        "unit/foedus_contract/test_plan.py::test_numbers_of_the_ten_silo_plan",
        Patch(SCALE, "return grid_per_clip + _rounding(coordinates)", "return grid_per_clip"),
    ),
    "gradients-not-clipped": fails(
        f"{UNIT}/test_privacy_clipping.py::test_rows_are_scaled_to_the_clip_and_never_up",
        Patch(f"{WORKLOADS}/privacy/clipping.py", "    rows *= (clip / np.maximum(norms, clip))[:, None]", "    ()"),
    ),
    "values-not-finite-pass": fails(
        f"{UNIT}/test_privacy_clipping.py::test_rows_are_scaled_to_the_clip_and_never_up",
        Patch(f"{WORKLOADS}/privacy/clipping.py", "    rows[broken], norms[broken] = 0.0, 0.0\n", ""),
        shows="nan",
    ),
    "integer-norm-not-checked": fails(
        f"{UNIT}/test_privacy_quantise.py::test_a_row_is_rounded_and_refused_above_the_sensitivity",
        Patch(
            f"{WORKLOADS}/privacy/quantise.py",
            '    integers[np.einsum("ij,ij->i", integers, integers) > sensitivity * sensitivity] = 0\n',
            "",
        ),
    ),
    # Losses
    "lost-silos-masks-left": fails(
        f"{DROPOUTS}::test_every_subset_of_up_to_three_lost_at_a_stage_leaves_the_survivors_sum[upload]",
        Patch(UNMASK, "    for name in sorted(sharers - survivors):", "    for name in ():"),
    ),
    "quorum-not-checked": fails(
        f"{UNIT}/test_secagg_coordinator.py::test_four_lost_after_their_vectors_abort_before_anything_is_unmasked",
        Patch(COORDINATOR, "    if len(able) < state.context.threshold:", "    if not able:"),
        why="no silo relies on it: the silos' own counts are few-sharers, small-survivor-sets and small-roster",
    ),
    "plans-with-two-views-accepted": fails(
        "unit/foedus_contract/test_plan.py::test_an_inconsistent_plan_is_refused",
        Patch(
            PLAN, "        if 2 * self.privacy.threshold <= len(names) + self.privacy.colluders:", "        if False:"
        ),
    ),
    "same-data-at-two-silos": fails(
        "unit/foedus_contract/test_plan.py::test_an_inconsistent_plan_is_refused",
        Patch(
            PLAN, "        if len({silo.data_digest for silo in self.silos}) < len(self.silos):", "        if False:"
        ),
    ),
    "digests-of-data-in-the-report": fails(
        "unit/foedus_contract/test_plan.py::test_what_is_public_of_a_plan_has_no_digest_of_data",
        Patch(PLAN, 'self.model_dump(exclude={"silos": {"__all__": {"data_digest"}}})', "self, from_attributes=True"),
    ),
    # Ledger
    "filter-left-out": fails(
        "unit/foedus_ledger/test_ledger.py::test_the_reservation_that_would_pass_the_limit_is_refused",
        Patch(LEDGER, "    if not admits(record.spec, record.accounts.values(), (account,)):", "    if False:"),
    ),
    "stored-limit-not-checked": fails(
        "unit/foedus_ledger/test_ledger.py::test_new_accounts_that_are_refused",
        Patch(LEDGER, "    if opened and not admits(", "    if not opened and not admits("),
    ),
    "charge-beyond-the-reservation": fails(
        "unit/foedus_ledger/test_ledger.py::test_charges_that_are_refused",
        Patch(LEDGER, "    if account.charged >= account.reserved:", "    if account.charged < 0:"),
        shows="charged must not exceed reserved",
    ),
    "attempt-charged-twice": fails(
        "unit/foedus_ledger/test_sqlite_ledger.py::test_an_attempt_is_never_charged_twice",
        Patch(LEDGER, "    if attempt <= account.last_attempt:", "    if attempt < 0:"),
        shows="charged must not exceed the attempts that were made",
    ),
    "spent-budget-given-back": fails(
        "unit/foedus_ledger/test_ledger.py::test_transitions_that_give_something_back_are_refused",
        Patch(
            LEDGER,
            "    if step not in {(0, False), (1, True)} or after.last_attempt < before.last_attempt:",
            "    if False:",
        ),
    ),
    "less-noise-than-reserved": fails(
        "unit/foedus_ledger/test_sqlite_ledger.py::test_charges_pass_on_the_noise_that_will_be_drawn",
        Patch(
            LEDGER,
            "    if noise_multiplier is not None and not noise_multiplier >=",
            "    if noise_multiplier is None and not noise_multiplier >=",
        ),
    ),
    "charge-not-durable": fails(
        "unit/foedus_ledger/test_sqlite_ledger.py::test_commits_are_durable_before_they_are_reported",
        Patch(SQLITE, "PRAGMA synchronous = EXTRA", "PRAGMA synchronous = NORMAL"),
    ),
    "two-writers-both-win": fails(
        "unit/foedus_ledger/test_sqlite_ledger.py::test_of_two_writers_with_the_same_version_one_loses",
        Patch(
            SQLITE,
            'WHERE id = 1 AND version = ?",\n            (new.version, text, old.version),',
            'WHERE id = 1",\n            (new.version, text),',
        ),
        shows="the version rises by one",
        why="the file's own trigger refuses a version that does not rise, so the row cannot be overwritten unseen",
    ),
    "budget-not-asked-before-pods": fails(
        "unit/foedus_engine/test_decide_training.py::test_first_failure_is_the_reason_and_nothing_is_made",
        Patch(
            "operator/foedus_engine/decide/checks.py",
            "    check_calibration,\n    check_accounts",
            "    check_accounts",
        ),
        shows="AssertionError",
    ),
    # Journal and client
    "journal-not-read-at-start": fails(
        f"{UNIT}/test_journal.py::test_after_a_restart_an_attempt_that_was_opened_gets_no_answer_and_the_next_one_does",
        Patch(JOURNAL, "yield Journal(path, descriptor, _read(path, lines))", "yield Journal(path, descriptor, ())"),
        shows="AttributeError: 'NoneType' object has no attribute 'round'",  # nothing was read
    ),
    "journal-not-synced": fails(
        f"{UNIT}/test_journal.py::test_entries_are_synced_to_disk",
        Patch(DURABLE, "        os.fsync(descriptor)\n    except OSError:", "    except OSError:"),
    ),
    "noise-before-charge": fails(
        f"{UNIT}/test_coordinator_with_silos.py::test_a_silo_that_vanishes_in_a_round_is_left_out_and_its_charge_stays",
        Patch(
            SILO_JOB,
            '_journalled(replace(state, total=total), attempt, "Charging", ChargeLedger(attempt))',
            '_journalled(replace(state, total=total), attempt, "Charging", DrawNoise(attempt, total))',
        ),
        why="the answer of the ledger is no longer waited for; the silo's part goes on at the noise",
    ),
    "unpaid-vectors-sent": fails(
        f"{UNIT}/test_coordinator_with_silos.py::test_a_silo_whose_ledger_refuses_says_so_and_leaves_and_the_others_go_on",
        Patch(SILO_JOB, "    if answer.problem is None:\n        assert", "    if True:\n        assert"),
    ),
    "adapter-not-compared": fails(
        f"{GUARDS}::{NOT_THE_PLANS}",
        Patch(BROADCAST, "        if bytes_digest(payload) != start.adapter_digest:", "        if payload is None:"),
        shows="ValueError: too many values to unpack (expected 1)",  # it answers instead of refusing
    ),
    "attempts-outside-the-plan": fails(
        f"{GUARDS}::{NOT_THE_PLANS}",
        Patch(
            SILO_JOB,
            "    if attempt.round >= plan.rounds or not attempt.round <= attempt.attempt < plan.attempts:",
            "    if attempt.round < 0:",
        ),
    ),
    "counts-of-charges-believed": fails(
        f"{GUARDS}::{NOT_THE_PLANS}",
        Patch(
            SILO_JOB, "    if not attempt.round <= message.charged <= attempt.attempt:", "    if message.charged < 0:"
        ),
    ),
    "answers-of-ended-attempts-used": fails(
        f"{GUARDS}::test_a_silo_pays_only_for_an_attempt_that_somebody_still_waits_for",
        Patch(
            SILO_JOB,
            "        case SumComputed(attempt, total) if _is_due(state, attempt):",
            "        case SumComputed(attempt, total):",
        ),
    ),
    # Broadcasts that are signed, kept, offered; coordinators that start again
    "broadcasts-of-anybody-entered": fails(
        f"{GUARDS}::{NOT_THE_PLANS}",
        Patch(SILO_JOB, "    rules.checker.check(message, payload, plan, rules.plan_digest)\n", ""),
        shows="ValueError: too many values to unpack (expected 1)",
    ),
    "offers-of-anybody-taken": fails(
        f"{UNIT}/test_coordinator_job.py::{NOT_SIGNED}",
        Patch(
            COORDINATOR_JOB,
            "        state.rules.checker.check(start, payload, state.rules.plan, state.rules.plan_digest)\n",
            "        pass\n",
        ),
    ),
    "broadcasts-under-a-silos-certificate": fails(
        f"{UNIT}/test_coordinator_job.py::{NOT_SIGNED}",
        Patch(
            BROADCAST, "            if not self._is_coordinators(certificate):", "            if certificate is None:"
        ),
    ),
    "broadcasts-of-another-authority": fails(
        f"{UNIT}/test_coordinator_job.py::{NOT_SIGNED}",
        Patch(BROADCAST, "            certificate.verify_directly_issued_by(self.authority)\n", ""),
    ),
    "broadcasts-signatures-not-checked": fails(
        f"{UNIT}/test_coordinator_job.py::{NOT_SIGNED}",
        Patch(BROADCAST, "            key.verify(start.signature, statement, ec.ECDSA(hashes.SHA256()))\n", ""),
    ),
    "broadcasts-signed-for-any-plan": fails(
        f"{UNIT}/test_coordinator_job.py::{NOT_SIGNED}",
        Patch(
            WIRE,
            '            "plan": plan_digest,\n            "round": start.id.round,\n',
            '            "round": start.id.round,\n',
        ),
    ),
    "broadcasts-signed-for-any-attempt": fails(
        f"{UNIT}/test_coordinator_job.py::{NOT_SIGNED}",
        Patch(WIRE, '            "attempt": start.id.attempt,\n', ""),
    ),
    "stale-offers-taken": fails(
        f"{UNIT}/test_coordinator_job.py::{NEWEST}",
        Patch(
            COORDINATOR_JOB,
            "    if state.offered is not None and start.id.attempt <= state.offered[0].id.attempt:",
            "    if start.id.attempt < 0:",
        ),
    ),
    "restored-attempt-used-again": fails(
        f"{UNIT}/test_coordinator_job.py::{NEWEST}",
        Patch(
            COORDINATOR_JOB,
            "used, charged = start.id.attempt + 1, start.charged + 1",
            "used, charged = start.id.attempt, start.charged",
        ),
    ),
    "offers-not-asked-for": fails(
        f"{UNIT}/test_coordinator_job.py::test_silos_are_asked_only_by_a_coordinator_without_a_journal",
        Patch(COORDINATOR_JOB, "resume=state.asking))", "resume=False))"),
    ),
    "offers-of-fewer-than-a-quorum": fails(
        f"{UNIT}/test_coordinator_job.py::test_a_quorum_of_offers_is_enough_at_the_deadline_and_fewer_are_not",
        Patch(
            COORDINATOR_JOB,
            "    if len(state.ready) < state.rules.plan.privacy.threshold:",
            "    if not state.ready:",
        ),
    ),
    "cut-off-attempts-used-again": fails(
        f"{UNIT}/test_coordinator_journal.py::test_a_new_process_goes_on_after_every_attempt_that_was_opened",
        Patch(COORDINATOR_ENTRIES, "    if not recovered.opened:", "    if recovered.opened or not recovered.opened:"),
    ),
    "attempts-broadcast-before-the-journal": fails(
        f"{UNIT}/test_coordinator_job.py::test_with_nothing_offered_the_job_begins",
        Patch(
            COORDINATOR_JOB,
            "effects=(JournalCoordinator(entry), *sends, *rest.effects))",
            "effects=(*sends, *rest.effects))",
        ),
    ),
    "attempts-answered-again-after-a-restart": fails(
        f"{GUARDS}::test_a_restarted_silo_answers_no_attempt_again_and_offers_the_broadcast_it_keeps",
        Patch(SILO_JOB, "    return SiloJob(rules, last, kept)", "    return SiloJob(rules, None, kept)"),
        shows="was answered before",
        why="the journal stands behind the machine: the process ends in place of an answer",
    ),
    "broadcasts-not-kept": fails(
        f"{GUARDS}::test_a_restarted_silo_answers_no_attempt_again_and_offers_the_broadcast_it_keeps",
        Patch(
            SILO_JOB,
            "    before = (KeepBroadcast(message, payload), LoadAdapter(payload),",
            "    before = (LoadAdapter(payload),",
        ),
    ),
    "older-coordinators-answered": fails(
        f"{GUARDS}::test_a_silo_starts_again_when_an_older_coordinator_answers",
        Patch(SILO_JOB, "    if message.incarnation < state.coordinator:", "    if message.incarnation < 0:"),
        shows="DID NOT RAISE",
    ),
    "errors-of-a-full-volume-passed-over": fails(
        f"{UNIT}/test_coordinator_journal.py::test_a_full_volume_is_unavailable_and_leaves_every_file_as_it_was",
        Patch(
            f"{WORKLOADS}/training/coordinator_journal.py",
            "            raise unwritable(self._path, error) from error",
            "            del error",
        ),
        shows="DID NOT RAISE",
    ),
    "half-a-line-left": fails(
        f"{UNIT}/test_coordinator_journal.py::test_a_full_volume_is_unavailable_and_leaves_every_file_as_it_was",
        Patch(DURABLE, "        os.ftruncate(descriptor, length)  # half a line would spoil the next one\n", ""),
    ),
    "data-not-compared-with-the-plan": fails(
        f"{UNIT}/test_entry.py::test_a_silo_stops_before_joining_when_data_budget_or_model_do_not_fit_the_plan[other data]",
        Patch(
            CLIENT,
            "    if (expected.data_digest, expected.records) != (records.digest, records.count):",
            "    if False:",
        ),
    ),
    "where-data-are-wrong-is-told": fails(
        f"{UNIT}/test_entry.py::test_where_a_silos_data_are_wrong_is_said_in_its_own_log_alone",
        Patch(
            f"{WORKLOADS}/entry.py",
            "    if isinstance(spec, ClientRunSpec) and code is ExitCode.INVALID_DATA:",
            "    if False:",
        ),
    ),
    "logs-last-line-told": fails(
        "unit/foedus_engine/test_embedded_engine.py::"
        "test_a_jobs_condition_says_what_its_process_reported_and_nothing_of_its_log",
        Patch(
            "operator/foedus_engine/cluster/supervisor.py",
            'pods.last_words(pods.progress_file(folder)) if code else "")',
            '(folder / "log").read_text("utf-8") if code else "")',
        ),
    ),
    "labels-of-the-author-compared": fails(
        f"{UNIT}/test_entry.py::test_a_silo_stops_before_joining_when_data_budget_or_model_do_not_fit_the_plan"
        "[a label that the plan lacks]",
        Patch(CLIENT, " or not set(record.spec.labels) <= set(spec.plan.model.labels):", ":"),
    ),
    "fewer-colluders-than-the-holder-asks-for": fails(
        f"{UNIT}/test_entry.py::test_a_silo_stops_before_joining_when_data_budget_or_model_do_not_fit_the_plan"
        "[fewer colluders than the holder asks for]",
        Patch(CLIENT, "spec.plan.privacy.colluders < record.spec.least_colluders:", "False:"),
    ),
    "labels-asked-for-after-pods": fails(
        "unit/foedus_engine/test_decide_training.py::test_first_failure_is_the_reason_and_nothing_is_made",
        Patch("operator/foedus_engine/decide/checks.py", "    check_labels,\n", ""),
    ),
    "overdue-attempts-kept": fails(
        f"{GUARDS}::test_a_silo_gives_up_an_attempt_on_which_its_coordinator_sits",
        Patch(
            SILO_JOB,
            "    return JobStep(_idle(state), (_refusal(state, event.id,",
            "    return JobStep(state, (_refusal(state, event.id,",
        ),
    ),
    "what-the-ledger-holds-told": fails(
        f"{GUARDS}::test_of_a_charge_that_was_not_made_the_coordinator_hears_the_kind_of_trouble_alone",
        Patch(
            SILO_JOB,
            "    refusal = _refusal(state, answer.id, reason)",
            "    refusal = _refusal(state, answer.id, answer.problem.what)",
        ),
    ),
    "one-key-under-two-names": fails(
        f"{UNIT}/test_journal.py::test_a_policy_must_pin_the_silos_own_key",
        Patch(f"{WORKLOADS}/training/identity.py", " or len(set(pinned.values())) < len(pinned):", ":"),
    ),
    # What a user hands in
    "reports-policy-widened": fails(
        "unit/foedus/test_report_page.py::test_the_policy_allows_the_pages_own_style_and_no_more",
        Patch("sdk/foedus/report/markup.py", "default-src 'none'; style-src", "default-src 'self'; style-src"),
    ),
    "unknown-fields-accepted": fails(
        "contract/test_crds.py::test_pydantic_and_the_crd_agree",
        Patch(
            "operator/foedus_engine/api/parse.py",
            '_validate(model, document, source, "forbid")',
            '_validate(model, document, source, "ignore")',
        ),
    ),
    "code-named-by-a-model-accepted": fails(
        f"{UNIT}/test_training_base.py::test_a_broken_model_is_refused_with_file_and_cure",
        Patch(
            f"{WORKLOADS}/model_folder.py",
            'for field in ("auto_map", "quantization_config"):',
            'for field in ("quantization_config",):',
        ),
    ),
    "silos-records-taken-for-public": fails(
        f"{UNIT}/test_trainer_public.py::test_a_silos_own_records_are_no_public_records",
        Patch(f"{WORKLOADS}/training/trainer.py", "    if owner is not None:", '    if owner == "":'),
    ),
}
