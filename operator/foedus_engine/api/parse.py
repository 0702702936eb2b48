"""From plain data to a model: strict for what users write, lenient for what is read back from a store.

Types are never guessed: `epsilon: "1"` is text and refused, as the API server refuses it. A null counts as a field that
was left out, also as the API server has it. Every refusal is one line with the field's path and a cure.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from foedus_contract.errors import InvalidInput
from foedus_engine.api.common import Kind
from foedus_engine.api.meta import PATTERN_HELP, ApiModel

Model = TypeVar("Model", bound=ApiModel)
Stored = TypeVar("Stored", bound=Kind)

# What pydantic says, in the words of a manifest. The placeholders are pydantic's own.
_MESSAGES = {
    "missing": ("is required", "add it"),
    "float_type": ("must be a number", "write it without quotes"),
    "int_type": ("must be a whole number", "write it without quotes"),
    "int_from_float": ("must be a whole number", "remove the fraction"),
    "bool_type": ("must be true or false", "write it without quotes"),
    "string_type": ("must be text", "put it in quotes"),
    "tuple_type": ("must be a list", "start each item with `- `"),
    "dict_type": ("must be a mapping", "write `name: value` lines below it"),
    "model_type": ("must be a mapping", "write `name: value` lines below it"),
    "greater_than": ("must be greater than {gt}", ""),
    "greater_than_equal": ("must be at least {ge}", ""),
    "less_than": ("must be less than {lt}", ""),
    "less_than_equal": ("must be at most {le}", ""),
    "too_short": ("must have at least {min_length} entries, and has {actual_length}", ""),
    "too_long": ("must have at most {max_length} entries, and has {actual_length}", ""),
    "string_too_short": ("must not be empty", ""),
    "string_too_long": ("must have at most {max_length} characters", ""),
    "literal_error": ("must be {expected}", ""),
    "enum": ("must be {expected}", ""),
    "rule": ("{message}", ""),
}


def parse(model: type[Model], document: Mapping[str, Any], *, source: str = "") -> Model:
    """Return what a user wrote as a model; raises InvalidInput naming the first wrong field and the cure."""
    return _validate(model, document, source, "forbid")


def parse_stored(model: type[Stored], document: Mapping[str, Any]) -> Stored:
    """Return an object read back from a store; what this version does not know is ignored.

    That is every unknown field, and the whole status: most of it is for people, and a newer version may have left a
    phase or a reason there that this one has no name for. What decisions rest on is read by who takes them.
    """
    metadata = document.get("metadata") or {}
    known = {name: part for name, part in document.items() if name != "status"}
    return _validate(model, known, f"{model.__name__} {metadata.get('name', '')}".strip(), "ignore")


def check_transition(old: ApiModel, new: ApiModel, path: str = "") -> None:
    """Raise InvalidInput unless `new` may follow `old`, by the rules that the CRDs state with oldSelf."""
    for rule in old.TRANSITIONS:
        if not rule.holds(old, new):
            raise InvalidInput(rule.message, where=_join(path, rule.field))
    for name, field in type(old).model_fields.items():
        pair = (getattr(old, name), getattr(new, name))
        for part, before, after in _correlated(*pair):
            check_transition(before, after, _join(path, _join(str(field.alias), part)))


def _correlated(before: Any, after: Any) -> Iterable[tuple[str, ApiModel, ApiModel]]:
    """Return the models that stand at the same place in both, as the API server correlates them."""
    if isinstance(before, ApiModel) and isinstance(after, ApiModel):
        return [("", before, after)]
    if isinstance(before, dict) and isinstance(after, dict):
        return [(key, before[key], after[key]) for key in before if key in after and isinstance(before[key], ApiModel)]
    return []


def _validate(model: type[Model], document: Mapping[str, Any], source: str, extra: Any) -> Model:
    text = json.dumps(document)
    if "null" in text:  # the walk through every value takes longer than the rest
        text = json.dumps(_without_nulls(document, model))
    try:
        # Strict JSON: lists become tuples and whole numbers floats, and nothing else is converted.
        return model.model_validate_json(text, strict=True, extra=extra, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise _problem(model, _most_telling(problems), source) from None


def _most_telling(problems: list[Any]) -> Any:
    # A misspelt field is both unknown and missing: the unknown name is what the user sees in the file.
    return next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])


def _problem(model: type[ApiModel], problem: Mapping[str, Any], source: str) -> InvalidInput:
    context = problem.get("ctx", {})
    path = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        what, cure = "is not a known field", _suggestion(model, problem["loc"])
    elif problem["type"] == "string_pattern_mismatch":
        what, cure = PATTERN_HELP.get(context["pattern"], f"must match {context['pattern']}"), ""
    else:
        fallback = re.sub(r"^(Value error, )?(Input should be )?", "must be ", str(problem["msg"]))
        what, cure = _MESSAGES.get(problem["type"], (fallback, ""))
        what = what.format_map({name: _number(value) for name, value in context.items()})
    path = _join(path, str(context.get("field", "")))
    return InvalidInput(what, where=": ".join(part for part in (source, path) if part), cure=cure)


def _number(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value


def _path(location: Iterable[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _join(path: str, part: str) -> str:
    return ".".join(each for each in (path, part) if each)


def _suggestion(model: type[ApiModel], location: tuple[int | str, ...]) -> str:
    known = sorted(_fields(_model_at(model, location[:-1])))
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def _model_at(model: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel]:
    inside: Any = model
    for part in location:
        if isinstance(part, str) and _is_model(inside):
            inside = _inner(_fields(inside).get(part))
    return inside if _is_model(inside) else model


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {str(field.alias): field.annotation for field in model.model_fields.values()}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _inner(annotation: Any) -> Any:
    """Return the model inside an annotation such as `tuple[ClientSpec, ...]` or `LoraSpec | None`, or None."""
    if _is_model(annotation):
        return annotation
    return next((found for each in get_args(annotation) if (found := _inner(each)) is not None), None)


def _without_nulls(value: Any, annotation: Any) -> Any:
    """Return `value` without known fields that are null."""
    model = _inner(annotation)
    if isinstance(value, list | tuple):
        return [_without_nulls(item, annotation) for item in value]
    if not isinstance(value, Mapping):
        return value
    if get_origin(annotation) is dict:
        return {key: _without_nulls(item, model) for key, item in value.items()}
    fields = _fields(cast("type[BaseModel]", model)) if model is not None else {}
    kept = {key: item for key, item in value.items() if item is not None or key not in fields}
    return {key: _without_nulls(item, fields.get(key)) for key, item in kept.items()}
