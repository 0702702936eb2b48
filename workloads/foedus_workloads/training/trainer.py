"""The coordinator's model: what it broadcasts, how it moves on a released sum, what it leaves behind.

Everything here sees public values only: sums under differential privacy and public held-out records.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from foedus_contract.delivery import describe_folder
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.paths import ADAPTER_FOLDER
from foedus_contract.plan import TrainingPlan
from foedus_contract.progress import Preparing
from foedus_contract.run_spec import CoordinatorRunSpec, ModelSource
from foedus_workloads.privacy.quantise import to_mean
from foedus_workloads.training.base import resolve
from foedus_workloads.training.checkpoint import pack_checkpoint, unpack_checkpoint
from foedus_workloads.training.data import read_records
from foedus_workloads.training.evaluate import Evaluation
from foedus_workloads.training.export import Metrics, export_adapter
from foedus_workloads.training.job_effects import RoundVectors
from foedus_workloads.training.local_step import Report
from foedus_workloads.training.model import AdaptedModel
from foedus_workloads.training.optimizer import ServerOptimizer
from foedus_workloads.training.progress import ProgressWriter
from foedus_workloads.training.surroundings import Surroundings


def check_public(digest: str, plan: TrainingPlan) -> None:
    """Raise InvalidInput when the records to evaluate on are a silo's own: their accuracy would be a free release."""
    owner = next((silo.name for silo in plan.silos if silo.data_digest == digest), None)
    if owner is not None:
        raise InvalidInput(
            f"these are the records of {owner}, not public ones",
            where="spec.evaluation.data",
            cure="name held-out data that may be public",
            code=ExitCode.INVALID_DATA,
        )


class Trainer:
    """Model, optimiser and evaluation of one job."""

    def __init__(self, plan: TrainingPlan, model: AdaptedModel, evaluation: Evaluation | None) -> None:
        self._plan = plan
        self._model = model
        self._evaluation = evaluation
        self._optimizer = ServerOptimizer.fresh(plan.optimizer, model.head_coordinates())

    @classmethod
    def load(cls, spec: CoordinatorRunSpec, around: Surroundings, progress: ProgressWriter) -> Trainer:
        """Load the plan's base model with a fresh adapter, and encode the public records once."""
        plan = spec.plan
        records = None
        if spec.evaluation_data is not None:
            records = read_records(around.path(spec.evaluation_data), plan.model.labels)
            check_public(records.digest, plan)
        progress.write(Preparing(at=around.wall_clock(), what="loading the model"))
        torch.set_num_threads(spec.threads)
        model = AdaptedModel.load(resolve(spec.model, around.root), plan.model, plan.seed)
        if records is None:
            return cls(plan, model, None)

        def report(done: int, total: int) -> None:
            progress.write(
                Preparing(at=around.wall_clock(), what="encoding the public records", done=done, total=total)
            )

        report(0, records.count)
        evaluation = Evaluation(model, records, batch=plan.micro_batch, report=in_tenths(report))
        evaluation.centre_head()
        return cls(plan, model, evaluation)

    @property
    def vectors(self) -> RoundVectors:
        """The factors of the rounds and the length of each one's vector."""
        factors = self._model.factors
        return RoundVectors(factors, {factor: self._model.coordinates(factor) for factor in factors})

    @property
    def most_coordinates(self) -> int:
        """The length of the longest vector of any round."""
        return max(self.vectors.coordinates.values())

    @property
    def trainable_parameters(self) -> int:
        """How many numbers the rounds can change."""
        return self._model.trainable_parameters

    @property
    def kappa(self) -> float:
        """The ratio of noise to clipped signal: noise-std/C · √d / N, the surplus noise of all silos included."""
        return self._plan.kappa(self.most_coordinates)

    def adapter_bytes(self) -> bytes:
        """Return the common adapter as it is broadcast."""
        return self._model.adapter_bytes()

    def accuracy(self) -> float | None:
        """Return the accuracy on the public records, None without any."""
        return None if self._evaluation is None else self._evaluation.accuracy()

    def apply(self, number: int, total: npt.NDArray[np.uint32]) -> float | None:
        """Take round `number`'s step on its released sum; return the accuracy on public records, None without any."""
        privacy, factor = self._plan.privacy, self._model.factor_of_round(number)
        # Divided by the plan's constant, not by the survivors' records: the step stays a public function of the sum.
        mean = to_mean(total, clip=privacy.clip, grid_per_clip=privacy.grid_per_clip, records=self._plan.total_records)
        self._optimizer, update = self._optimizer.step(factor, mean, progress=number / max(1, self._plan.rounds - 1))
        self._model.add(factor, update.astype(np.float32))
        return self.accuracy()

    def take_over(self, adapter: bytes) -> float | None:
        """Go on from an adapter alone, without momentum; return its accuracy. Raises InvalidInput when it cannot be."""
        self._model.load_adapter_bytes(adapter)
        self._optimizer = ServerOptimizer.fresh(self._plan.optimizer, self._model.head_coordinates())
        return self.accuracy()

    def checkpoint(self) -> bytes:
        """Return adapter and optimiser as safetensors, for `resume`."""
        return pack_checkpoint(self._model.adapter(), self._optimizer.velocity)

    def resume(self, checkpoint: bytes) -> None:
        """Go on from what `checkpoint` returned; raises InvalidInput when it does not fit the plan's model."""
        adapter, velocity = unpack_checkpoint(checkpoint)
        self._model.load_adapter(adapter)
        self._optimizer = ServerOptimizer.fresh(self._plan.optimizer, self._model.head_coordinates()).moving(velocity)

    def export(self, output: Path, metrics: Metrics, source: ModelSource, code_digest: str) -> str:
        """Write adapter, model card and metrics below `output`; return the digest of the folder that they fill."""
        folder = output / ADAPTER_FOLDER
        export_adapter(self._model, folder, plan=self._plan, metrics=metrics, source=source, code_digest=code_digest)
        return describe_folder(folder).digest()


def in_tenths(report: Report) -> Report:
    """Return a report that passes on each tenth of the whole once: the reader is a person."""
    told = 0

    def pass_on(done: int, total: int) -> None:
        nonlocal told
        if done * 10 // total > told:
            told = done * 10 // total
            report(done, total)

    return pass_on
