"""Builds HTML in which text cannot become markup: everything but the type `Html` is escaped."""

from __future__ import annotations

import base64
import hashlib
import html

from egress.cli.output.text import plain


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return markup unchanged; escape the text of anything else, and its control characters."""
    return value if isinstance(value, Html) else Html(html.escape(plain(str(value))))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Build an element; `text` escapes its children. In attribute names _ becomes -, and a final _ is dropped."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{''.join(map(text, children))}</{name}>")


def empty(name: str, /, **attributes: object) -> Html:
    """Build a void element: one without content and end tag."""
    return Html(str(tag(name, **attributes)).removesuffix(f"</{name}>"))


def page(title: str, style: str, *body: object) -> Html:
    """Build a document whose Content-Security-Policy lets it load nothing and run no script.

    `style` is the CSS of the page, which is not escaped.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        empty("meta", charset="utf-8"),
        empty("meta", http_equiv="Content-Security-Policy", content=policy),
        empty("meta", name="referrer", content="no-referrer"),
        empty("meta", name="viewport", content="width=device-width"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return Html(f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n")
