"""HTML and SVG as trees: text and attributes are data, so nothing from outside can become markup.

`h` builds an element, `document` writes the whole page. The page runs no script and loads nothing: its policy allows
its own style sheet, by hash, and no more.
"""

from __future__ import annotations

import base64
import hashlib
import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Node = Element | str | None
Value = str | float | None

# Neither HTML nor XML can hold them; a terminal's escape sequences would only confuse a reader.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Return the text with a replacement character for each control character."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def number(value: float) -> str:
    """Return a coordinate with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def h(tag: str, *children: Node, **attributes: Value) -> Element:
    """Return an element; `class_` and `stroke_width` mean `class` and `stroke-width`, None leaves out."""
    element = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            key = name.rstrip("_").replace("_", "-")
            element.set(key, clean(value) if isinstance(value, str) else number(value))
    for child in children:
        add(element, child)
    return element


def add(parent: Element, child: Node) -> None:
    """Append an element or a text."""
    if child is None:
        return
    if not isinstance(child, str):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + clean(child)
    else:
        parent.text = (parent.text or "") + clean(child)


def policy(style: str) -> str:
    """Return the content security policy of a page whose only style sheet is `style`."""
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def document(title: str, style: str, *body: Node) -> bytes:
    """Return the page as UTF-8 bytes; `style` is the page's own and never holds anything from outside."""
    page = h(
        "html",
        h(
            "head",
            h("meta", charset="utf-8"),
            h("meta", http_equiv="Content-Security-Policy", content=policy(style)),
            h("meta", name="viewport", content="width=device-width, initial-scale=1"),
            h("meta", name="color-scheme", content="light dark"),
            h("meta", name="referrer", content="no-referrer"),
            h("title", title),
            h("style", style),
        ),
        h("body", *body),
        lang="en",
    )
    text: bytes = ElementTree.tostring(page, encoding="utf-8", method="html")
    return b"<!doctype html>\n" + text + b"\n"
