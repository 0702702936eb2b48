import csv
from collections import Counter
from pathlib import Path

import pytest

from foedus.corpus import CORPORA, package_files, read_corpus, read_texts, read_tweets, split_texts
from foedus_contract.errors import InvalidInput
from foedus_workloads.training.data import Record

TEXTS = tuple(Record(text=f"text {number}", label="ab"[number % 2]) for number in range(100))


def test_every_text_goes_to_exactly_one_place() -> None:
    split = split_texts(TEXTS, 7, seed=1)
    placed = [text for hand in (*split.silos, split.held_out) for text in hand]
    assert len(placed) == 100
    assert set(placed) == set(TEXTS)


def test_a_fifth_of_each_label_is_held_out_and_silos_are_alike() -> None:
    split = split_texts(TEXTS, 8, seed=1)
    assert sorted(text.label for text in split.held_out) == ["a"] * 10 + ["b"] * 10
    assert [len(hand) for hand in split.silos] == [10] * 8
    assert {sum(text.label == "a" for text in hand) for hand in split.silos} == {5}


def test_the_seed_fixes_the_split_and_the_order_of_texts_does_not_count() -> None:
    assert split_texts(TEXTS, 5, seed=3) == split_texts(TEXTS[::-1], 5, seed=3)
    assert split_texts(TEXTS, 5, seed=3) != split_texts(TEXTS, 5, seed=4)


def test_too_many_silos_are_refused() -> None:
    with pytest.raises(InvalidInput, match="use fewer silos"):
        split_texts(TEXTS[:9], 5, seed=1)


def test_each_silo_gets_as_many_as_asked_for_and_the_rest_is_held_out() -> None:
    split = split_texts(TEXTS[:-1], 7, seed=1, each=9)  # 50 of a, 49 of b
    assert [len(hand) for hand in split.silos] == [9] * 7
    assert sorted(text.label for text in split.held_out) == ["a"] * 18 + ["b"] * 18
    assert {*split.held_out, *(text for hand in split.silos for text in hand)} == set(TEXTS[:-1])
    assert all(4 <= sum(text.label == "a" for text in hand) <= 5 for hand in split.silos)


@pytest.mark.parametrize("each", [20, 21])
def test_more_than_there_is_with_some_held_out_is_refused(each: int) -> None:
    with pytest.raises(InvalidInput, match="leave some to hold out"):
        split_texts(TEXTS, 5, seed=1, each=each)


def test_tweets_lose_their_links_and_a_retweet_is_the_same_text(tmp_path: Path) -> None:
    file = tmp_path / "tweets.csv"
    rows = (
        "sentiment,confidence,text",
        'positive,1,"A caf\xe9,  at https://t.co/abc last!"',
        "negative,1,RT @some_one: a caf\xe9 at last",  # the same words
        "neutral,,http://t.co/only",  # no words
        "unsure,1,no such label",
        "neutral,1,plain",
    )
    file.write_bytes("\r\n".join(rows).encode("latin-1"))
    assert read_tweets([file], {"positive": "good", "negative": "bad", "neutral": "plain"}) == (
        Record(text="A café, at last!", label="good"),
        Record(text="plain", label="plain"),
    )


def test_texts_are_normalised_distinct_and_labelled_by_folder(tmp_path: Path) -> None:
    for name, content in {
        "one/1.txt": b"a  b\nc\n",
        "one/2.txt": b"a b c",  # the same words
        "two/3.txt": b"\xa3 5",  # not UTF-8
        "two/4.txt": b" \n",  # empty
        "other/5.txt": b"no such label",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    texts = read_texts(tmp_path.rglob("*.txt"), {"one": "first", "two": "second"})
    assert texts == (Record(text="a b c", label="first"), Record(text="\ufffd 5", label="second"))


def test_bbc_news_has_the_expected_texts() -> None:
    texts = read_corpus("bbc-news")
    # 2,225 files, of which 100 repeat another's words (white space aside)
    assert len(texts) == 2125
    assert {text.label for text in texts} == set(CORPORA["bbc-news"].labels.values())


def test_tweets_have_the_expected_texts() -> None:
    (file,) = package_files(CORPORA["tweets"])
    with file.open(encoding="latin-1", newline="") as lines:
        rows = sum(1 for _ in csv.DictReader(lines))
    texts = read_corpus("tweets")
    assert (rows, rows - len(texts)) == (38_158, 2_544)  # so many repeat another's words
    assert Counter(text.label for text in texts) == {"negative": 15_476, "neutral": 13_671, "positive": 6_467}
