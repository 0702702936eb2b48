import dataclasses
import math

import pytest

from foedus.announce import announce, lines, warnings
from foedus_contract.plan import (
    Deadlines,
    LoraPlan,
    ModelPlan,
    OptimizerPlan,
    PrivacyPlan,
    SiloPlan,
    TrainingPlan,
)
from foedus_contract.size import Size

DIGEST = "sha256:" + "0" * 64
PLAN = TrainingPlan(
    namespace="default",
    job="bbc-news",
    uid="u",
    rounds=20,
    spare_attempts=1,
    seed=1,
    micro_batch=32,
    model=ModelPlan(
        digest=DIGEST,
        labels=("a", "b"),
        max_tokens=64,
        lora=LoraPlan(rank=1, alpha=1, target_modules=("query",), last_layers=1),
    ),
    optimizer=OptimizerPlan(learning_rate=1, head_learning_rate=1, momentum=0.9),
    privacy=PrivacyPlan(
        epsilon=1,
        delta=1e-5,
        clip=1,
        noise_multiplier=17,
        grid_per_clip=1_000_000,
        threshold=7,
        colluders=1,
        min_honest=6,
        epsilon_pld=0.999,
        epsilon_rdp=1.25,
    ),
    deadlines=Deadlines(join_seconds=1, stage_seconds=1, compute_seconds=1),
    silos=tuple(SiloPlan(name=f"silo-{n:02d}", data_digest=f"sha256:{n:064}", records=170) for n in range(1, 11)),
)


def test_kappa_counts_the_noise_of_all_silos() -> None:
    # σ·√(n/n_min)·√d / N, and Δ is 50 grid units (√d/2) above a clip of a million
    want = 17 * math.sqrt(10 / 6) * math.sqrt(10_000) / 1700 * 1_000_050 / 1_000_000
    assert PLAN.kappa(10_000) == pytest.approx(want, rel=1e-12)


def test_the_announcement_names_every_number_a_reader_judges_by() -> None:
    text = "\n".join(
        lines(
            announce(
                PLAN,
                Size(factor_a=200, factor_b=2300, head=200),
                "/state",
                ("not isolated", "Job, not enforced here: spec.x."),
            )
        )
    )
    for part in (
        "10 with 1,700 examples",
        "at least 7",
        "2,700 parameters",
        "2,500 with factor B, 400 with factor A",
        "20, and 1 spare attempt is reserved",
        "σ = 17.000",
        "6 honest",
        "ε ≤ 1 at δ = 1e-05",
        "0.9990 by PLD, 1.2500 by RDP",
        "κ = 0.65",
        "honest but curious, plus 1 silo telling",
        "warning   Job, not enforced here: spec.x.",
        "not isolated",
        "/state",
    ):
        assert part in text


def test_local_noise_names_its_adversary_and_what_it_costs() -> None:
    local = PLAN.privacy.model_copy(update={"noise": "Local", "min_honest": 1})
    plan = PLAN.model_copy(update={"privacy": local})
    text = "\n".join(lines(announce(plan, Size(0, 0, 100), "", ())))
    assert "adversary the coordinator and all other silos together, whatever they do" in text
    assert "all of it drawn by each silo, so the sum bears 10 times the variance" in text
    assert f"κ = {17 * math.sqrt(10) * 10 / 1700:.2f}" in text
    assert "curious" not in text


@pytest.mark.parametrize(("value", "warned"), [(0.5, False), (0.51, True)])
def test_kappa_above_one_half_warns(value: float, warned: bool) -> None:
    said = dataclasses.replace(announce(PLAN, Size(0, 0, 100), "", ()), kappa=value)
    assert any("κ" in text for text in warnings(said)) is warned
