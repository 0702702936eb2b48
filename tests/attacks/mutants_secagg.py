"""Mutants of secure aggregation and of what stands around it: with each, an attack recovers a silo's vector."""

from __future__ import annotations

from attacks.mutants import Mutant, Patch, fails, recovers

SECAGG = "workloads/foedus_workloads/secagg"
SILO, MEMBERSHIP, KEYS = f"{SECAGG}/silo.py", f"{SECAGG}/membership.py", f"{SECAGG}/keys.py"
WIRE = "workloads/foedus_contract/wire.py"
MASKS = f"{SECAGG}/masks.py"
ENTRIES = "workloads/foedus_workloads/training/silo_entries.py"
LEDGER, RECORDS = "workloads/foedus_ledger/ledger.py", "workloads/foedus_ledger/records.py"
NOISE = "workloads/foedus_workloads/privacy/noise.py"

JOURNAL_FORGETS = Patch(
    ENTRIES,
    '''    """Raise Refused unless `entry` may follow `last`: a new, higher attempt, or the same attempt's next stage."""''',
    "    return",
)
CHARGED_ALREADY = Patch(
    LEDGER,
    "    if attempt <= account.last_attempt:\n        raise Refused(",
    "    if attempt <= account.last_attempt:\n        return record\n        raise Refused(",
)

TOLD_APART = "attacks/test_transcripts.py::test_the_view_does_not_tell_who_of_two_honest_silos_holds_which_vector[300-one colludes, one is lost]"


def told_apart(*patches: Patch) -> Mutant:
    """A mutant whose transcripts tell two honest silos' vectors apart."""
    return fails(TOLD_APART, *patches, shows="TOLD APART")


SECAGG_MUTANTS = {
    "both-kinds-in-one-answer": recovers(
        "reads-along",
        Patch(
            SILO,
            " for name, both in state.held.items() if name not in state.survivors}",
            " for name, both in state.held.items()}",
        ),
    ),
    "answers-after-the-answer": recovers(
        "asks-for-the-other-kind",
        Patch(
            SILO,
            "return Step(_without_secrets(state), (JournalUnmask(context.id, answer), Send(answer)))",
            "return Step(replace(state, stage=SiloStage.SURVIVORS), (Send(answer),))",
        ),
        why="the journal is told of the first answer only, else it refuses the second",
    ),
    "survivors-signatures-not-checked": recovers(
        "split-views",
        Patch(
            SILO,
            '        check_signature(pinned[signer], signature, statement, what=f"the survivors that silo {signer} saw")',
            "        pass",
        ),
    ),
    "survivors-signatures-not-counted": recovers(
        "split-views-few-signatures",
        Patch(SILO, '    _check_enough(state, len(message.signatures), where="SurvivorProof")\n', ""),
    ),
    "second-survivor-set-signed": recovers(
        "second-survivor-set",
        Patch(
            SILO, "case SiloStage.SURVIVORS, Survivors():", "case SiloStage.SURVIVORS | SiloStage.PROOF, Survivors():"
        ),
    ),
    "survivors-need-not-have-shared": recovers(
        "unequal-deliveries",
        Patch(SILO, " or not set(survivors) <= set(state.held):", ":"),
        Patch(
            SILO,
            "self_mask for name in state.survivors}",
            "self_mask for name in state.survivors if name in state.held}",
        ),
        why="the second patch keeps the silo from stumbling over a share that it does not hold",
    ),
    "sharers-not-counted": recovers(
        "few-sharers", Patch(SILO, '    _check_enough(state, len(senders) + 1, where="DeliverShares")\n', "")
    ),
    "survivors-not-counted": recovers(
        "small-survivor-sets",
        Patch(SILO, '    _check_enough(state, len(survivors), where="Survivors")\n', ""),
        Patch(SILO, '    _check_enough(state, len(message.signatures), where="SurvivorProof")\n', ""),
        why="fewer than t survivors can give no t signatures, so the proof's count stands behind the set's",
    ),
    "threshold-not-checked": recovers(
        "low-threshold",
        Patch(SILO, "    if context.threshold < least:", "    if context.threshold < 0:"),
    ),
    "second-vector-under-the-same-masks": recovers(
        "second-delivery",
        Patch(
            SILO,
            "case SiloStage.SHARES, DeliverShares():",
            "case SiloStage.SHARES | SiloStage.SURVIVORS, DeliverShares():",
        ),
        Patch(
            SILO,
            'return Step(replace(state, encryption_private=b"", masking_private=b""), (Contribute(),))',
            "return Step(state, (Contribute(),))",
        ),
        Patch(SILO, 'stage=SiloStage.SURVIVORS, self_mask_seed=b"", mask_keys={})', "stage=SiloStage.SURVIVORS)"),
        JOURNAL_FORGETS,
        CHARGED_ALREADY,
        why="the step, the erased secrets, the journal and the ledger each refuse a second vector of an attempt",
    ),
    "keys-signatures-not-checked": recovers(
        "invented-keys", Patch(MEMBERSHIP, "        check_keys_signature(context, entry, pinned[name])", "        pass")
    ),
    "keys-signed-by-any-pinned-silo": recovers(
        "stolen-names",
        Patch(
            MEMBERSHIP,
            "        check_keys_signature(context, entry, pinned[name])",
            """        for identity in pinned.values():
            try:
                check_keys_signature(context, entry, identity)
                break
            except InvalidInput:
                continue
        else:
            raise InvalidInput("no pinned silo signed an entry", where="roster")""",
        ),
    ),
    "unpinned-silos-counted": recovers(
        "unpinned-silos",
        Patch(
            MEMBERSHIP,
            '            raise InvalidInput(f"silo {name} is not pinned in this silo\'s policy", where="roster")',
            "            continue",
        ),
    ),
    "adapter-not-signed": recovers(
        "model-inconsistency",
        Patch(WIRE, '            "adapter": adapter_digest,\n', ""),
        Patch(MEMBERSHIP, '            "adapter": context.adapter_digest,\n', ""),
        why="the roster's digest names the adapter too, and the shares' keys name the roster",
    ),
    "silos-own-words-accepted": recovers(
        "reflection",
        Patch(MEMBERSHIP, " or len(keys) != 2 * len(listed):", ":"),
        Patch(
            KEYS,
            "    secret = agree(private, membership.entries[receiver].encryption_key, peer=receiver)\n    key = derive_key(secret, context, membership, Purpose.SHARES, (sender, receiver))",
            "    secret = agree(private, membership.entries[receiver].encryption_key, peer=receiver)\n    key = derive_key(secret, context, membership, Purpose.SHARES, ())",
        ),
        Patch(
            KEYS,
            "    secret = agree(private, membership.entries[sender].encryption_key, peer=sender)\n    key = derive_key(secret, context, membership, Purpose.SHARES, (sender, receiver))",
            "    secret = agree(private, membership.entries[sender].encryption_key, peer=sender)\n    key = derive_key(secret, context, membership, Purpose.SHARES, ())",
        ),
        why="no key twice in a roster, and sender and receiver named in the keys of shares: each alone suffices",
    ),
    "survivors-signed-without-attempt-and-roster": recovers(
        "replayed-confirmations",
        Patch(
            WIRE,
            '        "foedus/secagg/survivors",\n        {\n            "round": attempt.round,\n            "attempt": attempt.attempt,\n',
            '        "foedus/secagg/survivors",\n        {\n',
        ),
        Patch(WIRE, '            "roster": roster_digest,\n', ""),
        why="the roster holds keys of one attempt, so it names the attempt as well",
    ),
    "masking-key-kept-between-attempts": recovers(
        "masking-key-of-a-later-attempt",
        Patch(
            SILO,
            "= entropy(keys.KEY_BYTES), entropy(keys.KEY_BYTES)",
            "= entropy(keys.KEY_BYTES), identity.signing_key.private_bytes_raw()",
        ),
    ),
    "noise-kept-between-attempts": recovers(
        "differencing",
        Patch(
            NOISE,
            "        release = _gaussian(scale)\n        return np.array(release([0] * count), dtype=np.int64)",
            '        if "kept" not in vars(self):\n            self.kept = np.array(_gaussian(scale)([0] * count), dtype=np.int64)\n        return self.kept',
        ),
    ),
    "answered-attempts-forgotten": recovers(
        "asks-again-after-a-restart",
        JOURNAL_FORGETS,
        CHARGED_ALREADY,
        why="the ledger charges an attempt once, so it refuses what the journal forgot",
    ),
    "reservation-not-checked": recovers(
        "more-attempts-than-reserved",
        Patch(LEDGER, "    if account.charged >= account.reserved:", "    if account.charged < 0:"),
        Patch(RECORDS, "        if self.charged > self.reserved:", "        if self.charged < 0:"),
        why="an account with more charges than its reservation is no valid record either",
    ),
    # What the view tells, by its distribution
    "masks-from-a-constant-seed": told_apart(
        Patch(MASKS, "Cipher(ChaCha20(key, bytes(16))", "Cipher(ChaCha20(bytes(32), bytes(16))")
    ),
    "both-secrets-released": told_apart(
        Patch(
            SILO,
            " for name, both in state.held.items() if name not in state.survivors}",
            " for name, both in state.held.items()}",
        )
    ),
    "pairs-masks-left-out": told_apart(
        Patch(
            MASKS,
            "        total += mask\n    else:\n        total -= mask",
            "        total += 0 * mask\n    else:\n        total -= 0 * mask",
        )
    ),
    # Checks with another one behind them that no known attack passes: an ordinary test catches the mutant.
    "small-roster-accepted": fails(
        "unit/foedus_workloads/test_secagg_silo_rosters.py::test_a_false_roster_is_refused[fewer than t]",
        Patch(MEMBERSHIP, "    if len(membership.entries) < context.threshold:", "    if not membership.entries:"),
        shows="ValueError: the threshold must be between 1 and the number of shares",
        why="shares with threshold t cannot be given to fewer than t silos",
    ),
    "attempt-not-signed": fails(
        "unit/foedus_workloads/test_secagg_silo_rosters.py::test_a_false_roster_is_refused[keys signed for another attempt]",
        Patch(
            WIRE,
            '        "foedus/secagg/keys",\n        {\n            "round": attempt.round,\n            "attempt": attempt.attempt,\n',
            '        "foedus/secagg/keys",\n        {\n',
        ),
        shows="ValueError: not enough values to unpack (expected 2, got 1)",  # it shares instead of refusing
    ),
    "signers-need-not-survive": fails(
        "unit/foedus_workloads/test_secagg_silo_survivors.py::test_a_false_proof_is_refused[of a stranger]",
        Patch(SILO, "    if not set(message.signatures) <= set(state.survivors):", "    if not message.signatures:"),
        shows="KeyError: 'silo-99'",
    ),
}
