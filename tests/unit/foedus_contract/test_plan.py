"""The plan's own arithmetic and consistency, with the numbers of the design written out."""

import json
import math

import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.plan import TrainingPlan, threshold_for

DIGEST = "sha256:" + "0" * 64


LOCAL = {"noise": "Local", "minHonest": 1}


def plan_fields(silos: int = 10, **privacy: object) -> dict:
    settings = {
        "epsilon": 1.0,
        "delta": 1e-5,
        "clip": 1.0,
        "noiseMultiplier": 17.0,
        "gridPerClip": 1 << 20,
        "threshold": 7,
        "colluders": 1,
        "minHonest": 6,
        "epsilonPld": 0.99,
        "epsilonRdp": 1.1,
    }
    return {
        "namespace": "default",
        "job": "bbc-news",
        "uid": "u-1",
        "rounds": 20,
        "spareAttempts": 1,
        "seed": 1,
        "microBatch": 32,
        "model": {"digest": DIGEST, "labels": ["a", "b"], "maxTokens": 64, "lora": None},
        "optimizer": {"learningRate": 1.0, "headLearningRate": 1.0, "momentum": 0.9},
        "privacy": settings | privacy,
        "deadlines": {"joinSeconds": 60, "stageSeconds": 60, "computeSeconds": 60},
        "silos": [
            {"name": f"silo-{i:02}", "dataDigest": f"sha256:{i:064}", "records": 170} for i in range(1, silos + 1)
        ],
    }


@pytest.mark.parametrize(("silos", "threshold"), [(4, 3), (5, 4), (6, 5), (9, 7), (10, 7), (12, 9), (50, 34)])
def test_more_than_two_thirds_must_survive(silos, threshold):
    assert threshold_for(silos) == threshold


def test_numbers_of_the_ten_silo_plan():
    plan = TrainingPlan.model_validate(plan_fields())
    assert (plan.attempts, plan.total_records) == (21, 1700)
    assert plan.sensitivity(2693) == (1 << 20) + 26  # √2693 / 2 = 25.95
    assert plan.share_scale(2693) == pytest.approx(17.0 * 1_048_602 / math.sqrt(6), rel=1e-12)


def test_what_is_public_of_a_plan_has_no_digest_of_data():
    plan = TrainingPlan.model_validate(plan_fields())
    told = json.loads(plan.public().to_json())
    assert told["silos"][0] == {"name": "silo-01", "records": 170}
    whole = json.loads(plan.to_json())
    assert {**told, "silos": whole["silos"]} == whole


def test_with_local_noise_a_share_is_the_whole_and_the_sum_bears_that_of_all_silos():
    plan = TrainingPlan.model_validate(plan_fields(**LOCAL))
    assert plan.share_scale(2693) == pytest.approx(17.0 * 1_048_602, rel=1e-12)
    # σ·√n·√d / N, as Δ is 26 grid units above the clip's 2^20
    assert plan.kappa(2693) == pytest.approx(17 * math.sqrt(10) * math.sqrt(2693) / 1700, rel=1e-4)


@pytest.mark.parametrize(
    ("privacy", "says"),
    [
        ({}, "coordinator assumed honest but curious, plus 1 silo telling it everything"),
        ({"colluders": 0, "minHonest": 7}, "plus no silo telling it everything"),
        ({"colluders": 2, "minHonest": 5}, "plus 2 silos telling it everything"),
        (LOCAL, "the coordinator and all other silos together, whatever they do"),
    ],
)
def test_the_adversary_is_named(privacy, says):
    assert says in TrainingPlan.model_validate(plan_fields(**privacy)).privacy.adversary


def test_the_digest_changes_with_any_number_of_the_promise():
    digests = {
        TrainingPlan.model_validate(plan_fields(**change)).digest()
        for change in (
            {},
            {"noiseMultiplier": 17.5},
            {"clip": 2.0},
            {"gridPerClip": 5},
            LOCAL,
        )
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (plan_fields(threshold=6, minHonest=5), "threshold"),
        (plan_fields(threshold=11, minHonest=10), "threshold"),
        (plan_fields(minHonest=7), "minHonest"),
        (plan_fields(minHonest=1), "minHonest"),
        (plan_fields(noise="Local"), "minHonest"),
        (plan_fields(noise="Nobody", minHonest=1), "noise"),
        (plan_fields(colluders=4, minHonest=3), "twice the threshold"),
        (plan_fields() | {"silos": [silo | {"dataDigest": DIGEST} for silo in plan_fields()["silos"]]}, "same data"),
        (plan_fields(silos=3), "silos"),
        (plan_fields() | {"silos": plan_fields()["silos"][::-1]}, "name order"),
        (plan_fields(noiseMultiplier=math.nan), "noiseMultiplier"),
    ],
)
def test_an_inconsistent_plan_is_refused(fields, says):
    with pytest.raises(InvalidInput, match=says):
        TrainingPlan.from_json(json.dumps(fields))
