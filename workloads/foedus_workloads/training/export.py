"""What a job leaves behind: a folder with the adapter as `peft` writes it, its origin, a model card, and metrics.

The folder loads with plain `peft` and `transformers` on the same base model and gives the same scores.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from foedus_contract.plan import PrivacyPlan, TrainingPlan
from foedus_contract.run_spec import ModelSource
from foedus_workloads.model_folder import CONFIG_FILE, ORIGIN_FILE, WEIGHTS_FILE, Origin
from foedus_workloads.training.model import AdaptedModel

CARD_FILE, METRICS_FILE = "README.md", "metrics.json"
Metrics = Mapping[str, str | int | float | None]


def export_adapter(
    model: AdaptedModel,
    folder: Path,
    *,
    plan: TrainingPlan,
    metrics: Metrics,
    source: ModelSource,
    code_digest: str = "",
) -> Path:
    """Write adapter, origin, model card and metrics into `folder` (replacing what is there) and return it.

    Card and the adapter's config name the base model's package, if it came from one; its digest is named in any case.
    `code_digest` names the code that has trained it. The folder appears whole or not at all.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        staged = Path(scratch) / "adapter"
        _save_adapter(model, staged, _name(plan, source))
        (staged / CARD_FILE).write_text(model_card(plan, metrics, source, code_digest), "utf-8")
        origin = Origin(labels=plan.model.labels, base_model=plan.model.digest)
        (staged / ORIGIN_FILE).write_bytes(origin.to_json() + b"\n")
        (staged / METRICS_FILE).write_text(json.dumps(dict(metrics), indent=2, sort_keys=True) + "\n", "utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
    return folder


def model_card(plan: TrainingPlan, metrics: Metrics, source: ModelSource, code_digest: str = "") -> str:
    """Return the model card: how the adapter was made, what is promised about the data, and how to load it."""
    origin = _origin(plan, _name(plan, source), code_digest)
    return "\n".join((origin, _privacy(plan), _metrics(metrics), _loading(plan, source)))


def _name(plan: TrainingPlan, source: ModelSource) -> str:
    return source.package or plan.model.digest


def _origin(plan: TrainingPlan, base_name: str, code_digest: str) -> str:
    lora = plan.model.lora
    trained = (
        "a linear head"
        if lora is None
        else f"LoRA rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.target_modules)} of the last "
        f"{'layer' if lora.last_layers == 1 else f'{lora.last_layers} layers'}, and a linear head"
    )
    return f"""---
library_name: peft
tags: [text-classification, differential-privacy, federated-learning]
---
# {plan.job}

Text classifier over the classes {", ".join(plan.model.labels)}.
Trained by Foedus across {len(plan.silos)} silos with {plan.total_records} records in all: {trained}.

- Base model: {base_name} ({plan.model.digest})
- Plan: {plan.digest()}
- Code: Foedus {version("foedus")}, {code_digest or "not known"}{_damping(plan)}
"""


def _privacy(plan: TrainingPlan) -> str:
    privacy = plan.privacy
    return f"""## Privacy

Each record of each silo is protected with (ε = {privacy.epsilon:g}, δ = {privacy.delta:g}) differential privacy:
replacing one record by an empty one changes the distribution of everything that was released, all
{plan.attempts} planned attempts together, by no more than that.
The promise holds against: {privacy.adversary}.
{_rests_on(privacy)}
Silos are separate data sets: a person whose records lie in two of them is protected less.
"""


def _metrics(metrics: Metrics) -> str:
    rows = "".join(f"| {name} | {_shown(value)} |\n" for name, value in sorted(metrics.items()))
    return f"""## Metrics

| name | value |
|---|---|
{rows}
Accuracy is measured on public held-out records, never on the silos' data.
"""


def _shown(value: str | float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _loading(plan: TrainingPlan, source: ModelSource) -> str:
    labels = dict(enumerate(plan.model.labels))
    package, place = source.package, source.package_path
    installed = "from importlib.metadata import distribution\n\n" if package else ""
    folder = f"BASE_MODEL_FOLDER = distribution({package!r}).locate_file({place!r})\n" if package else ""
    return f"""## Loading

```python
{installed}from peft import PeftModel
from transformers import AutoTokenizer, BertForSequenceClassification

{folder}base = BertForSequenceClassification.from_pretrained(BASE_MODEL_FOLDER, id2label={labels})
model = PeftModel.from_pretrained(base, THIS_FOLDER).eval()
tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL_FOLDER)
batch = tokenizer(TEXTS, padding="max_length", truncation=True, max_length={plan.model.max_tokens}, return_tensors="pt")
scores = model(**batch).logits
```

The base model's folder holds {CONFIG_FILE}, {WEIGHTS_FILE} and its tokenizer.
"""


def _damping(plan: TrainingPlan) -> str:
    share = plan.model.query_damping
    return f"\n- The last layer's query is lowered by {share:g} at the first token, by a fixed rank" if share else ""


def _rests_on(privacy: PrivacyPlan) -> str:
    """Return what the promise needs, as the model card says it."""
    noise = f"(noise multiplier {privacy.noise_multiplier:.4f})"
    if privacy.noise == "Local":
        return f"Each silo adds all the noise that its own records need {noise}; it rests on no other silo's."
    return f"It holds as long as at least {privacy.min_honest} honest silos add their noise {noise}."


def _save_adapter(model: AdaptedModel, folder: Path, base_name: str) -> None:
    config = model.peft.peft_config["default"]
    before = config.base_model_name_or_path
    config.base_model_name_or_path = base_name  # else peft writes where the model lay on this machine
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Could not find a config file")
            # Embeddings are never trained; left on "auto", peft would ask a model hub about them.
            model.peft.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    finally:
        config.base_model_name_or_path = before
    (folder / CARD_FILE).unlink(missing_ok=True)  # peft's empty template; ours follows
