"""A small training plan for a given base model, for tests of the training maths."""

from foedus_contract.plan import LoraPlan, ModelPlan, TrainingPlan

ANY_DIGEST = "sha256:" + "0" * 64
LABELS = ("business", "sport")
QUERY_VALUE = LoraPlan(rank=2, alpha=4, target_modules=("query", "value"), last_layers=1)


def tiny_plan(model_digest: str, *, lora: LoraPlan | None = QUERY_VALUE, micro_batch: int = 4) -> TrainingPlan:
    """Return a plan of four silos with 4,096 grid units a clip norm of ½."""
    return TrainingPlan.model_validate(
        {
            "namespace": "default",
            "job": "tiny",
            "uid": "u-1",
            "rounds": 4,
            "spareAttempts": 1,
            "seed": 1,
            "microBatch": micro_batch,
            "model": ModelPlan(digest=model_digest, labels=LABELS, max_tokens=16, lora=lora),
            "optimizer": {"learningRate": 0.5, "headLearningRate": 2.0, "momentum": 0.5},
            "privacy": {
                "epsilon": 1.0,
                "delta": 1e-5,
                "clip": 0.5,
                "noiseMultiplier": 8.0,
                "gridPerClip": 4096,
                "threshold": 3,
                "colluders": 1,
                "minHonest": 2,
                "epsilonPld": 0.99,
                "epsilonRdp": 1.1,
            },
            "deadlines": {"joinSeconds": 60, "stageSeconds": 60, "computeSeconds": 60},
            "silos": [{"name": f"silo-{n}", "dataDigest": f"sha256:{n:064}", "records": 5} for n in range(1, 5)],
        }
    )
