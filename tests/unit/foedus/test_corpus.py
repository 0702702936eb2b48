from pathlib import Path

import pytest

from foedus.corpus import CORPORA, read_corpus, read_texts, split_texts
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
