"""The page is well-formed, holds what it promises, loads nothing, runs nothing, and shows hostile words as words."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from foedus.report.card import render_card
from foedus.report.page import build_page, duration
from foedus.report.promises import promises
from foedus.report.record import Ending, RunRecord
from foedus_contract.run_spec import ModelSource
from foedus_workloads.training.export import model_card
from support.report_record import HOSTILE, hostile_record, small_record
from support.training_plans import ANY_DIGEST, tiny_plan

VOID = {"meta", "br", "hr"}
ELEMENTS = """html head meta title style body header main section footer h1 h2 h3 h4 p strong span dl dt dd div figure
figcaption table thead tbody tr th td ul li details summary pre code br hr
svg desc defs pattern rect circle path line text"""
ATTRIBUTES = """charset http-equiv content name lang class id scope role tabindex
aria-labelledby aria-describedby aria-hidden viewbox preserveaspectratio
x y x1 y1 x2 y2 cx cy r d width height fill patternunits patterntransform"""


class Page(HTMLParser):
    """Reads a page strictly: each element is closed by its own end tag, in order."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page.decode("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data))

    def comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_comment = comment
    handle_pi = comment

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(data for tag, data in self.texts if tag != "style")


RECORDS = {
    "complete": small_record(),
    "hostile": hostile_record(),
    "nothing measured": small_record(attempts=()),
    "interrupted": small_record(ending=Ending(outcome="Interrupted", message="It was interrupted.", at=1020.0)),
    "no ledger": small_record(accounts=(), epsilon_spent_rdp=None),
}


def card_of(record: RunRecord) -> str:
    plan = tiny_plan(ANY_DIGEST).model_copy(update={"model": record.plan.model})
    return model_card(plan, {"accuracy": 0.5}, ModelSource(package=record.base_model))


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_is_well_formed_and_refers_to_nothing_outside(name: str) -> None:
    page = Page(build_page(RECORDS[name], card_of(RECORDS[name])))
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert {key for _, attributes in page.elements for key in attributes} <= set(ATTRIBUTES.split())
    references = {
        match for _, each in page.elements for value in each.values() for match in re.findall(r"url\((.*)\)", value)
    }
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert references <= {f"#{name}" for name in identifiers}
    assert len(identifiers) == len(set(identifiers))


def test_the_policy_allows_the_pages_own_style_and_no_more() -> None:
    page = Page(build_page(hostile_record(), HOSTILE))
    (style,) = [data for tag, data in page.texts if tag == "style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not re.search(r"@import|url\(|https?:|//", style)


def test_hostile_words_stay_words() -> None:
    record = hostile_record()
    page = Page(build_page(record, card_of(record)))
    # base model in the head line; reason; message; note; label and base model in the card
    assert page.words.count("""<script>alert("1")</script>'">""") >= 6
    assert page.words.count(HOSTILE[:64]) >= 6
    assert not page.of("script") + page.of("img") + page.of("a")
    assert len(page.of("style")) == 1


def test_a_card_keeps_its_tables_and_code_and_loses_its_front_matter() -> None:
    card = render_card(
        "---\ntags: [x]\n---\n# Name\n\n| a | b |\n|---|---|\n| 1 | <b>2</b> |\n\n```python\nx = 1 < 2\n```\n\x1b[31m"
    )
    assert [element.tag for element in card.iter() if element.tag in {"h1", "h3", "table", "code", "b"}] == [
        "h3",
        "table",
        "code",
    ]
    text = "".join(card.itertext())
    assert "x = 1 < 2" in text
    assert "<b>2</b>" in text
    assert "tags" not in text
    assert "\x1b" not in text


def test_promised_and_spent_stand_side_by_side() -> None:
    assert [(each.what, each.promised, each.kept) for each in promises(small_record())] == [
        ("ε, exact (PLD)", "at most 1; planned 0.9900", "0.9000"),
        ("ε by Rényi accounting", "planned 1.1000", "1.0000"),
        ("δ", "1e-05", "1e-05, at which both ε are told"),
        ("attempts", "5 reserved: 3 rounds and 2 spare", "4 used, 3 released"),
        ("charges in the silos' ledgers", "at most 5 a silo", "3–4 a silo"),
        ("silos in each sum", "at least 3 of 4", "3–4"),
        ("honest noise shares in each sum", "at least 2 (n_min)", "at least 2"),
        ("noise σ that they add up to", "8.000", "at least 8.000"),
        ("clip norm", "0.5 an example", "checked by each silo in whole numbers"),
    ]


def local_record() -> RunRecord:
    record = small_record()
    privacy = record.plan.privacy.model_copy(update={"noise": "Local", "min_honest": 1})
    return small_record(plan=record.plan.model_copy(update={"privacy": privacy}))


def test_with_local_noise_the_page_trusts_nobody_and_counts_the_silos_own_share() -> None:
    found = {each.what: (each.promised, each.kept) for each in promises(local_record())}
    assert found["honest noise shares in each sum"] == ("the silo's own", "the silo's own")
    assert found["noise σ that they add up to"] == ("8.000", "at least 8.000")
    words = Page(build_page(local_record(), card_of(local_record()))).words
    assert "Adversary: the coordinator and all other silos together, whatever they do." in words
    assert "Nobody else is trusted." in words
    assert "honest silos in each sum" not in words


@pytest.mark.parametrize(
    "words",
    [
        "80.0%",
        "0.900",
        "of 1 promised,",
        "3 of 3",
        "4 of 5 reserved attempts used",
        "3–4",
        "1970-01-01 00:16:40 UTC to 1970-01-01 00:17:45 UTC",
        "honest but curious",
        "plus 1 silo telling it everything",
        "at least 2 honest silos",
        "Foedus started the silos.",
        "3 of 4",
        "released nothing: 2 silos left, 3 are needed; without silo-3, silo-4",
        "Each record of each silo is protected",
    ],
)
def test_the_page_says(words: str) -> None:
    record = small_record()
    assert words in Page(build_page(record, card_of(record))).words


def test_a_run_that_did_not_end_well_says_why_and_that_there_is_no_card() -> None:
    ending = Ending(outcome="Failed", message="QuorumLost: too few silos are left", at=1030.0)
    words = Page(build_page(small_record(ending=ending), None)).words
    for part in ("Failed", "Why it ended:", "QuorumLost: too few silos are left", "This run left no adapter"):
        assert part in words


def test_every_plot_has_words_for_who_does_not_see_it() -> None:
    page = Page(build_page(small_record(), None))
    plots = [svg for svg in page.of("svg") if svg["class"] == "plot"]
    texts = {tag: [data for where, data in page.texts if where == tag] for tag in ("title", "desc")}
    assert len(plots) == len(texts["desc"]) == 4
    assert all(svg["role"] == "img" and svg["aria-labelledby"] and svg["aria-describedby"] for svg in plots)
    assert "Between 3 and 4 of 4 silos." in texts["desc"]
    assert "silo-4 is in the sum of 1 of 4 attempts" in texts["title"]


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(0.04, "0.0 s"), (99.94, "99.9 s"), (100, "1 min 40 s"), (3600, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_a_length_of_time_is_readable(seconds: float, want: str) -> None:
    assert duration(seconds) == want
