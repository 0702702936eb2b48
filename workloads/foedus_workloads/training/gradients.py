"""Per-example gradients of the active LoRA factor and the head, materialised from what a forward pass leaves.

For a module y = W x + s·B(A x), with output gradient g at B's output and tokens t:
    dB = Σₜ g_t ⊗ (A x_t),   dA = Σₜ (Bᵀ g_t) ⊗ x_t;   for the head with input z: dW = g ⊗ (z − c), db' = β g,
in the centred coordinates that `model` explains.
One backward pass to the active factor's outputs and the logits serves a whole micro-batch; nothing is summed over
examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from foedus_workloads.training.model import BIAS_SCALE, AdaptedModel, Encoded


def example_gradients(model: AdaptedModel, factor: str, encoded: Encoded, labels: Tensor) -> Tensor:
    """Return the cross-entropy gradient of every example as a row: examples × coordinates, float32."""
    with ExitStack() as stack:
        adapted = model.modules if factor != "None" else ()
        active = [stack.enter_context(_stash(module.A if factor == "A" else module.B)) for module in adapted]
        head = stack.enter_context(_stash(model.head))
        logits = model.logits(encoded)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    *outputs, at_logits = torch.autograd.grad(loss, [*(each["output"] for each in active), logits])
    with torch.no_grad():
        rows = []
        for module, each, gradient in zip(adapted, active, outputs, strict=True):
            if factor == "A":
                rows.append(torch.bmm(gradient[..., : module.rank].transpose(1, 2), each["input"]))
            else:
                rows.append(torch.bmm(gradient.transpose(1, 2), each["input"][..., : module.rank]))
        at_head = at_logits[:, :, None]
        rows.append(at_head * (head["input"] - model.centre)[:, None, :])
        rows.append(BIAS_SCALE * at_head)
        return torch.cat([row.flatten(1) for row in rows], dim=1)


@contextmanager
def _stash(module: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep a module's input (detached) and output (in the graph) of the forward pass run inside the block."""
    kept: dict[str, Tensor] = {}

    def keep(_module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        kept["input"], kept["output"] = args[0].detach(), output

    handle = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
