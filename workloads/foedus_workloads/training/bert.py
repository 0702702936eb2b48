"""Loading BERT, its tokenizer and a LoRA adapter from checked local files, without network, code or randomness."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_workloads.model_folder import open_tokenizer
from foedus_workloads.training.base import BaseModel

PAD = "[PAD]"
QUERY = "attention.self.query"  # of a layer


def load_classifier(base: BaseModel, plan: ModelPlan, lora: LoraPlan) -> Any:
    """Return a peft model over BertForSequenceClassification in float32, evaluation mode, only adapter and head free.

    Raises InvalidInput when the files are not what their config says or a weight is not finite.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import BertForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # the loading report names the head as new: it is meant to be
    logging.disable_progress_bar()
    try:
        # What is drawn here is overwritten; the caller's stream stays as it is.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # peft 0.21 still asks
            classifier = BertForSequenceClassification.from_pretrained(
                base.path,
                id2label=dict(enumerate(plan.labels)),
                label2id={label: index for index, label in enumerate(plan.labels)},
                problem_type="single_label_classification",
                attn_implementation="eager",  # the same arithmetic everywhere, whatever kernels a machine has
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
            )
            config = LoraConfig(
                task_type=TaskType.SEQ_CLS,
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=0.0,
                target_modules=list(lora.target_modules),
                layers_to_transform=list(range(base.layers - lora.last_layers, base.layers)),
                layers_pattern="layer",
                bias="none",
                **_damped_query(base, plan, lora),
            )
            model = get_peft_model(classifier, config)
    except (OSError, RuntimeError, ValueError) as error:
        raise _broken(base, f"the base model cannot be loaded ({type(error).__name__})") from None
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise _broken(base, "a weight of the base model is not finite")
    return model.eval()


def _damped_query(base: BaseModel, plan: ModelPlan, lora: LoraPlan) -> dict[str, Any]:
    """Return the settings that give the last layer's query one more rank, for its fixed part, at the same scale."""
    if plan.query_damping == 0:
        return {}
    name = rf"layer\.{base.layers - 1}\.{QUERY}"
    rank = lora.rank + 1
    return {"rank_pattern": {name: rank}, "alpha_pattern": {name: lora.alpha / lora.rank * rank}}


def load_tokenizer(base: BaseModel, tokens: int) -> Any:
    """Return the model's tokenizer, set to cut and pad every text to `tokens`; raises InvalidInput if broken."""
    tokenizer = open_tokenizer(base.path)
    pad = tokenizer.token_to_id(PAD)
    if pad is None:
        raise _broken(base, "the tokenizer has no [PAD] token")
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_id=pad, pad_token=PAD)
    return tokenizer


def _broken(base: BaseModel, what: str) -> InvalidInput:
    return InvalidInput(
        what, where=str(base.path), cure="take a complete copy of the model", code=ExitCode.INVALID_MODEL
    )
