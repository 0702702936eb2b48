"""Mutants of private inference: each mask of the protocols, and what a session compares."""

from __future__ import annotations

from attacks.mutants import Patch, fails

MPC = "workloads/foedus_workloads/mpc"
SESSION, LINKS = f"{MPC}/session.py", "workloads/foedus_workloads/transport/parties.py"
TESTS = "unit/foedus_workloads"
ALIKE = f"{TESTS}/test_mpc_secrecy.py::test_every_secret_looks_alike_to_each_party"
GIVEN = f"{TESTS}/test_mpc_secrecy.py::test_a_step_shows_each_party_what_it_was_given_and_no_more"
EXPECTED = f"{TESTS}/test_mpc_session.py::test_what_was_not_expected_ends_the_session"

MPC_MUTANTS = {
    "texts-not-padded": fails(
        f"{TESTS}/test_mpc_model_program.py::test_texts_are_padded_to_powers_of_two_or_the_models_most",
        Patch(
            f"{MPC}/model/program.py",
            "    return min(max(SMALLEST_LENGTH",
            "    return tokens or min(max(SMALLEST_LENGTH",
        ),
    ),
    "one-seed-for-both-components": fails(
        f"{TESTS}/test_mpc_model_program.py::test_no_seed_is_used_twice",
        Patch(
            f"{MPC}/model/sharing.py",
            "seeds = (entropy(KEY_BYTES), entropy(KEY_BYTES))",
            "seeds = (entropy(KEY_BYTES),) * 2",
        ),
    ),
    "products-left-unmasked": fails(
        f"{ALIKE}[multiply, all factors]",
        Patch(
            f"{MPC}/arithmetic.py",
            "    value = domain.add(z.value, zero_mask(",
            "    value = domain.add(z.value, 0 * zero_mask(",
        ),
    ),
    "overflow-exchanged-bare": fails(
        f"{ALIKE}[truncate]",
        Patch(
            f"{MPC}/truncation.py",
            "slot, self.shape, self.cut.count)",
            "slot, self.shape, self.cut.count) * (slot < _FIRST_PAD)",
        ),
    ),
    "bits-sent-bare": fails(
        f"{ALIKE}[bit to arithmetic]",
        Patch(
            f"{MPC}/known_factor.py",
            "    part = domain.subtract(domain.multiply(e_second, n), g_second)\n",
            "    part, g_second = domain.multiply(e_second, n), 0 * g_second\n",
        ),
    ),
    "dealers-summands-sent-bare": fails(
        f"{GIVEN}[truncate summands]",
        Patch(
            f"{MPC}/cut.py",
            "else x + b.rest\n",
            "else x + 0 * b.rest\n",
        ),
    ),
    "injected-bits-sent-bare": fails(
        f"{GIVEN}[inject]",
        Patch(f"{MPC}/conversion.py", "    part = -g_second\n", "    g_second = 0 * g_second\n    part = -g_second\n"),
    ),
    "streams-begin-anew-at-each-step": fails(
        f"{TESTS}/test_mpc_session.py::test_streams_differ_by_key_step_and_slot",
        Patch(f"{MPC}/streams.py", "    block = step.to_bytes", "    block = (0).to_bytes"),
    ),
    "stream-keys-for-any-session": fails(
        f"{TESTS}/test_mpc_session.py::test_a_streams_key_is_bound_to_terms_component_and_incarnations",
        Patch(SESSION, '{"terms": terms.model_dump(), ', '{"terms": {}, '),
    ),
    "terms-not-compared": fails(
        f"{TESTS}/test_mpc_session.py::test_parties_with_other_terms_do_not_begin",
        Patch(SESSION, "        if hello.terms_digest != self._terms.digest:", "        if False:"),
    ),
    "rounds-of-other-sessions-taken": fails(
        f"{EXPECTED}[another session]",
        Patch(SESSION, "        if message.session != self._terms.session:", "        if False:"),
    ),
    "rounds-not-counted": fails(
        f"{EXPECTED}[an earlier round]",
        Patch(SESSION, "        if message.number != self._number(sender):", "        if False:"),
    ),
    "shapes-not-compared": fails(
        f"{EXPECTED}[another shape]",
        Patch(SESSION, "        if message.tensors != tuple(", "        if message.tensors == () and () != tuple("),
    ),
    "any-party-answers": fails(
        f"{TESTS}/test_mpc_transport.py::test_a_party_that_answers_under_anothers_name_is_refused",
        Patch(LINKS, "            if party_behind(connection, self._place) != party:", "            if False:"),
    ),
}
