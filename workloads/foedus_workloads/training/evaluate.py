"""Accuracy on public held-out records. Private records are never evaluated: their accuracy would be a release."""

from __future__ import annotations

import torch

from foedus_workloads.training.data import Records
from foedus_workloads.training.local_step import Report, encoding_batch, label_indices
from foedus_workloads.training.model import AdaptedModel


class Evaluation:
    """Public records, encoded once, against which each round's adapter is measured."""

    def __init__(self, model: AdaptedModel, records: Records, *, batch: int, report: Report | None = None) -> None:
        self._model = model
        self._batch = batch
        texts = [record.text for record in records.items]
        self._encoded = model.encode(texts, batch=encoding_batch(batch), report=report)
        self._labels = label_indices(records, model.plan.labels)

    def centre_head(self) -> None:
        """Centre the model's head on these records: what they share tells no classes apart."""
        self._model.centre_on(self._encoded, batch=self._batch)

    def logits(self) -> torch.Tensor:
        """Return the class scores of all records at the current adapter."""
        return self._model.scores(self._encoded, batch=self._batch)

    def accuracy(self) -> float:
        """Return the share of records whose highest score is their label's."""
        return float((self.logits().argmax(dim=1) == self._labels).double().mean())
