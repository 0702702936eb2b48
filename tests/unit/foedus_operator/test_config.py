"""What the environment may say."""

import pytest

from foedus_contract.errors import InvalidInput
from foedus_operator.config import read_config

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
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"FOEDUS_OPERATOR_{name}"):
        read_config({**GOOD, f"FOEDUS_OPERATOR_{name}": value})


@pytest.mark.parametrize(("value", "secrets"), [("", ()), ("registry", ("registry",)), ("a,b.c", ("a", "b.c"))])
def test_images_may_need_secrets(value: str, secrets: tuple[str, ...]) -> None:
    config = read_config({**GOOD, "FOEDUS_OPERATOR_IMAGE_PULL_SECRETS": value})
    assert config.workload.image_pull_secrets == secrets
    with pytest.raises(InvalidInput, match="FOEDUS_OPERATOR_IMAGE_PULL_SECRETS"):
        read_config({**GOOD, "FOEDUS_OPERATOR_IMAGE_PULL_SECRETS": f"{value},a b"})
