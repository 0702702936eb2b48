"""Mutants of private inference as it is used: what client and parties compare, bound, and keep to themselves."""

from __future__ import annotations

from attacks.mutants import Patch, fails

INFERENCE = "workloads/foedus_workloads/inference"
DESK, INQUIRY, SHARES = f"{INFERENCE}/desk.py", f"{INFERENCE}/inquiry.py", f"{INFERENCE}/shares.py"
RECEPTION = "workloads/foedus_workloads/transport/reception.py"
FRAMES = "workloads/foedus_workloads/transport/frames.py"
MACHINES = "unit/foedus_workloads/test_inference_machines.py"
SESSIONS = "unit/foedus_workloads/test_inference_sessions.py"
REFUSES = f"{MACHINES}::test_a_party_refuses_what_it_would_not_compute"
ENDS = f"{MACHINES}::test_a_client_ends_the_session_at_what_it_does_not_expect"

INFERENCE_MUTANTS = {
    "other-models-computed": fails(
        f"{REFUSES}[model]",
        Patch(DESK, "        if asked.model_digest != self._label.model_digest:", "        if False:"),
    ),
    "other-sharings-computed": fails(
        f"{REFUSES}[sharing]",
        Patch(
            DESK,
            "        if (terms.model_digest, terms.fraction) != (",
            "        if (label.digest, terms.fraction) != (",
        ),
    ),
    "other-programs-computed": fails(
        f"{REFUSES}[program]",
        Patch(DESK, "        if asked.terms.program_digest != task.digest:", "        if False:"),
    ),
    "consent-not-compared": fails(
        f"{MACHINES}::test_a_client_takes_no_other_answer_for_consent[other terms]",
        Patch(INQUIRY, "        if message.terms_digest != self._question.terms.digest:", "        if False:"),
    ),
    "shares-sent-before-all-consent": fails(
        f"{MACHINES}::test_shares_leave_the_client_only_when_all_three_mean_the_same_session",
        Patch(INQUIRY, "        if len(self._ready) < len(self._members):", "        if False:"),
    ),
    "any-input-taken": fails(
        f"{MACHINES}::test_a_party_makes_room_only_for_the_input_that_the_program_takes[huge]",
        Patch(DESK, "        if message.tensors != tuple(named", "        if () != () and () != tuple(named"),
    ),
    "results-of-any-shape-taken": fails(
        f"{ENDS}[shape]",
        Patch(INQUIRY, "        if message.tensor != tensor_header(kind):", "        if False:"),
    ),
    "clients-kept-for-ever": fails(
        f"{ENDS}[no progress]",
        Patch(INQUIRY, "        if not self._rounds[party] - isinstance(message, Output) < ", "        if not -1 < "),
    ),
    "results-sent-without-a-mask": fails(
        f"{MACHINES}::test_what_the_client_is_sent_is_masked_anew",
        Patch(f"{INFERENCE}/task.py", "    return result.own + zero_mask", "    return result.own + 0 * zero_mask"),
    ),
    "shares-of-another-party-taken": fails(
        "unit/foedus_workloads/test_inference_shares.py::test_a_party_takes_no_other_file[another party]",
        Patch(SHARES, "    if label.party != party:", "    if False:"),
    ),
    "any-client-of-the-authority-served": fails(
        f"{SESSIONS}::test_a_strangers_certificate_gets_no_session[another cluster]",
        Patch(RECEPTION, "        elif is_caller(", "        elif True or is_caller("),
    ),
    "headers-of-sessions-not-bounded": fails(
        f"{SESSIONS}::test_a_header_is_bounded_before_it_is_read",
        Patch(FRAMES, "        if length > limits.MAX_HEADER_BYTES:", "        if False:"),
        shows="TimeoutError",  # it waits for a header of that length
    ),
    "defects-told-with-their-words": fails(
        f"{MACHINES}::test_a_client_is_told_of_a_defects_place_and_not_of_its_text",
        Patch(DESK, '{describe_defect(error)}"', '{describe_defect(error)} {error}"'),
    ),
}
