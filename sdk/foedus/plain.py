"""Text that others wrote, as a terminal may be given it: it obeys what does not print."""

from __future__ import annotations

MAX_SHOWN = 512  # letters of a message; a condition's has up to 4096


def printable(text: str) -> str:
    """Return the text with a space for each letter that does not print."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def one_line(text: str) -> str:
    """Return the text as one line of words, cut where it is very long."""
    shown = " ".join(printable(text).split())
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 1]}…"
