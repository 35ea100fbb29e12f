"""Masks API keys and other secrets in answers, errors and logs, since some servers send them back."""

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

#: Found in the names of headers that carry a secret.
_NAMES = re.compile(r"(?i)key|token|secret|pass|pwd|auth|credential|cookie|session|(?<![a-z])sig")
#: How values begin that are secrets under any name.
_SCHEMES = ("bearer ", "basic ")
#: The only query parameter that is known to be no secret: Azure's errors quote it, and users need to read it.
PLAIN_IN_QUERY = "api-version"
#: A secret of at least this length is masked anywhere; a shorter one only as a whole word.
_ANYWHERE = 8
#: Anything shorter is not treated as a secret, as it would be found everywhere.
_SHORTEST = 4
#: A secret of at least this length cannot be a word that an answer holds by chance. A shorter one must have letters and
#: digits to count as certain, since servers that want no key are often given a word.
_NO_WORD = 20
#: Renewed secrets remembered, since answers to requests in flight may still hold an earlier one.
_KEPT = 8
#: Secrets up to this length are also searched with each letter in any of its escaped forms.
_LONGEST = 200
#: A short secret may directly follow one of these escapes, though it ends in a letter or digit: `%3D`, `\\n`.
_BEHIND_AN_ESCAPE = r"(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])"
_URL_SAFE = str.maketrans("+/", "-_")
_MASK = "***"


class Secrets:
    """The secrets that requests carry, to be masked in what comes back.

    In errors, headers and our own messages all of them are masked. In a successful answer plain words (`lm-studio`,
    `EMPTY`) are not: they are no real keys, and the model may well use them.

    Args:
        headers: the requests' headers.
        url: the requests' URL, whose query may hold secrets.
        proxy: the URL of a proxy, which may hold a name and password.

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
        self._permanent = [*sent_secrets(headers, url), *_credentials(proxy or "")]
        self._renewed: list[str] = []
        self._set()

    def renew(self, headers: Mapping[str, str]) -> None:
        """Add the secrets in headers that are sent from now on."""
        self._renewed = list(dict.fromkeys([*secrets_in(headers), *self._renewed]))[:_KEPT]
        self._set()

    def _set(self) -> None:
        words = [word for word in (*self._permanent, *self._renewed) if len(word) >= _SHORTEST]
        self._all = _pattern(words)
        # Searching for fixed strings is ten times faster than the pattern. All other spellings begin with these signs.
        self._signs = (*_written(words), "%", "\\", "&")
        self._certain = _pattern(word for word in words if _is_no_word(word))
        # Searched before the pattern, since most answers hold none of them.
        self._strings = [text.encode() for text in _written(filter(_is_no_word, words))]

    def out_of(self, text: str) -> str:
        """The text with every secret masked."""
        return self._all.sub(_MASK, text) if any(sign in text for sign in self._signs) else text

    def out_of_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The same headers if they hold no secret; else a masked copy, with names in lower case."""
        values = "\n".join(headers.values())
        for sign in self._signs:  # a loop rather than `any`, since this runs for each row
            if sign in values and self._all.search(values):
                return {name.lower(): self.out_of(value) for name, value in headers.items()}
        return headers

    def out_of_body(self, body: bytes) -> bytes:
        """A successful answer with everything masked that is certainly a secret."""
        for secret in self._strings:
            if secret in body:
                body = _as_text(body, self._out_of_answer)
                break
        # Signs of escaped letters or of UTF-16. One byte is found ten times as fast as two, so it is checked first.
        if (b"\\" in body and (b"\\u00" in body or b"\\/" in body)) or b"\x00" in body:
            return _within(body, self._out_of_answer)
        return body

    def _out_of_answer(self, text: str) -> str:
        return self._certain.sub(_MASK, text)

    def out_of_error(self, body: bytes) -> bytes:
        """A server's error with every secret masked; in the names of its fields, only those certain to be secrets."""
        masked = _within(body, self.out_of)
        return _as_text(masked, self._out_of_answer if masked is not body else self.out_of)


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the words in every spelling, longest first."""
    words = list(words)
    ways = {way: re.escape(way) for way in _written(words)}
    ways.update((word, "".join(map(_spelled, word))) for word in words if len(word) <= _LONGEST)
    found = [
        pattern if len(way) >= _ANYWHERE else rf"(?:(?<!\w)|{_BEHIND_AN_ESCAPE}){pattern}(?!\w)"
        for way, pattern in sorted(ways.items(), key=lambda each: -len(each[0]))
    ]
    return re.compile("|".join(found) or r"(?!)")


def _written(words: Iterable[str]) -> list[str]:
    """The words as they are, and as written in JSON, URLs, hexadecimal and base64, on their own or in a longer text."""
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
    """The base64 that any text with the word in it has, if the word begins `before` bytes after a multiple of three."""
    whole = b64encode(bytes(before) + word.encode()).decode()
    return whole[(before * 8 + 5) // 6 : (before + len(word.encode())) * 8 // 6]


def _spelled(letter: str) -> str:
    """A pattern for a letter as URLs, JSON, Python and HTML escape it, also when one has escaped another's output."""
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
    """JSON with its strings changed, but not its field names; the same body if nothing changes or it is not JSON."""
    try:
        data = loads(body)
        changed = _changed(data, change)
    except (ValueError, RecursionError):  # nested so deeply that nothing else reads it either
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
    """The secrets in headers and in a URL's query."""
    return [
        *secrets_in(headers),
        *(value for name, value in parse_qsl(urlsplit(url).query) if name != PLAIN_IN_QUERY),
    ]


def secrets_in(named: Mapping[str, str]) -> list[str]:
    """The secrets in the values of headers.

    >>> secrets_in({"Authorization": "Bearer sk-0123456789", "User-Agent": "parallel_openai 0.1.0"})
    ['sk-0123456789']
    >>> secrets_in({"Cookie": "session=0123456789abcdef; theme=dark"})
    ['session=0123456789abcdef', '0123456789abcdef', 'theme=dark', 'dark']
    >>> secrets_in({"Authorization": "Basic YW5uOnNlY3JldDE="})
    ['YW5uOnNlY3JldDE=', 'ann:secret1', 'secret1']
    >>> secrets_in({"X-Upstream": "bearer sk-0123456789"})
    ['sk-0123456789']
    """
    values = [each for name, each in named.items() if _NAMES.search(name) or each.lower().startswith(_SCHEMES)]
    words = [word for value in values for word in re.split(r"[\s;]+", value) if word.lower() not in ("bearer", "basic")]
    found = (each for word in words for each in (word, word.partition("=")[2], *_of_basic(word)) if each)
    return list(dict.fromkeys(found))


def _of_basic(word: str) -> list[str]:
    """The name and password in a Basic authorization, and the password alone."""
    try:
        text = b64decode(word, validate=True).decode()
    except (binascii.Error, ValueError):
        return []
    return [text, text.partition(":")[2]] if ":" in text and text.isprintable() else []


def _credentials(url: str) -> list[str]:
    """The password in a URL, with its user name and alone; without a password, the user name."""
    parts = urlsplit(url)
    if parts.password is None:
        return [unquote(parts.username)] if parts.username else []
    name, password = unquote(parts.username or ""), unquote(parts.password)
    return [f"{name}:{password}", password]


def _is_no_word(text: str) -> bool:
    return len(text) >= _NO_WORD or (any(map(str.isdigit, text)) and any(map(str.isalpha, text)))
