"""Run specs: what a pod is told. One JSON file, read once by `foedus_workloads.entry`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from foedus_contract.errors import InvalidInput
from foedus_contract.models import ContractModel, Digest, SiloName, first_problem
from foedus_contract.mpc_wire import DEALER, MAX_PARTIES, MIN_PARTIES, PartyIndex
from foedus_contract.plan import TrainingPlan

KEY_FILE = "identity.key"  # a silo's identity key, in its ledger's folder


class ModelSource(ContractModel):
    """Where the base model lies: a folder, or an installed package and the folder inside it."""

    path: str | None = None
    package: str | None = None
    package_path: str = ""


class TlsFiles(ContractModel):
    """The role's certificate chain, private key, and the job's CA certificate, as files."""

    certificate: str
    key: str
    ca: str


class LedgerService(ContractModel):
    """Where the ledger service of a cluster answers, by whose certificate it is known, and what the pod shows it."""

    host: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]
    ca: Annotated[str, StringConstraints(min_length=1, max_length=65536)]  # PEM: the authorities that may have signed
    token: str  # file with the pod's token; the kubelet renews it


class CoordinatorRunSpec(ContractModel):
    """What a coordinator is told."""

    role: Literal["Coordinator"] = "Coordinator"
    plan: TrainingPlan
    incarnation: Annotated[int, Field(ge=0)] = 0
    listen_service: str  # the Service whose address in the endpoints file (or 0.0.0.0:port) is bound
    listen_port: Annotated[int, Field(ge=1, le=65535)]
    tls: TlsFiles
    model: ModelSource
    evaluation_data: str | None  # public held-out records
    output: str  # folder for adapter, model card and metrics
    progress: str  # JSON-lines file
    ledger_service: LedgerService | None = None  # in a cluster; it says which incarnation this process is
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class ClientRunSpec(ContractModel):
    """What one silo's client is told."""

    role: Literal["Client"] = "Client"
    plan: TrainingPlan
    silo: SiloName
    incarnation: Annotated[int, Field(ge=0)] = 0
    coordinator_service: str
    coordinator_port: Annotated[int, Field(ge=1, le=65535)]
    tls: TlsFiles
    model: ModelSource
    data: str  # JSON-lines file of records
    state: str  # folder that outlives the process: journal
    ledger: str  # this silo's ledger file; its folder outlives jobs and keeps identity key and log of charges, too
    ledger_service: LedgerService | None = None  # in a cluster: holds the ledger in place of the file
    budget: str  # namespace/name of its PrivacyBudget
    policy: str  # file with the pinned identity keys; appears once all silos have made theirs
    progress: str
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class InspectorRunSpec(ContractModel):
    """What a process is told that looks at a base model before anything is planned."""

    role: Literal["Inspector"] = "Inspector"
    incarnation: Annotated[int, Field(ge=0)] = 0
    model: ModelSource
    progress: str
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class PartyAddress(ContractModel):
    """A party's Service and its port."""

    service: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]


Seconds = Annotated[float, Field(gt=0, le=86400)]


class Patience(ContractModel):
    """How long a party waits for each thing before it gives a session up."""

    open_seconds: Seconds = 10.0  # for a client's first message; until then it keeps others waiting
    input_seconds: Seconds = 300.0  # for the input: the other two may have to end an earlier session first
    connect_seconds: Seconds = 60.0  # until both neighbours are connected
    round_seconds: Seconds = 120.0  # for each message of a neighbour
    output_seconds: Seconds = 30.0  # until the client has taken the output


class PartyRunSpec(ContractModel):
    """What one member of an inference, a party or the dealer, is told."""

    role: Literal["Party"] = "Party"
    party: PartyIndex
    incarnation: Annotated[int, Field(ge=0)] = 0  # which start of its pod this is; a party counts its own in its state
    namespace: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    cluster: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    parties: Annotated[tuple[PartyAddress, ...], Field(min_length=MIN_PARTIES, max_length=MAX_PARTIES)]
    dealer: PartyAddress | None = None
    tls: TlsFiles
    model_digest: Digest  # of the model whose shares must lie in `weights`
    weights: str  # safetensors file with this party's shares alone, and what they are shares of
    state: str  # folder that outlives the process: its incarnation
    patience: Patience = Patience()
    progress: str
    threads: Annotated[int, Field(ge=1, le=256)] = 1

    @property
    def addresses(self) -> dict[int, PartyAddress]:
        """Where each member listens, by its number."""
        dealer = {} if self.dealer is None else {DEALER: self.dealer}
        return {**dict(enumerate(self.parties)), **dealer}


AnyRunSpec = CoordinatorRunSpec | ClientRunSpec | InspectorRunSpec | PartyRunSpec
RunSpec = Annotated[AnyRunSpec, Field(discriminator="role")]

_ADAPTER: TypeAdapter[AnyRunSpec] = TypeAdapter(RunSpec)


def parse_run_spec(text: bytes) -> AnyRunSpec:
    """Parse a run spec file; raises InvalidInput naming the first wrong field."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise InvalidInput(first_problem(error), where="run spec") from None


class SiloPolicy(ContractModel):
    """Whom a silo counts towards the threshold: identity public keys (Ed25519, base64) by silo name."""

    pinned: dict[SiloName, bytes]
