"""What the environment may say."""

from pathlib import Path

import pytest
from cryptography import x509

from foedus_contract.errors import InvalidInput
from foedus_operator.config import read_config
from support.certificates import Authority

GOOD = {"FOEDUS_OPERATOR_IDENTITY": "foedus-0.uid", "FOEDUS_OPERATOR_NAMESPACE": "foedus-system"}


def test_a_pod_needs_its_identity_and_namespace_only() -> None:
    config = read_config(GOOD)
    assert (config.identity, config.namespace, config.kubeconfig) == ("foedus-0.uid", "foedus-system", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IDENTITY", ""),
        ("NAMESPACE", "../kube-system"),
        ("NAMESPACE", "a/b"),
        ("LEASE", "Upper"),
        ("HEALTH_PORT", "80a"),
        ("HEALTH_PORT", "70000"),
        ("CERTIFICATE", "/nothing"),
        ("KEY", "/nothing"),
        ("LEDGER_HOST", "foedus-ledger/x"),
        ("LEDGER_CA", ""),
        ("LEDGER_CA", __file__),
        ("LEDGER_PORT", "https"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, tmp_path: Path) -> None:
    ca = Authority.create().issue(tmp_path, x509.DNSName("foedus-ledger")).ca
    good = {**GOOD, "FOEDUS_OPERATOR_LEDGER_HOST": "foedus-ledger", "FOEDUS_OPERATOR_LEDGER_CA": str(ca)}
    good |= {"FOEDUS_OPERATOR_CERTIFICATE": str(ca), "FOEDUS_OPERATOR_KEY": str(ca)}
    with pytest.raises(InvalidInput, match=f"FOEDUS_OPERATOR_{name}"):
        read_config({**good, f"FOEDUS_OPERATOR_{name}": value})


def test_jobs_learn_where_the_ledger_service_is(tmp_path: Path) -> None:
    ca = Authority.create().issue(tmp_path, x509.DNSName("foedus-ledger")).ca
    config = read_config(
        {**GOOD, "FOEDUS_OPERATOR_LEDGER_HOST": "foedus-ledger.x.svc", "FOEDUS_OPERATOR_LEDGER_CA": str(ca)}
    )
    found = config.workload.ledger
    assert found is not None
    assert (found.host, found.port, found.ca) == ("foedus-ledger.x.svc", 8443, ca.read_text("ascii"))
    assert found.token == "/foedus/ledger-token/token"
    assert read_config(GOOD).workload.ledger is None


@pytest.mark.parametrize(("value", "secrets"), [("", ()), ("registry", ("registry",)), ("a,b.c", ("a", "b.c"))])
def test_images_may_need_secrets(value: str, secrets: tuple[str, ...]) -> None:
    config = read_config({**GOOD, "FOEDUS_OPERATOR_IMAGE_PULL_SECRETS": value})
    assert config.workload.image_pull_secrets == secrets
    with pytest.raises(InvalidInput, match="FOEDUS_OPERATOR_IMAGE_PULL_SECRETS"):
        read_config({**GOOD, "FOEDUS_OPERATOR_IMAGE_PULL_SECRETS": f"{value},a b"})
