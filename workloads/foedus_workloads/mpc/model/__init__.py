"""From a checkpoint to a program of three parties: read, compile, plan, share, execute.

The owner of a model reads it (`read_model`) and shares its weights (`share_weights`); each party prepares what it was
sent once (`prepare_weights`). For a text the client embeds and shares it (`PlainModel.encode_text`, `share_input`), all
make the same program of its padded length (`compile_program`), and each party runs it (`execute`).

Public: architecture, padded length, program. Secret: weights, tokens and how many there are, all in between. Known to
client and owner: the embedding tables and the tokenizer, with which a client turns text into what is shared.
"""

from foedus_workloads.mpc.model.architecture import Architecture
from foedus_workloads.mpc.model.checkpoint import PlainModel, check_model, read_model
from foedus_workloads.mpc.model.evaluate import StepError, evaluate, step_errors
from foedus_workloads.mpc.model.execute import PartyWeights, dealt, execute, prepare_weights
from foedus_workloads.mpc.model.plan import ASSUMPTIONS, Cost, Plan, plan
from foedus_workloads.mpc.model.program import Program, Secret, compile_program, padded_length
from foedus_workloads.mpc.model.sharing import Shares, reveal, share_input, share_weights, shipped
from foedus_workloads.mpc.model.text import EmbeddedText

__all__ = [
    "ASSUMPTIONS",
    "Architecture",
    "Cost",
    "EmbeddedText",
    "PartyWeights",
    "PlainModel",
    "Plan",
    "Program",
    "Secret",
    "Shares",
    "StepError",
    "check_model",
    "compile_program",
    "dealt",
    "evaluate",
    "execute",
    "padded_length",
    "plan",
    "prepare_weights",
    "read_model",
    "reveal",
    "share_input",
    "share_weights",
    "shipped",
    "step_errors",
]
