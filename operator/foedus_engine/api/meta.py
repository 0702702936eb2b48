"""What every kind shares: the base model, rules with their CEL twins, metadata, conditions, durations, quantities.

A rule stands once as Python and once as CEL, side by side: pydantic checks the first, the API server the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from foedus_contract.models import DIGEST, DNS_LABEL
from foedus_engine.names import OWN_CLAIM_SUFFIXES

GROUP = "foedus.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
# A part may start with one dot but not with two: `..` and `.` never match, and no look-ahead is needed (RE2 has none).
RELATIVE_PATH = r"^\.?[A-Za-z0-9_-][A-Za-z0-9._-]*(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"
GO_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
REASON = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
INT32 = 2**31 - 1
INT53 = 2**53  # JSON numbers above lose digits in many readers

# What a pattern means, in words a user can act on.
PATTERN_HELP: dict[str, str] = {
    DNS_LABEL: "must be lower-case letters, digits and `-`, e.g. silo-01",
    DNS_SUBDOMAIN: "must be lower-case letters, digits, `-` and `.`, e.g. silo-01",
    RELATIVE_PATH: "must be a relative path of letters, digits, `.`, `_`, `-` without `..`, e.g. data/train.jsonl",
    GO_DURATION: "must be a duration such as 90s, 5m or 1h30m",
    QUANTITY: "must be a quantity such as 500m, 2 or 2Gi",
    LABEL_KEY: "must be a name such as foedus.dev/operator",
    DIGEST: "must be sha256: and 64 lower-case hex digits; `foedus budget create --data FILE` computes it",
}

Name = Annotated[str, StringConstraints(pattern=DNS_LABEL, min_length=1, max_length=63)]
SubdomainName = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN, min_length=1, max_length=253)]
RelativePath = Annotated[str, StringConstraints(pattern=RELATIVE_PATH, min_length=1, max_length=512)]
Duration = Annotated[str, StringConstraints(pattern=GO_DURATION, min_length=2, max_length=16)]
Sha256 = Annotated[str, StringConstraints(pattern=DIGEST, max_length=71)]


def _number_to_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    StringConstraints(pattern=QUANTITY, min_length=1, max_length=32),
    BeforeValidator(_number_to_text),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY,
            "maxLength": 32,
        }
    ),
]

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def exact_seconds(text: str) -> Decimal:
    """Return the seconds that a duration such as `1h30m` stands for; raises ValueError on anything else."""
    if not re.fullmatch(GO_DURATION.strip("^$"), text):
        raise ValueError(PATTERN_HELP[GO_DURATION])
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    return sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0))


def parse_duration(text: str) -> int:
    """Return a duration in whole seconds, rounded up; raises ValueError when the text is no duration."""
    return int(exact_seconds(text).to_integral_value(ROUND_CEILING))


@dataclass(frozen=True)
class Rule:
    """One rule within an object: `cel` for the API server, `holds` for pydantic, and one message for both."""

    cel: str
    message: str
    holds: Callable[[Any], bool]
    field: str = ""  # the field to blame, as the user writes it


@dataclass(frozen=True)
class Transition:
    """One rule between an object's old and new state: `cel` (with oldSelf), `holds(old, new)`, one message."""

    cel: str
    message: str
    holds: Callable[[Any, Any], bool]
    field: str = ""


class ApiModel(BaseModel):
    """A frozen part of a kind: camelCase outside, snake_case inside, unknown fields refused, rules checked."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()
    TRANSITIONS: ClassVar[tuple[Transition, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.RULES:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self

    def to_document(self) -> dict[str, Any]:
        """Return the model as plain data with camelCase names, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ObjectMeta(ApiModel):
    """The part of `metadata` that Foedus reads; what the server fills in is accepted and kept."""

    name: SubdomainName
    """The object's name."""
    namespace: Name = "default"
    """The namespace; `default` when not given."""
    labels: Annotated[dict[str, str], Field(max_length=64)] = Field(default_factory=dict)
    """Labels."""
    annotations: Annotated[dict[str, str], Field(max_length=64)] = Field(default_factory=dict)
    """Annotations."""
    uid: str = ""
    """Set by the server."""
    resource_version: str = ""
    """Set by the server."""
    generation: int = 0
    """Set by the server; rises with each change of the spec."""
    creation_timestamp: str | None = None
    """Set by the server."""
    deletion_timestamp: str | None = None
    """Set by the server."""
    deletion_grace_period_seconds: int | None = None
    """Set by the server."""
    finalizers: tuple[str, ...] = ()
    """Set by controllers."""
    owner_references: tuple[dict[str, Any], ...] = ()
    """Set by controllers."""
    managed_fields: tuple[dict[str, Any], ...] = ()
    """Set by the server."""
    self_link: str | None = None
    """Set by old servers."""


class LocalReference(ApiModel):
    """Another object by name: in the same namespace, or cluster-scoped."""

    name: SubdomainName
    """Name of the object."""


USER_CLAIM = Rule(
    "!(" + " || ".join(f"self.claimName.endsWith('{suffix}')" for suffix in OWN_CLAIM_SUFFIXES) + ")",
    f"names that end in {', '.join(OWN_CLAIM_SUFFIXES)} are Foedus' own; use another PersistentVolumeClaim",
    lambda self: not self.claim_name.endswith(OWN_CLAIM_SUFFIXES),
    "claimName",
)


class PersistentVolumeClaimPath(ApiModel):
    """A file on a volume."""

    claim_name: SubdomainName
    """Name of the PersistentVolumeClaim."""
    path: RelativePath
    """File, relative to the volume's root."""

    RULES: ClassVar[tuple[Rule, ...]] = (USER_CLAIM,)


class Condition(ApiModel):
    """One metav1.Condition. Each kind narrows `type` and `reason` to its closed lists."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0, le=INT53)] | None = None
    """The metadata.generation that this condition was set upon."""
    last_transition_time: Annotated[
        str, StringConstraints(min_length=1, max_length=40), Field(json_schema_extra={"format": "date-time"})
    ]
    """When the status last changed."""
    reason: Annotated[str, StringConstraints(pattern=REASON, min_length=1, max_length=128)]
    """Why, in one word from the kind's closed list."""
    message: Annotated[str, StringConstraints(max_length=4096)]
    """Why, in a sentence."""


def unique(items: tuple[Any, ...]) -> bool:
    """Return True when no item occurs twice."""
    return len(set(items)) == len(items)
