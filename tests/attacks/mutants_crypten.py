"""Mutants of private inference by CrypTen: each mask, each number of a draw, and what of CrypTen can be reached."""

from __future__ import annotations

from attacks.mutants import Patch, fails

CRYPTEN = "workloads/foedus_workloads/mpc/crypten"
TESTS = "unit/foedus_workloads"
SECRECY = f"{TESTS}/test_crypten_secrecy.py"
UNIFORM = f"{SECRECY}::test_what_is_opened_is_uniform_whatever_the_secret"

CRYPTEN_MUTANTS = {
    "crypten-products-opened-bare": fails(
        f"{UNIFORM}[multiply-2]",
        Patch(
            f"{CRYPTEN}/deals.py",
            "        return tuple(expand(self._key,",
            "        return tuple(0 * expand(self._key,",
        ),
    ),
    "crypten-draws-begin-anew-at-each-deal": fails(
        f"{SECRECY}::test_no_two_deals_are_drawn_alike",
        Patch(f"{CRYPTEN}/deals.py", "number, self._next = self._next, self._next + 1", "number = self._next"),
    ),
    "crypten-truncations-opened-bare": fails(
        f"{UNIFORM}[truncate-2]",
        Patch(
            f"{CRYPTEN}/truncation.py",
            "    opened = yield Opening(",
            "    mask, quotient, top = 0 * mask, 0 * quotient, 0 * top\n    opened = yield Opening(",
        ),
    ),
    "crypten-signs-opened-bare": fails(
        f"{SECRECY}::test_what_a_comparison_opens_is_uniform",
        Patch(
            f"{CRYPTEN}/comparison.py",
            "    opened = yield Opening(sums=(x.view(kind) + mask.view(kind),))",
            "    mask, r, both = 0 * mask, 0 * r, 0 * both\n"
            "    opened = yield Opening(sums=(x.view(kind) + mask.view(kind),))",
        ),
    ),
    "crypten-bits-opened-bare": fails(
        f"{SECRECY}::test_what_a_comparison_opens_is_uniform",
        Patch(
            f"{CRYPTEN}/comparison.py",
            "    opened = yield Opening(words=(",
            "    masks, numbers = 0 * masks, 0 * numbers\n    opened = yield Opening(words=(",
        ),
    ),
    "crypten-results-sent-without-a-mask": fails(
        f"{TESTS}/test_crypten_session.py::test_what_the_client_is_sent_is_masked_anew",
        Patch(f"{CRYPTEN}/execute.py", "    return result + mask", "    return result + 0 * mask"),
    ),
    "crypten-modules-not-refused": fails(
        f"{TESTS}/test_crypten_defects.py::test_what_is_not_safe_cannot_be_imported[crypten.common.serial]",
        Patch(f"{CRYPTEN}/shims.py", '.partition(".")[0] == "crypten" and ', '.partition(".")[0] == "nothing" and '),
    ),
    "seeds-taken-for-small-shares": fails(
        f"{TESTS}/test_crypten_session.py::test_shares_add_up_to_the_text_also_where_one_is_as_small_as_a_seed[2]",
        Patch(
            f"{CRYPTEN}/sharing.py",
            "    return tensors[name] if name in tensors else expanded(",
            '    seed = tensors.get(f"{name}.{SEED}", torch.empty(0))\n'
            "    if tuple(seed.shape) == shape:\n        return seed\n"
            "    return tensors[name] if name in tensors else expanded(",
        ),
    ),
}
