"""Status parts and printer columns that the kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from foedus_engine.api.meta import INT53, ApiModel, ObjectMeta
from foedus_ledger.records import MAX_EPSILON

Timestamp = Annotated[
    str, StringConstraints(min_length=1, max_length=40), Field(json_schema_extra={"format": "date-time"})
]
Message = Annotated[str, StringConstraints(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=INT53)]
Epsilon = Annotated[float, Field(gt=0, le=MAX_EPSILON)]
Delta = Annotated[float, Field(gt=0, lt=1)]
Spent = Annotated[float, Field(ge=0, le=1_000_000)]  # bounded so that a reader knows; the ledger stops far earlier

# Server-side apply merges a list of objects by these keys, and the API server refuses a key that occurs twice.
BY_TYPE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    type: Literal["string", "integer", "number", "date"]
    description: str


AGE = Column("Age", ".metadata.creationTimestamp", "date", "Time since creation")
READY = Column("Ready", ".status.conditions[?(@.type=='Ready')].status", "string", "Whether the object is ready")


class Kind(ApiModel):
    """An object a user can write, as the API server stores it."""

    PLURAL: ClassVar[str]
    SHORT_NAME: ClassVar[str]
    COLUMNS: ClassVar[tuple[Column, ...]]

    metadata: ObjectMeta
    """Name, namespace and what the server adds."""
