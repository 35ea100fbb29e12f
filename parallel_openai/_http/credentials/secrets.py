"""What must never be seen in an answer, an error or a log: keys, which some servers send back."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from html.entities import codepoint2name
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from parallel_openai._json import dumps, loads

#: What the names of headers and of a query's parts that carry a secret have in them.
_NAMES = re.compile(r"(?i)key|token|secret|pass|pwd|auth|credential|cookie|session|(?<![a-z])sig")
#: The only part of a query that is known to be none: Azure's errors tell it, and a person has to read it.
PLAIN_IN_QUERY = "api-version"
#: Letters from which on a text is taken for a secret wherever it stands; a shorter one may be a part of a word.
_ANYWHERE = 8
#: A text with fewer letters is no secret, and would be found everywhere.
_SHORTEST = 4
#: Letters from which on a text is no word that an answer may hold by chance. A shorter one needs letters and digits,
#: since many servers want no key and are given a word.
_NO_WORD = 20
#: What is on its way may still be answered with a key that has been renewed meanwhile.
_KEPT = 8
#: Letters up to which a secret is looked for letter by letter, each in all its spellings.
_LONGEST = 200
#: What a short secret may follow on, though it ends in a letter: `%3D`, `\\n`.
_BEHIND_AN_ESCAPE = r"(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])"
_URL_SAFE = str.maketrans("+/", "-_")
_MASK = "***"


class Secrets:
    """The secrets that requests carry, to be taken out of what comes back.

    Errors, headers and our own sentences lose every one of them; a good answer keeps plain words (`lm-studio`,
    `EMPTY`), which are no keys and which the model may well say.

    Args:
        headers: those of the requests.
        url: where they go; its query may hold secrets too.
        proxy: the URL of the proxy between, with a name and password perhaps.

    >>> secrets = Secrets({"Authorization": "Bearer sk-0123456789", "User-Agent": "parallel_openai"})
    >>> secrets.out_of("Wrong key: sk-0123456789.")
    'Wrong key: ***.'
    >>> secrets.out_of_body(b'{"message": "sk\\\\u002d0123456789 is wrong"}')
    b'{"message":"*** is wrong"}'
    >>> secrets = Secrets({"X-Team-Pass": "swordfish"})
    >>> secrets.out_of_body(b'{"content": "A swordfish."}'), secrets.out_of_error(b'{"error": "Not swordfish."}')
    (b'{"content": "A swordfish."}', b'{"error":"Not ***."}')
    """

    def __init__(self, headers: Mapping[str, str], url: str = "", proxy: str | None = None) -> None:
        self._lasting = [*sent_secrets(headers, url), *_credentials(proxy or "")]
        self._renewed: list[str] = []
        self._set()

    def renew(self, headers: Mapping[str, str]) -> None:
        """Further secrets are sent from now on."""
        self._renewed = list(dict.fromkeys([*secrets_in(headers), *self._renewed]))[:_KEPT]
        self._set()

    def _set(self) -> None:
        words = [word for word in (*self._lasting, *self._renewed) if len(word) >= _SHORTEST]
        self._all = _pattern(words)
        # Looking for texts is ten times faster than the pattern, and these signs begin all spellings that are no text.
        self._signs = (*_written(words), "%", "\\", "&")
        self._certain = _pattern(word for word in words if _is_no_word(word))
        # One text after the other is looked for before the pattern is: most answers hold none.
        self._texts = [text.encode() for text in _written(filter(_is_no_word, words))]

    def out_of(self, text: str) -> str:
        """A sentence without them."""
        return self._all.sub(_MASK, text)

    def out_of_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers themselves, if there is nothing to take out; else others, with names in lower case."""
        told = "\n".join(headers.values())
        for sign in self._signs:  # of each row: so a loop, and no generator
            if sign in told and self._all.search(told):
                return {name.lower(): self.out_of(value) for name, value in headers.items()}
        return headers

    def out_of_body(self, body: bytes) -> bytes:
        """A good answer without what is certainly a secret."""
        for secret in self._texts:
            if secret in body:
                body = _as_text(body, self._out_of_answer)
                break
        # Signs of letters that stand there otherwise than as themselves: escaped, or two bytes each.
        # One byte is found ten times faster than two.
        if (b"\\" in body and (b"\\u00" in body or b"\\/" in body)) or b"\x00" in body:
            return _within(body, self._out_of_answer)
        return body

    def _out_of_answer(self, text: str) -> str:
        return self._certain.sub(_MASK, text)

    def out_of_error(self, body: bytes) -> bytes:
        """What a server says of an error without any of them, whatever they look like; in the names of its fields too
        where they are certainly secrets."""
        masked = _within(body, self.out_of)
        return _as_text(masked, self._out_of_answer if masked is not body else self.out_of)


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Finds the words in each of the ways in which they may be written, the longest first."""
    words = list(words)
    ways = {way: re.escape(way) for way in _written(words)}
    ways.update((word, "".join(map(_spelled, word))) for word in words if len(word) <= _LONGEST)
    found = [
        pattern if len(way) >= _ANYWHERE else rf"(?:(?<!\w)|{_BEHIND_AN_ESCAPE}){pattern}(?!\w)"
        for way, pattern in sorted(ways.items(), key=lambda each: -len(each[0]))
    ]
    return re.compile("|".join(found) or r"(?!)")


def _written(words: Iterable[str]) -> list[str]:
    """Words as themselves, and as JSON, a URL, hexadecimals and base64 write them, alone or within a longer text."""
    ways: tuple[Callable[[str], str], ...] = (
        str,
        lambda word: dumps(word)[1:-1].decode(),
        quote,
        quote_plus,
        lambda word: quote(word, safe=""),
        lambda word: word.encode().hex(),
        lambda word: word.encode().hex().upper(),
        lambda word: b64encode(word.encode()).decode().rstrip("="),
        *(partial(_within_base64, before=before) for before in range(3)),
    )
    written = (way(word) for word in words for way in ways)
    return list(dict.fromkeys(each for way in written for each in (way, way.translate(_URL_SAFE)) if each))


def _within_base64(word: str, before: int) -> str:
    """What base64 of any text with the word in it has, where that stands so many bytes behind a multiple of three."""
    whole = b64encode(bytes(before) + word.encode()).decode()
    return whole[(before * 8 + 5) // 6 : (before + len(word.encode())) * 8 // 6]


def _spelled(letter: str) -> str:
    """A pattern of a letter as URLs, JSON, Python and HTML spell it, also when one of them did so to another's work."""
    code = ord(letter)
    encoded = [f"{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass")]
    ways = ["".join(map(each, encoded)) for each in (r"%(?:25)*{}".format, r"\\+x{}".format)]
    ways += [rf"\\+u{code:04x}", rf"\\+x{code:02x}", f"&(?:amp;)?#(?:0*{code}|x0*{code:x});"]
    if code in codepoint2name:
        ways.append(f"&(?:amp;)?{codepoint2name[code]};")
    if letter == " ":
        ways.append(r"\+")
    plain = letter if letter.isalnum() else rf"\\*{re.escape(letter)}"
    return f"(?:{plain}|(?i:{'|'.join(ways)}))"


def _within(body: bytes, change: Callable[[str], str]) -> bytes:
    """JSON with its texts changed, but not the names of its fields; the body itself if nothing is, or it is no JSON."""
    try:
        data = loads(body)
        changed = _changed(data, change)
    except (ValueError, RecursionError):  # nobody reads what is nested as deep as that
        return body
    return dumps(changed) if changed != data else body


def _changed(data: Any, change: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return change(data)
    if isinstance(data, list):
        return [_changed(each, change) for each in data]
    if isinstance(data, dict):
        return {name: _changed(each, change) for name, each in data.items()}
    return data


def _as_text(body: bytes, change: Callable[[str], str]) -> bytes:
    text = body.decode("utf-8", "surrogateescape")
    changed = change(text)
    return body if changed == text else changed.encode("utf-8", "surrogateescape")


def sent_secrets(headers: Mapping[str, str], url: str) -> list[str]:
    """The secrets in headers and in a URL's query, of which only an API's version is known to be none."""
    return [
        *secrets_in(headers),
        *(value for name, value in parse_qsl(urlsplit(url).query) if name != PLAIN_IN_QUERY),
    ]


def secrets_in(named: Mapping[str, str]) -> list[str]:
    """The secrets among the values of headers.

    >>> secrets_in({"Authorization": "Bearer sk-0123456789", "User-Agent": "parallel_openai 0.1.0"})
    ['sk-0123456789']
    >>> secrets_in({"Cookie": "session=0123456789abcdef; theme=dark"})
    ['session=0123456789abcdef', '0123456789abcdef', 'theme=dark', 'dark']
    >>> secrets_in({"Authorization": "Basic YW5uOnNlY3JldDE="})
    ['YW5uOnNlY3JldDE=', 'ann:secret1', 'secret1']
    """
    values = [value for name, value in named.items() if _NAMES.search(name)]
    words = [word for value in values for word in re.split(r"[\s;]+", value) if word not in ("Bearer", "Basic")]
    found = (each for word in words for each in (word, word.partition("=")[2], *_of_basic(word)) if each)
    return list(dict.fromkeys(found))


def _of_basic(word: str) -> list[str]:
    """A name and password that base64 hides, and the password alone."""
    try:
        text = b64decode(word, validate=True).decode()
    except (binascii.Error, ValueError):
        return []
    return [text, text.partition(":")[2]] if ":" in text and text.isprintable() else []


def _credentials(url: str) -> list[str]:
    """The password in a URL, alone and with the name that stands before it."""
    parts = urlsplit(url)
    if parts.password is None:
        return [unquote(parts.username)] if parts.username else []
    name, password = unquote(parts.username or ""), unquote(parts.password)
    return [f"{name}:{password}", password]


def _is_no_word(text: str) -> bool:
    return len(text) >= _NO_WORD or (any(map(str.isdigit, text)) and any(map(str.isalpha, text)))
