"""Records are read strictly, every refusal names the line, and the digest names the documents, not their order."""

import json

import pytest

from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_workloads.training.data import Record, read_records, records_digest, write_records

GOOD = '{"text": "shares rose", "label": "business"}'
LABELS = ("business", "sport")
# Worked out with hashlib alone: the sorted SHA-256 of each record's canonical JSON, in the domain foedus/data/v1.
DIGEST = "sha256:0a975412ff6ee38ec5b4fe87d8e08f5080e29b2238d76f008fe2e8e4fd076305"


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines: str | bytes):
        path = tmp_path / "train.jsonl"
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
        return path

    return write_lines


def test_records_come_in_the_order_of_the_lines_and_blank_lines_do_not_count(write):
    records = read_records(write(GOOD, "", '{"label":"sport","text":"a gōal"}', ""), LABELS)
    assert records.items == (Record("shares rose", "business"), Record("a gōal", "sport"))
    assert records.count == 2


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "holds no records"),
        (["", "  "], "holds no records"),
        ([GOOD, "shares rose"], ":2: not valid JSON"),
        ([GOOD, GOOD[:-1]], ":2: not valid JSON"),
        (["[1, 2]"], ":1: not a JSON object"),
        ([b'{"text": "caf\xe9", "label": "sport"}'], ":1: not UTF-8"),
        (['{"text": "a"}'], ":1: the field label is missing"),
        (['{"label": "sport"}'], ":1: the field text is missing"),
        (['{"text": "a", "label": "sport", "id": 1}'], ":1: an unknown field"),
        (['{"text": "a", "text": "b", "label": "sport"}'], ":1: not valid JSON"),
        (['{"text": NaN, "label": "sport"}'], ":1: NaN"),
        (['{"text": -Infinity, "label": "sport"}'], ":1: NaN or an infinity"),
        (['{"text": 3, "label": "sport"}'], ":1: text is not text"),
        (['{"text": null, "label": "sport"}'], ":1: text is not text"),
        (['{"text": "a", "label": false}'], ":1: label is not text"),
        (['{"text": " ", "label": "sport"}'], ":1: text is blank"),
        (['{"text": "a\\u0000b", "label": "sport"}'], ":1: text holds a NUL"),
        (['{"text": "a\\ud800b", "label": "sport"}'], "surrogate"),
        ([GOOD, '{"text": "a", "label": "tech"}'], ":2: the label is not one of business, sport"),
        (["[" * 100_000], ":1: not valid JSON"),
    ],
)
def test_what_is_not_a_record_is_refused_with_its_line(write, lines, says):
    with pytest.raises(InvalidInput) as caught:
        read_records(write(*lines), LABELS)
    assert says in str(caught.value)
    assert caught.value.cure
    assert caught.value.code is ExitCode.INVALID_DATA


def test_a_refusal_shows_neither_text_nor_label(write):
    with pytest.raises(InvalidInput) as caught:
        read_records(write('{"text": "HIV positive", "label": "Jane Doe"}'), LABELS)
    assert "HIV" not in str(caught.value)
    assert "Jane" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"no\.jsonl: cannot read the data file"):
        read_records(tmp_path / "no.jsonl", LABELS)


def test_limits_hold(write, monkeypatch):
    monkeypatch.setattr(limits, "MAX_RECORDS", 2)
    monkeypatch.setattr(limits, "MAX_LINE_BYTES", 60)
    assert read_records(write(GOOD, GOOD)).count == 2
    with pytest.raises(InvalidInput, match=":3: more than 2 records"):
        read_records(write(GOOD, GOOD, GOOD))
    with pytest.raises(InvalidInput, match=":2: the line is longer than 60 bytes"):
        read_records(write(GOOD, json.dumps({"text": "x" * 60, "label": "sport"})))
    monkeypatch.setattr(limits, "MAX_DATA_BYTES", 50)
    with pytest.raises(InvalidInput, match="larger than 50 bytes"):
        read_records(write(GOOD, GOOD))


def test_the_digest_depends_on_the_documents_and_their_number_alone(write):
    one = read_records(write(GOOD, '{"text": "a", "label": "x"}'))
    other = read_records(write('{"label":"x",  "text":"\\u0061"}', "", GOOD))
    assert (one.digest, one.count) == (other.digest, other.count) == (DIGEST, 2)
    others = [[Record("a", "x")], [Record("a", "y")], [Record("b", "x")], [Record("a", "x"), Record("a", "x")]]
    assert len({records_digest(records) for records in others}) == 4


def test_text_and_label_cannot_be_shifted_into_each_other():
    assert records_digest([Record("ab", "c")]) != records_digest([Record("a", "bc")])


def test_what_is_written_is_read_back(tmp_path):
    records = [Record('quote " and\nline', "sport"), Record("Ünïcödé ❤", "business")]
    write_records(tmp_path / "out.jsonl", records)
    assert read_records(tmp_path / "out.jsonl", LABELS).items == tuple(records)
