"""What a silo computes in a round: the exact integer sum of its records' clipped gradients.

1. Once: tokenise, and run everything below the lowest adapted layer (exact: nothing there trains).
2. In each round, a fixed-size micro-batch at a time, the last one filled up with null records:
   per-example gradients of the active factor and the head, one clip over both, rounding to the grid, norm check.
3. Sum in int64 over real records. The noise share is added by the caller, after the ledger's charge.

Every record's integers depend on that record and the adapter alone: the micro-batch's size is fixed, there is no
dropout, and a row of each product is computed in the same order whatever the other rows hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from foedus_contract.plan import TrainingPlan
from foedus_workloads.privacy.clipping import clip_rows
from foedus_workloads.privacy.noise import Sampler
from foedus_workloads.privacy.quantise import quantise_rows, to_ring
from foedus_workloads.training.data import Records
from foedus_workloads.training.gradients import example_gradients
from foedus_workloads.training.model import AdaptedModel, Encoded

Integers = npt.NDArray[np.int64]
MAX_CACHED_BYTES = 1 << 30  # above that a silo's activations would not fit beside the model in its pod's 2 GiB
MAX_ENCODED = 8  # texts encoded at a time
Report = Callable[[int, int], None]


class LocalStep:
    """One silo's records at one model; the model's adapter is the common one that a round broadcasts."""

    def __init__(
        self,
        model: AdaptedModel,
        records: Records,
        plan: TrainingPlan,
        *,
        report: Report | None = None,
        cache_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        self._model = model
        self._plan = plan
        self._texts = [record.text for record in records.items]
        self._encoded = None
        if model.encoded_bytes(len(self._texts)) <= cache_bytes:
            self._encoded = model.encode(self._texts, batch=encoding_batch(plan.micro_batch), report=report)
        self._labels = label_indices(records, plan.model.labels)

    def integer_sum(self, factor: str) -> Integers:
        """Return the sum of all records' quantised gradients for `factor`, in grid units."""
        total = np.zeros(self._model.coordinates(factor), dtype=np.int64)
        for start in range(0, len(self._texts), self._plan.micro_batch):
            total += self.integer_gradients(factor, start).sum(axis=0)
        return total

    def integer_gradients(self, factor: str, start: int) -> Integers:
        """Return the quantised gradients of the micro-batch from record `start`, one row a real record."""
        size, privacy = self._plan.micro_batch, self._plan.privacy
        labels = self._labels[start : start + size]
        padded = torch.cat([labels, labels.new_zeros(size - len(labels))])
        gradients = example_gradients(self._model, factor, self._rows(start), padded)
        return quantise_rows(
            clip_rows(gradients.numpy()[: len(labels)], privacy.clip),
            clip=privacy.clip,
            grid_per_clip=privacy.grid_per_clip,
            sensitivity=self._plan.sensitivity(gradients.shape[1]),
        )

    def _rows(self, start: int) -> Encoded:
        """Return the micro-batch from `start`: from the cache, or computed again to the very same values."""
        size = self._plan.micro_batch
        if self._encoded is not None:
            return self._encoded.rows(start, size)
        texts = self._texts[start : start + size]
        return self._model.encode(texts, batch=encoding_batch(size)).rows(0, size)


def noised(total: Integers, plan: TrainingPlan, sampler: Sampler) -> npt.NDArray[np.uint32]:
    """Return the sum with one fresh noise share, modulo 2^32: what a silo contributes. Charge the ledger first."""
    return to_ring(total + sampler(plan.share_scale(len(total)), len(total)))


def encoding_batch(micro_batch: int) -> int:
    """Return how many texts are encoded at a time: few, in groups that never cross a micro-batch.

    Forward passes through whole layers need buffers that grow with the texts; large ones go back to the system after
    each use, and come again page by page, zeroed.
    """
    return max(size for size in range(1, MAX_ENCODED + 1) if micro_batch % size == 0)


def label_indices(records: Records, labels: Sequence[str]) -> torch.Tensor:
    """Return each record's label as its index in `labels`."""
    return torch.tensor([labels.index(record.label) for record in records.items])
