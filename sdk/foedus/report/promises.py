"""What a run promised about its silos' data, in words and numbers, beside what it spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foedus.report.record import RunRecord
from foedus_contract.plan import PrivacyPlan


@dataclass(frozen=True)
class Promise:
    """One line: what is promised, in the plan's words, and how it came."""

    what: str
    promised: str
    kept: str


def promises(record: RunRecord) -> tuple[Promise, ...]:
    """Return the lines of the table in the order a reader needs them."""
    return *_loss(record), *_releases(record), *_silos(record), *_noise(record)


def _loss(record: RunRecord) -> tuple[Promise, ...]:
    privacy, rdp = record.plan.privacy, record.epsilon_spent_rdp
    planned = f"at most {privacy.epsilon:g}; planned {privacy.epsilon_pld:.4f}"
    return (
        Promise("ε, exact (PLD)", planned, f"{record.epsilon_spent:.4f}"),
        Promise(
            "ε by Rényi accounting", f"planned {privacy.epsilon_rdp:.4f}", "unknown" if rdp is None else f"{rdp:.4f}"
        ),
        Promise("δ", f"{privacy.delta:g}", f"{privacy.delta:g}, at which both ε are told"),
    )


def _releases(record: RunRecord) -> tuple[Promise, ...]:
    plan = record.plan
    reserved = f"{plan.attempts:,} reserved: {plan.rounds:,} rounds and {plan.spare_attempts:,} spare"
    used = f"{len(record.attempts):,} used, {len(record.released):,} released"
    charges = [account.charged for account in record.accounts]
    charged = f"{span(min(charges), max(charges))} a silo" if charges else "unknown"
    return (
        Promise("attempts", reserved, used),
        Promise("charges in the silos' ledgers", f"at most {plan.attempts:,} a silo", charged),
    )


def _silos(record: RunRecord) -> tuple[Promise, ...]:
    privacy, silos = record.plan.privacy, len(record.plan.silos)
    held = [len(attempt.survivors) for attempt in record.released]
    kept = span(min(held), max(held)) if held else "nothing was released"
    return (Promise("silos in each sum", f"at least {privacy.threshold} of {silos}", kept),)


def _noise(record: RunRecord) -> tuple[Promise, ...]:
    privacy = record.plan.privacy
    fewest = min((len(attempt.survivors) for attempt in record.released), default=0)
    # With local noise a silo's own share protects its records, whoever else adds one.
    honest = min(fewest, 1) if privacy.noise == "Local" else fewest - privacy.colluders
    shares = "the silo's own" if privacy.noise == "Local" else f"at least {privacy.min_honest} (n_min)"
    sigma = f"{privacy.noise_multiplier:.3f}"
    if honest <= 0:
        kept_shares = kept_sigma = "nothing was released"
    else:
        kept_shares = f"at least {honest}"
        kept_sigma = f"at least {privacy.noise_multiplier * math.sqrt(honest / privacy.min_honest):.3f}"
    if privacy.noise == "Local" and honest:
        kept_shares = shares
    clip = f"{privacy.clip:g} an example"
    return (
        Promise("honest noise shares in each sum", shares, kept_shares),
        Promise("noise σ that they add up to", sigma, kept_sigma),
        Promise("clip norm", clip, "checked by each silo in whole numbers"),
    )


def span(low: int, high: int) -> str:
    """Return one number, or two with a dash."""
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def meaning(record: RunRecord) -> str:
    """Return what ε and δ mean for a record."""
    privacy = record.plan.privacy
    return (
        f"Replacing any one record of a silo by an empty one changes the probability of whatever this run released by "
        f"a factor of at most exp({privacy.epsilon:g}), but for a probability of {privacy.delta:g}. That holds for all "
        f"{record.plan.attempts:,} reserved attempts together."
    )


def assumptions(record: RunRecord) -> tuple[str, ...]:
    """Return whom the promise holds against and what it rests on, one sentence each."""
    privacy = record.plan.privacy
    return (
        f"Adversary: {privacy.adversary}.",
        _rests_on(privacy),
        "Silos are separate data sets: a person whose records lie in two of them has the sum of both losses.",
        "How many records a silo holds is public. Accuracy is measured on public records, never on the silos' data.",
        *record.notes,
    )


def _rests_on(privacy: PrivacyPlan) -> str:
    if privacy.noise == "Local":
        return "Assumed: the silo's own process, its ledger and its source of noise. Nobody else is trusted."
    return (
        f"Assumed: at least {privacy.min_honest} honest silos in each sum add their share of the noise, and no silo "
        "speaks with another one's key."
    )
