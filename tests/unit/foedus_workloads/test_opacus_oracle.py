"""Opacus as an oracle: the gradients, the clipped sum and ε of its DP-SGD are ours; its noise is never used.

Opacus draws floating-point noise from torch's generator. What Foedus releases are integers with exact noise.
"""

import numpy as np
import pytest
import torch

from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_ledger.accountants import composed_pld_epsilon, composed_rdp_epsilon
from foedus_ledger.mechanisms import Mechanism
from foedus_workloads.privacy.clipping import clip_rows
from foedus_workloads.training.base import check_base
from foedus_workloads.training.gradients import example_gradients
from foedus_workloads.training.model import AdaptedModel
from support.tiny_bert import SENTENCES, write_tiny_bert
from support.training_plans import LABELS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # its PRV takes log(1 − q) at q = 1
]
TARGETS = torch.tensor([0, 1, 1, 0, 1])
LORA = LoraPlan(rank=2, alpha=4, target_modules=("query", "value"), last_layers=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_tiny_bert(tmp_path_factory.mktemp("opacus") / "tiny")
    plan = ModelPlan(digest=check_base(folder).digest, labels=LABELS, max_tokens=16, lora=LORA)
    loaded = AdaptedModel.load(folder, plan, seed=3)
    generator = np.random.default_rng(0)
    for factor in loaded.factors:
        loaded.add(factor, 0.3 * generator.normal(size=loaded.coordinates(factor)))
    return loaded


def opacus_gradients(model: AdaptedModel, factor: str) -> torch.Tensor:
    """Per-example gradients by GradSampleModule's hooks on the whole peft model, in our coordinates."""
    from opacus import GradSampleModule

    encodings = model._tokenizer.encode_batch(SENTENCES)
    ids = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    model.peft.train()  # its hooks record in training mode only; there is no dropout
    wrapped = GradSampleModule(model.peft, loss_reduction="sum")
    try:
        logits = wrapped(input_ids=ids, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(logits, TARGETS, reduction="sum").backward()
        lora = [getattr(module, factor).weight.grad_sample for module in model.modules]
        weight, bias = model.head.weight.grad_sample, model.head.bias.grad_sample
    finally:
        wrapped.to_standard_module()
        model.peft.eval()
        model.peft.zero_grad()
    centred = weight - bias[:, :, None] * model.centre
    return torch.cat([part.flatten(1) for part in [*lora, centred, 0.1 * bias]], dim=1)


@pytest.mark.parametrize("factor", ["B", "A"])
def test_per_example_gradients_and_their_clipped_sum_are_those_of_opacus(model, factor):
    for module in model.peft.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ours = example_gradients(model, factor, model.encode(SENTENCES, batch=5), TARGETS)
    theirs = opacus_gradients(model, factor)
    assert theirs.shape == ours.shape
    assert (ours - theirs).abs().max() <= 1e-5
    norms = theirs.norm(dim=1)
    clip = float(norms.median())  # some examples are clipped, some are not
    wanted = (theirs * (clip / (norms + 1e-6)).clamp(max=1.0)[:, None]).sum(dim=0)  # as its DPOptimizer clips
    assert np.abs(clip_rows(ours.numpy(), clip).sum(axis=0) - wanted.numpy()).max() <= 1e-4


@pytest.mark.parametrize(("sigma", "attempts"), [(17.1, 21), (4.0, 2)])
def test_epsilon_is_that_of_its_accountants(sigma, attempts):
    from opacus.accountants import PRVAccountant, RDPAccountant

    rdp, prv = RDPAccountant(), PRVAccountant()
    for accountant in (rdp, prv):
        accountant.history = [(sigma, 1.0, attempts)]
    releases = [(Mechanism(noise_multiplier=sigma), attempts)]
    # its orders are a coarser list than ours: its bound may be slightly above
    told = rdp.get_epsilon(1e-5, alphas=[1 + x / 10 for x in range(1, 1000)])
    assert composed_rdp_epsilon(releases, 1e-5) == pytest.approx(told, rel=2e-3)
    assert composed_pld_epsilon(releases, 1e-5) == pytest.approx(prv.get_epsilon(1e-5), rel=1e-2)
