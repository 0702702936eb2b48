"""Reads manifests exactly as kubectl reads them, and turns them into models.

kubectl reads YAML with sigs.k8s.io/yaml, which is neither YAML 1.1 nor 1.2: `1e-5` is a number, `no` and `y` are
booleans, `017` is octal, `12:30` and `2026-01-01` are text. The table here follows that library; where it is laxer than
is good for anybody (unknown tags, two keys that become one, text after `...`), this reader refuses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_engine.api.budget import PrivacyBudget
from foedus_engine.api.meta import API_VERSION
from foedus_engine.api.parse import parse
from foedus_engine.api.training import FederatedTrainingJob

MAX_NODES = 100_000  # aliases included: a manifest of 1 MiB holds fewer, an alias bomb many more
MAX_DEPTH = 50  # our kinds nest to 8

KINDS: Mapping[str, type[FederatedTrainingJob] | type[PrivacyBudget]] = {
    "FederatedTrainingJob": FederatedTrainingJob,
    "PrivacyBudget": PrivacyBudget,
}

_PLAIN = "plain"  # tag of an unquoted scalar, whose type is still to be found
_TEXT = "tag:yaml.org,2002:str"
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"], True),
    **dict.fromkeys(["n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"], False),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
}
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_UINT64 = 2**64 - 1
_MIN_INT64 = -(2**63)
_EXPONENT_FROM = 1e21  # from here JSON writers use an exponent, and a reader sees no whole number


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """Composes nodes and constructs nothing."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> str:
        """Mark unquoted scalars; everything else is what it looks like."""
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _TEXT
        return "tag:yaml.org,2002:seq" if kind is SequenceNode else "tag:yaml.org,2002:map"

    def process_directives(self) -> Any:
        """Refuse directives: they would change what the text below means."""
        token = self.peek_token()  # type: ignore[no-untyped-call]  # PyYAML names no types here
        found = super().process_directives()  # type: ignore[no-untyped-call]
        if self.yaml_version is not None or self.tag_handles != self.DEFAULT_TAGS:
            raise yaml.parser.ParserError(None, None, "directives are not allowed", token.start_mark)
        return found


class _Builder:
    """Turns the nodes of one document into plain data, counting what it makes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._nodes = 0

    def build(self, node: Node, depth: int = 0) -> Any:
        """Return the node's value."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise self._refuse(node, "the document is too deep or its aliases expand to too much", "write it out")
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
            raise self._refuse(node, f"the tag {node.tag} is not known", "remove it")
        if isinstance(node, SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: Node, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in self._pairs(node, depth):
            name = self._key(key)
            if name in result:
                raise self._refuse(key, f'the key "{name}" occurs twice', "remove one")
            result[name] = self.build(value, depth + 1)
        return result

    def _pairs(self, node: Node, depth: int) -> Iterator[tuple[Node, Node]]:
        """Yield the keys and values of a mapping, with what `<<` merges in."""
        if depth > MAX_DEPTH or not isinstance(node, MappingNode):
            raise self._refuse(node, "`<<` needs a mapping", "write the fields out")
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.tag == _PLAIN and key.value == "<<":
                for merged in value.value if isinstance(value, SequenceNode) else [value]:
                    yield from self._pairs(merged, depth + 1)
            else:
                yield key, value

    def _key(self, node: Node) -> str:
        key = self._scalar(node) if isinstance(node, ScalarNode) else None
        if isinstance(key, bool):
            return "true" if key else "false"
        if isinstance(key, str | int):
            return str(key)
        raise self._refuse(node, "a key must be text", "put it in quotes")

    def _scalar(self, node: Node) -> Any:
        if node.tag == _TEXT:
            return node.value
        if node.tag != _PLAIN:
            raise self._refuse(node, f"the tag {node.tag} is not known", "remove it")
        if _NOT_FINITE.fullmatch(node.value):
            raise self._refuse(node, f"{node.value} is no number that JSON knows", "write a finite number")
        return scalar_value(node.value)

    def _refuse(self, node: Node, what: str, cure: str) -> InvalidInput:
        return InvalidInput(what, where=f"{self._source}:{node.start_mark.line + 1}", cure=cure)


def scalar_value(text: str) -> bool | int | float | str | None:
    """Return what kubectl makes of an unquoted scalar; a float without a fraction becomes an integer, as in JSON."""
    if text in _WORDS:
        return _WORDS[text]
    # Underscores are dropped from numbers, but a number starts with a digit, a sign or a dot.
    plain = text.replace("_", "") if text[0] in "0123456789+-." else text
    if _INTEGER.fullmatch(plain):
        return _integer(plain)
    if _FLOAT.fullmatch(plain):
        value = float(plain)
        return text if math.isinf(value) else _json_number(value)
    return text


def _integer(plain: str) -> int | float:
    sign, digits = (-1, plain[1:]) if plain.startswith("-") else (1, plain.lstrip("+"))
    base = {"x": 16, "b": 2, "o": 8}.get(digits[1:2].lower(), 8 if len(digits) > 1 and digits[0] == "0" else 10)
    value = sign * int(digits, base)
    return value if _MIN_INT64 <= value <= _MAX_UINT64 else _json_number(float(value))


def _json_number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < _EXPONENT_FROM else value


def load_manifests(text: str | bytes, *, source: str = "manifest") -> tuple[dict[str, Any], ...]:
    """Return the documents of a YAML or JSON file as plain data; raises InvalidInput with file, line and cure."""
    decoded = _decode(text, source)
    documents: list[dict[str, Any]] = []
    try:
        loader = _Loader(decoded)
        while loader.check_node() and (node := loader.get_node()) is not None:
            documents.extend(_objects(_Builder(source).build(node), f"{source}:{node.start_mark.line + 1}"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidInput(f"{error.problem}", where=f"{source}:{line}", cure="check the YAML there") from None
    except yaml.reader.ReaderError as error:
        raise InvalidInput(f"control characters are not allowed ({error.reason})", where=source) from None
    except RecursionError:
        raise InvalidInput("the document is too deep", where=source, cure="write it with fewer levels") from None
    return tuple(documents)


def _decode(text: str | bytes, source: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else len(text)
    if size > limits.MAX_MANIFEST_BYTES:
        limit = f"{limits.MAX_MANIFEST_BYTES} bytes"
        raise InvalidInput(f"the file is larger than {limit}", where=source, cure="split it into several files")
    try:
        return text if isinstance(text, str) else text.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("the file is not UTF-8 text", where=source, cure="save it as UTF-8") from None


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    """Return the objects of one document: none when it is empty, several when it is a List."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise InvalidInput("a manifest must be a mapping", where=where, cure="start with apiVersion and kind")
    items = value.get("items")
    if value.get("apiVersion") == "v1" and value.get("kind") == "List" and isinstance(items, list):
        return [each for item in items for each in _objects(item, where)]
    return [value]


def parse_manifest(document: Mapping[str, Any], *, source: str = "") -> FederatedTrainingJob | PrivacyBudget:
    """Return the model that a document describes; raises InvalidInput naming the first wrong field and the cure.

    A `status` is dropped: the API server ignores it too, since it is written through its own subresource.
    """
    model = KINDS.get(_text(document, "kind"))
    if model is None or _text(document, "apiVersion") != API_VERSION:
        given = f"{_text(document, 'apiVersion') or 'no apiVersion'}, {_text(document, 'kind') or 'no kind'}"
        cure = f"use apiVersion {API_VERSION} and kind {' or '.join(sorted(KINDS))}"
        raise InvalidInput(f"{given} is not known", where=source, cure=cure)
    return parse(model, {key: value for key, value in document.items() if key != "status"}, source=source)


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""
