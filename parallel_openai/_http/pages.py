"""A web page in the place of words, as gateways and proxies send it: told by its title."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

#: Where a page begins within other words; a text that begins with a tag is one as a whole.
_PAGE = re.compile(r"(?is)<(?:!doctype\s+html|html\b|head\b|body\b).*?(?:</html\s*>|$)")
_TITLE = re.compile(r"(?is)<(title|h1)\b[^<>]{0,200}>(.{1,500}?)</\1")
_NO_WORDS = re.compile(r"(?is)<(script|style)\b.*?(?:</\1\s*>|$)|<!--.*?-->|<[^<>]*>")
#: Of a page, so many characters are looked through for its title, and else for its words.
_MOST, _WORDS = 2**16, 2**13
_LONGEST_TITLE = 100


def without_page(text: str, sender: str = "") -> str:
    """The text with its title in the place of a web page; itself where it holds none.

    >>> without_page("<html><head><title>502 Bad Gateway</title></head></html>", "nginx")
    "a web page of nginx and no answer of the API: '502 Bad Gateway'"
    >>> without_page("Say <b>yes</b>.")
    'Say <b>yes</b>.'
    """
    text = text[:_MOST].lstrip("\ufeff \t\r\n")
    found = None if text.startswith("<") else _PAGE.search(text)
    if found is None and not text.startswith("<"):
        return text
    page = text if found is None else found[0]
    told = f"a web page{f' of {sender}' if sender else ''} and no answer of the API: {_title(page)}"
    return told if found is None else f"{text[: found.start()]}{told}{text[found.end() :]}"


def is_page(body: bytes) -> bool:
    """Whether a whole body is a web page, or XML."""
    return body[:200].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def told_body(body: bytes, headers: Mapping[str, str]) -> str:
    """What an answer's body says that is no JSON: its first words, or the title of the page that it is."""
    text = body[:_MOST].decode("utf-8", "replace")
    return without_page(text, headers.get("server", "")[:50])[:200].strip()


def _title(page: str) -> str:
    found = _TITLE.search(page)
    words = " ".join(html.unescape(_NO_WORDS.sub(" ", found[2] if found else page[:_WORDS])).split())
    return f"'{words[:_LONGEST_TITLE]}'" if words else "one without a title"
