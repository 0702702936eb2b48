"""Every name the engine gives to an object, a label, a file or a key: said once, here."""

from __future__ import annotations

from foedus_contract import paths

API_GROUP = "foedus.dev"
API_VERSION = f"{API_GROUP}/v1alpha1"
TRAINING_KIND = "FederatedTrainingJob"
BUDGET_KIND = "PrivacyBudget"
MANAGER = "foedus"  # who manages a child, as its label says

CHILD_API_VERSIONS = {
    "Job": "batch/v1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
    "ServiceAccount": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
}

COORDINATOR_PORT = 8443
COORDINATOR_ROLE = "coordinator"
CLIENT_ROLE = "client"
INSPECTOR_ROLE = "inspector"
ROLES = (COORDINATOR_ROLE, CLIENT_ROLE, INSPECTOR_ROLE)
READER_ROLE = "reader"  # of a person's pod that hands over what a claim holds
POLICY_KEY = "policy.json"
LEDGER_FILE = "ledger.sqlite"
CA_CERTIFICATE_KEY = "ca.crt"
CERTIFICATE_KEY = "tls.crt"  # the keys of a kubernetes.io/tls Secret
PRIVATE_KEY_KEY = "tls.key"

# Claims under these names hold ledgers, journals, keys and adapters; no user's manifest may mount one.
OWN_CLAIM_SUFFIXES = ("-ledger", "-state", "-coordinator-output")

JOB_LABEL = f"{API_GROUP}/job"
SILO_LABEL = f"{API_GROUP}/silo"
MANAGER_LABEL = "app.kubernetes.io/managed-by"
COMPONENT_LABEL = "app.kubernetes.io/component"
OPERATOR = f"{API_GROUP}/operator"  # who runs a job that names nobody else in `managedBy`
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"  # Kueue's: on a training job it goes on to its Jobs
DIGEST_ANNOTATION = f"{API_GROUP}/digest"  # of the manifest that a child was made from
TOLD_ANNOTATION = f"{API_GROUP}/told"  # on a silo's pod: which policy has been made since the pod was
OPERATOR_ROLE = "operator"  # of the installation, not of a job
OPERATOR_PODS = {"app.kubernetes.io/name": "foedus", COMPONENT_LABEL: OPERATOR_ROLE}  # in the chart
LEDGER_PODS = {"app.kubernetes.io/name": "foedus", COMPONENT_LABEL: "ledger"}  # of the ledger service, in the chart
READER_LABELS = {"app.kubernetes.io/name": "foedus", COMPONENT_LABEL: READER_ROLE}
RESULT_FINALIZER = f"{API_GROUP}/result"  # keeps the coordinator's pod until its result is in the job's status


def object_key(namespace: str, name: str) -> str:
    """Return the one spelling of an object's identity, for queues, maps and locks."""
    return f"{namespace}/{name}"


def coordinator(job: str) -> str:
    """Return the name of the coordinator's Job, Service and ConfigMap."""
    return f"{job}-coordinator"


def client(job: str, silo: str) -> str:
    """Return the name of a silo's Job and ConfigMap."""
    return f"{job}-{silo}"


def inspector(job: str) -> str:
    """Return the name of the Job and ConfigMap of the process that looks at the base model."""
    return f"{job}-{INSPECTOR_ROLE}"


def service_account(job: str, role: str) -> str:
    """Return the name of the ServiceAccount that a role's pods have, without a token."""
    return f"{job}-{role}"


def denial(job: str) -> str:
    """Return the name of the NetworkPolicy that shuts every pod of the job; others open its few edges."""
    return f"{job}-deny"


def edges(job: str, role: str) -> str:
    """Return the name of the NetworkPolicy with a role's open edges."""
    return f"{job}-{role}"


def disruption_budget(job: str) -> str:
    """Return the name of the PodDisruptionBudget of the silos' pods."""
    return f"{job}-{CLIENT_ROLE}"


def ca_secret(job: str) -> str:
    """Return the name of the Secret that holds the job's authority; no pod mounts it."""
    return f"{job}-ca"


def tls_secret(role_object: str) -> str:
    """Return the name of the Secret with a role's certificate and key."""
    return f"{role_object}-tls"


def operator_secret(job: str) -> str:
    """Return the name of the Secret with which the operator asks the coordinator; no pod of the job mounts it."""
    return f"{job}-operator"


def policy(job: str) -> str:
    """Return the name of the ConfigMap with the silos' pinned identities."""
    return f"{job}-policy"


def coordinator_output(job: str) -> str:
    """Return the name of the claim that receives adapter, model card and metrics."""
    return f"{job}-coordinator-output"


def client_state(job: str, silo: str) -> str:
    """Return the name of the claim that keeps a silo's identity key and journal."""
    return f"{client(job, silo)}-state"


def reader(owner: str, suffix: str) -> str:
    """Return the name of a reading pod; of two at a time each has its own suffix."""
    return f"{owner[:200]}-{READER_ROLE}-{suffix}"


def ledger_claim(budget: str) -> str:
    """Return the name of the claim that holds a budget's ledger file."""
    return f"{budget}-ledger"


def coordinator_dns_names(namespace: str, job: str) -> tuple[str, ...]:
    """Return the names under which the coordinator's Service can be dialled, shortest first."""
    service = coordinator(job)
    return (service, f"{service}.{namespace}", f"{service}.{namespace}.svc")


def coordinator_service(namespace: str, job: str) -> str:
    """Return the Service's name as run specs and the endpoints file spell it: `service.namespace`."""
    return f"{coordinator(job)}.{namespace}"


def labels(job: str, component: str) -> dict[str, str]:
    """Return the labels of a child; with a silo's name as value of SILO_LABEL where there is one."""
    return {
        "app.kubernetes.io/name": "foedus",
        "app.kubernetes.io/instance": job,
        COMPONENT_LABEL: component,
        MANAGER_LABEL: MANAGER,
        JOB_LABEL: job,
    }


def mounted(folder: str, key: str) -> str:
    """Return the path of one file in a mounted folder."""
    return f"{folder}/{key}"


RUN_SPEC_PATH = mounted(paths.SPEC_FOLDER, paths.RUN_SPEC_KEY)
