"""What the API server would say about an object: defaults, structural schema, CEL rules with oldSelf.

Independent of pydantic: it reads the generated CRD only, checks the schema with jsonschema (Draft 4 has OpenAPI 3.0's
boolean exclusiveMinimum) and evaluates the rules with celpy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import celpy
from celpy import celtypes
from jsonschema import Draft4Validator

Schema = Mapping[str, Any]
_MISSING: Any = object()


def with_defaults(value: Any, schema: Schema) -> Any:
    """Return `value` with the schema's defaults filled in, and known nulls dropped, as the API server does first."""
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    kept = {key: item for key, item in value.items() if not (item is None and key in properties)}
    filled = {key: part["default"] for key, part in properties.items() if "default" in part} | kept
    extra = schema.get("additionalProperties") or {}
    return {key: with_defaults(item, properties.get(key, extra)) for key, item in filled.items()}


def complaints(schema: Schema, new: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """Return everything the API server would refuse in `new`, or in the change from `old` to `new`."""
    new = with_defaults(new, schema)
    found = list(_unknown(new, schema, "")) + [error.message for error in Draft4Validator(schema).iter_errors(new)]
    before = _MISSING if old is None else with_defaults(old, schema)
    return found or list(_rules(new, before, schema))


def _unknown(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unknown(item, schema.get("items", {}), path)
    properties = schema.get("properties")
    if isinstance(value, dict) and properties is not None:
        for key, item in value.items():
            if key not in properties:
                yield f'unknown field "{path}.{key}"'
            else:
                yield from _unknown(item, properties[key], f"{path}.{key}")


def _rules(new: Any, old: Any, schema: Schema) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        names = {"self": _cel(new, schema)}
        if "oldSelf" in rule["rule"]:
            if old is _MISSING:
                continue
            names["oldSelf"] = _cel(old, schema)
        if not _holds(rule["rule"], names):
            yield rule["message"]
    yield from _rules_inside(new, old, schema)


def _rules_inside(new: Any, old: Any, schema: Schema) -> Iterator[str]:
    if isinstance(new, dict):
        for key, item in new.items():
            part = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if part:
                yield from _rules(item, old.get(key, _MISSING) if isinstance(old, dict) else _MISSING, part)
    if isinstance(new, list):
        for item in new:  # no transition rule of ours stands inside a list
            yield from _rules(item, _MISSING, schema["items"])


def _holds(rule: str, names: Mapping[str, Any]) -> bool:
    try:
        return bool(_program(rule).evaluate(dict(names)))
    except celpy.CELEvalError:
        return False


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _cel(value: Any, schema: Schema) -> Any:
    """Return `value` in CEL's types as the schema names them: `number` is a double even when written as 1."""
    if isinstance(value, dict):
        parts = schema.get("properties", {})
        extra = schema.get("additionalProperties") or {}
        return celtypes.MapType(
            {celtypes.StringType(key): _cel(item, parts.get(key, extra)) for key, item in value.items()}
        )
    if isinstance(value, list):
        return celtypes.ListType([_cel(item, schema.get("items", {})) for item in value])
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, int | float):
        return celtypes.DoubleType(value) if schema.get("type") == "number" else celtypes.IntType(value)
    return celtypes.StringType(value)
