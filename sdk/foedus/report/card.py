"""The model card on the page: its Markdown as elements, without links, images or markup of its own."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markdown_it import MarkdownIt

from foedus.report.markup import clean, h

CARD_FILE = "README.md"
MAX_CARD_BYTES = 256 * 1024  # labels and settings; a card is about 3 KiB
FENCE = "---"
DEMOTED = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6"}  # below the page's own headings


def read_card(folder: Path) -> str | None:
    """Return the model card's Markdown; None when there is none, or one that is too large."""
    try:
        with (folder / CARD_FILE).open("rb") as file:
            text = file.read(MAX_CARD_BYTES + 1)
    except OSError:
        return None
    return text.decode("utf-8", "replace") if len(text) <= MAX_CARD_BYTES else None


def render_card(markdown: str) -> Element:
    """Return the card as elements; links, images and HTML in it stay plain text."""
    reader = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")
    reader.disable(["link", "image", "autolink", "reference"])
    rendered = reader.render(clean(without_front_matter(markdown)))
    # Parsed as XML, so that what is not well-formed could never reach the page.
    card = ElementTree.fromstring(f"<div>{rendered}</div>")  # noqa: S314 - our own renderer wrote it, without entities
    for element in card.iter():
        element.tag = DEMOTED.get(element.tag, element.tag)
    return h("div", *_scrolling(card), class_="card")


def _scrolling(card: Element) -> list[Element]:
    """Return the card's parts; a table may be scrolled where it is wider than the page."""
    return [h("div", part, class_="scroll", tabindex="0") if part.tag == "table" else part for part in card]


def without_front_matter(markdown: str) -> str:
    """Return the text behind the block of settings that a card begins with."""
    if not markdown.startswith(f"{FENCE}\n"):
        return markdown
    _, found, rest = markdown.removeprefix(f"{FENCE}\n").partition(f"\n{FENCE}\n")
    return rest if found else markdown
