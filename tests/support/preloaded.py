"""What the processes of tests need, imported once for all of them: `support.forked` imports it in its server alone."""

import dp_accounting  # noqa: F401
import opendp.measurements  # noqa: F401
import peft  # noqa: F401
from dp_accounting import pld, rdp  # noqa: F401
from transformers.models.bert import modeling_bert  # noqa: F401

from foedus import budget, main, run  # noqa: F401
from foedus.inference import command, local  # noqa: F401
from foedus_workloads import entry  # noqa: F401
from foedus_workloads.privacy import noise  # noqa: F401
from foedus_workloads.training import client, coordinator, local_step, trainer  # noqa: F401
