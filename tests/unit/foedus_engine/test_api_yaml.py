"""YAML as kubectl reads it. Expected values were produced with sigs.k8s.io/yaml v1.6.0 (YAMLToJSONStrict)."""

from __future__ import annotations

import pytest

from foedus_contract.errors import InvalidInput
from foedus_engine.manifests import load_manifests

SCALARS = {
    "1e-5": 0.00001, "1E5": 100000, "1.0e5": 100000, "1e+5": 100000, "20.0": 20, "1e21": 1e21, ".5": 0.5, "5.": 5,
    "+1": 1, "-.5": -0.5, ".": ".", "+": "+", "1e": "1e", "1e400": "1e400", "1.2.3": "1.2.3", "5m": "5m", "1Gi": "1Gi",
    "no": False, "No": False, "NO": False, "off": False, "n": False, "N": False, "false": False, "FALSE": False,
    "yes": True, "on": True, "y": True, "Y": True, "On": True, "true": True, "True": True,
    "~": None, "null": None, "Null": None, "": None, "nuLL": "nuLL", "nO": "nO",
    "0o17": 15, "017": 15, "-0o17": -15, "0777": 511, "08": 8, "0x1F": 31, "-0x1F": -31, "0b101": 5, "-0b11": -3,
    "1_000": 1000, "1_000.5": 1000.5, "1__0": 10, "0x_1F": 31, "_1": "_1", "1,000": "1,000",
    "12:30": "12:30", "190:20:30.15": "190:20:30.15", "2026-01-01": "2026-01-01",
    "2026-01-01T00:00:00Z": "2026-01-01T00:00:00Z", "inf": "inf", "nan": "nan", "=": "=", "<<": "<<",
    '"quoted"': "quoted", "'1'": "1", '"no"': "no", "!!str 5": "5", "|-\n  no": "no", "9223372036854775807": 2**63 - 1,
    "18446744073709551615": 2**64 - 1, "00": 0, "-0": 0, "0.1": 0.1, "x # comment": "x", "x#y": "x#y",
}  # fmt: skip


@pytest.mark.parametrize(("text", "want"), SCALARS.items())
def test_scalars_are_what_kubectl_makes_of_them(text: str, want: object) -> None:
    got = load_manifests(f"a: {text}")[0]["a"]
    assert (got, type(got)) == (want, type(want))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a: 1\n---\nb: 2\n", ({"a": 1}, {"b": 2})),
        ("---\n---\na: 1\n---\n# nothing\n", ({"a": 1},)),
        ("", ()),
        ('{"a": 1e-5, "b": [true, null]}', ({"a": 0.00001, "b": [True, None]},)),
        ("1: x\nno: y\n", ({"1": "x", "false": True},)),
        ("a: &x {b: 1}\nc: *x\n", ({"a": {"b": 1}, "c": {"b": 1}},)),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  d: 2\n", ({"a": {"b": 1}, "c": {"b": 1, "d": 2}},)),
        ("\ufeffa: 1\n", ({"a": 1},)),
        ("apiVersion: v1\nkind: List\nitems: [{a: 1}, {b: 2}]\n", ({"a": 1}, {"b": 2})),
    ],
)
def test_documents(text: str, want: object) -> None:
    assert load_manifests(text) == want


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a: 1\na: 2\n", 'f.yaml:2: the key "a" occurs twice; remove one'),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  b: 2\n", 'f.yaml:4: the key "b" occurs twice; remove one'),
        ("1: a\n'1': b\n", 'f.yaml:2: the key "1" occurs twice; remove one'),
        ("~: a\n", "f.yaml:1: a key must be text; put it in quotes"),
        ("a:\n\tb: 1\n", "f.yaml:2: found character '\\t' that cannot start any token; check the YAML there"),
        ("a: .nan\n", "f.yaml:1: .nan is no number that JSON knows; write a finite number"),
        ("a: -.inf\n", "f.yaml:1: -.inf is no number that JSON knows; write a finite number"),
        (
            "a: !!python/object:os.system x\n",
            "f.yaml:1: the tag tag:yaml.org,2002:python/object:os.system",
        ),
        ("a: !!set {x}\n", "f.yaml:1: the tag tag:yaml.org,2002:set is not known; remove it"),
        ("%YAML 1.2\n---\na: no\n", "f.yaml:1: directives are not allowed"),
        ("%TAG ! tag:example.com,2000:\n---\na: no\n", "f.yaml:1: directives are not allowed"),
        ("a: &x [*x]\n", "the document is too deep or its aliases expand to too much"),
        ("a: &x {<<: *x}\n", "needs a mapping"),
        ("a: *nope\n", "f.yaml:1: found undefined alias 'nope'"),
        ("[" * 100 + "]" * 100, "the document is too deep"),
        ("[" * 100_000, "too deep"),
        (BOMB, "the document is too deep or its aliases expand to too much"),
        ("a: x\x00", "control characters are not allowed"),
        ("- a\n", "f.yaml:1: a manifest must be a mapping; start with apiVersion and kind"),
        ("a: " + "x" * 1024 * 1024, "the file is larger than 1048576 bytes; split it into several files"),
        (b"a: \xff\n", "the file is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_what_is_refused_names_line_and_cure(text: str | bytes, want: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_manifests(text, source="f.yaml")
    assert want in str(caught.value)
    assert "\n" not in str(caught.value)
