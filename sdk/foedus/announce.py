"""What a run is about to do, said before the first gradient is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foedus_contract.plan import TrainingPlan
from foedus_contract.size import Size
from foedus_engine.decide.checks import KAPPA_WARN

REGIONS = "regionRef is not looked at yet: no rule about where a silo is holds."


@dataclass(frozen=True)
class Announcement:
    """The numbers a reader judges a run by. `coordinates` are the values released in a round, by active factor."""

    job: str
    silos: int
    records: int
    threshold: int
    colluders: int
    min_honest: int
    coordinates: Mapping[str, int]
    trainable: int
    noise_multiplier: float
    rounds: int
    attempts: int
    epsilon: float
    delta: float
    epsilon_pld: float
    epsilon_rdp: float
    kappa: float
    noise: str
    adversary: str
    state: str
    notes: tuple[str, ...]
    not_enforced: tuple[str, ...] = ()  # fields of the job's own objects


def announce(
    plan: TrainingPlan, size: Size, state: str, notes: tuple[str, ...], not_enforced: tuple[str, ...] = ()
) -> Announcement:
    """Return what is to be said about `plan`; κ is that of the rounds that release the most coordinates."""
    privacy = plan.privacy
    return Announcement(
        job=f"{plan.namespace}/{plan.job}",
        silos=len(plan.silos),
        records=plan.total_records,
        threshold=privacy.threshold,
        colluders=privacy.colluders,
        min_honest=privacy.min_honest,
        coordinates=size.released,
        trainable=size.trainable,
        noise_multiplier=privacy.noise_multiplier,
        rounds=plan.rounds,
        attempts=plan.attempts,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        epsilon_pld=privacy.epsilon_pld,
        epsilon_rdp=privacy.epsilon_rdp,
        kappa=plan.kappa(size.coordinates),
        noise=privacy.noise,
        adversary=privacy.adversary,
        state=state,
        notes=notes,
        not_enforced=not_enforced,
    )


def warnings(said: Announcement) -> tuple[str, ...]:
    """Return what a reader must not miss: a noise that drowns the signal, and what one machine cannot enforce."""
    noisy = (
        f"κ = {said.kappa:.2f} is above {KAPPA_WARN}: expect a weak adapter; more records, a lower rank or fewer "
        "adapted layers help"
    )
    count = len(said.not_enforced)
    ignored = f"{counted(count, 'setting')} for pods, e.g. of images and security, mean nothing here; json lists them"
    return (*((noisy,) if said.kappa > KAPPA_WARN else ()), *said.notes, *((ignored,) if count else ()))


def counted(count: int, noun: str) -> str:
    """Return the count with its noun, with an s unless it is one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def lines(said: Announcement) -> tuple[str, ...]:
    """Return the announcement as lines of text."""
    released = ", ".join(
        f"{count:,} with {'the head alone' if factor == 'None' else f'factor {factor}'}"
        for factor, count in said.coordinates.items()
    )
    drawn = (
        f"all of it drawn by each silo, so the sum bears {said.silos} times the variance"
        if said.noise == "Local"
        else f"drawn by the silos; {said.min_honest} honest ones suffice (n_min)"
    )
    spare = said.attempts - said.rounds
    spared = f"{counted(spare, 'spare attempt')} {'is' if spare == 1 else 'are'}"
    return (
        f"job       {said.job}",
        f"silos     {said.silos} with {said.records:,} examples; at least {said.threshold} must stay in each round",
        f"trains    {said.trainable:,} parameters; released a round: {released}",
        f"rounds    {said.rounds}, and {spared} reserved with them",
        f"noise     σ = {said.noise_multiplier:.3f}, {drawn}",
        f"privacy   ε ≤ {said.epsilon:g} at δ = {said.delta:g} an example; planned ε: "
        f"{said.epsilon_pld:.4f} by PLD, {said.epsilon_rdp:.4f} by RDP",
        f"signal    κ = {said.kappa:.2f}: the noise's norm over the clip norm in the mean; below {KAPPA_WARN} is good",
        f"adversary {said.adversary}",
        f"state     {said.state}",
        *(f"warning   {text}" for text in warnings(said)),
    )
