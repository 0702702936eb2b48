"""Mutants of `Replicated3PCMalicious`: with each check off, its own attack gets through."""

from __future__ import annotations

from attacks.mutants import Patch, fails

MALICIOUS = "workloads/foedus_workloads/mpc/malicious"
FILE = "unit/foedus_workloads/test_mpc_malicious.py"
COMPUTES = f"{FILE}::test_an_error_that_a_party_computes_on_with_ends_the_session"
ONCE = "unit/foedus_workloads/test_mpc_malicious_once.py"
DEALT = f"{FILE}::test_shares_that_do_not_fit_end_the_session_before_anything_is_computed"

MALICIOUS_MUTANTS = {
    "products-not-checked": fails(
        f"{COMPUTES}[0-share]",
        Patch(f"{MALICIOUS}/audit.py", "            if group:\n", "            if group and kind is ANDS:\n"),
    ),
    "ands-not-checked": fails(
        f"{COMPUTES}[0-deal]",
        Patch(f"{MALICIOUS}/audit.py", "            if group:\n", "            if group and kind is not ANDS:\n"),
        Patch(f"{MALICIOUS}/audit.py", "        if claims.carries:\n", "        if False:\n"),
    ),
    "bits-not-checked": fails(
        f"{COMPUTES}[0-convert]",
        Patch(f"{MALICIOUS}/bits.py", "        transcripts.zero(own, following, width)\n", ""),
    ),
    "matrices-not-checked": fails(
        f"{COMPUTES}[0-share]",
        Patch(f"{MALICIOUS}/audit.py", "        if claims.matrices:", "        if False:"),
    ),
    "differences-not-compared-with-zero": fails(
        f"{COMPUTES}[1-share]",
        Patch(
            f"{MALICIOUS}/transcripts.py",
            "        self.with_next(combination([(own, -1), (following, -1)]), bits)\n        self.with_previous(following, bits)\n",
            "",
        ),
    ),
    "buckets-not-shuffled": fails(
        f"{FILE}::test_a_claim_and_random_products_that_are_wrong_alike_are_told_apart_by_their_places",
        Patch(f"{MALICIOUS}/coins.py", "return 0 if self.planned else", "return 0 if True else"),
    ),
    "buckets-of-one": fails(
        f"{FILE}::test_buckets_are_as_shallow_as_forty_bits_allow",
        Patch(f"{MALICIOUS}/buckets.py", "    2: 1_048_583,\n", "    2: 1_009,\n"),
    ),
    "openings-not-compared": fails(
        f"{FILE}::test_a_false_opening_is_seen_by_its_other_holder[0]",
        Patch(f"{MALICIOUS}/opening.py", "    transcripts.opened(missing, following, bits)\n", ""),
    ),
    "masked-values-not-compared": fails(
        f"{FILE}::test_masked_values_that_two_parties_see_are_compared_with_what_the_third_knows[2]",
        Patch(
            f"{MALICIOUS}/truncation.py",
            "        transcripts.with_previous(_plus(x.next, masks.next, cut.offset), cut.bits)\n",
            "",
        ),
        Patch(f"{MALICIOUS}/truncation.py", "        transcripts.with_next(_plus(x.own, masks.own), cut.bits)\n", ""),
        Patch(f"{MALICIOUS}/truncation.py", "        transcripts.with_next(other, cut.bits)\n", ""),
        Patch(f"{MALICIOUS}/truncation.py", "        transcripts.with_previous(other, cut.bits)\n", ""),
        why="both parties of a pair note an opened value: with one side off the session ends for everybody",
    ),
    "dealt-shares-not-compared": fails(
        f"{DEALT}[own-0]",
        Patch(f"{MALICIOUS}/audit.py", "        for each in shared:\n", "        for each in ():\n"),
    ),
    "coins-chosen-late": fails(
        f"{FILE}::test_coins_that_are_not_those_that_were_committed_to_end_the_session[revealed]",
        Patch(
            f"{MALICIOUS}/coins.py",
            "        if not hmac.compare_digest(commitment(session, number, other, nonces[other]), seen):",
            "        if False:",
        ),
    ),
    "two-commitments-taken": fails(
        f"{FILE}::test_two_commitments_of_one_party_end_the_session",
        Patch(
            f"{MALICIOUS}/coins.py",
            "        if not hmac.compare_digest(said[NONCE_BYTES:], echo):",
            "        if False:",
        ),
    ),
    "commitments-of-anybody": fails(
        f"{ONCE}::test_another_partys_commitment_cannot_be_given_as_ones_own[False-1]",
        Patch(f"{MALICIOUS}/coins.py", 'number.to_bytes(8, "big") + bytes([party])', 'number.to_bytes(8, "big")'),
    ),
    "both-projections-tossed-first": fails(
        f"{ONCE}::test_coins_are_tossed_when_all_that_they_decide_on_has_come[matrices]",
        Patch(
            f"{MALICIOUS}/matrices.py",
            "    right = yield from toss()\n",
            "    right = yield from toss()\n    early = yield from toss()\n\n"
            "    def toss():\n        return early\n        yield\n\n",
        ),
    ),
    "random-bits-used-twice": fails(
        f"{ONCE}::test_a_random_bit_converts_one_bit_and_no_more",
        Patch(
            f"{MALICIOUS}/record.py",
            "found, self.left = self.left.part(0, count), self.left.part(count, self.left.count)",
            "found = self.left.part(0, count)",
        ),
    ),
    "comparisons-under-one-key": fails(
        f"{ONCE}::test_each_comparison_has_keys_of_its_own_that_neighbours_have_in_common",
        Patch(f"{MALICIOUS}/transcripts.py", "step = party.begin()", "step = type(party.begin())(party, 0)"),
    ),
    "tags-shown-to-all": fails(
        f"{FILE}::test_of_a_wrong_result_nobody_is_shown_a_tag_beside_the_one_who_judges[0]",
        Patch(f"{MALICIOUS}/transcripts.py", "    _check(received.from_next[0], received.from_previous[0])\n", ""),
    ),
    "results-released-unchecked": fails(
        f"{COMPUTES}[2-share]",
        Patch(
            f"{MALICIOUS}/audit.py",
            "        yield from self.settle(party)\n        return fresh\n",
            "        return fresh\n",
        ),
    ),
    "results-copies-not-compared": fails(
        "unit/foedus_workloads/test_inference_machines.py::test_a_client_compares_the_copies_of_each_component",
        Patch(
            "workloads/foedus_workloads/inference/inquiry.py",
            "[Shared(*each) for each in sent] if self._question.copies",
            "[Shared(each[0], sent[(i + 1) % 3][0]) for i, each in enumerate(sent)] if self._question.copies",
        ),
    ),
}
