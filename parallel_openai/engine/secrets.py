"""What must never be seen in an answer, an error or a log: keys, which some servers send back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from parallel_openai.jsonl import dumps, loads

#: What the names of headers and of a query's parts that carry a secret have in them.
_NAMES = re.compile(r"(?i)key|token|secret|password|auth|credential|cookie|(?<![a-z])sig")
#: Letters from which on a text is taken for a secret whatever it is made of; a shorter one needs letters and digits,
#: since many servers want no key and are given a word, which answers may hold.
_LONG, _SHORT = 20, 8
#: What is on its way may still be answered with a key that has been renewed meanwhile.
_KEPT = 8
_MASK = "***"


class Secrets:
    """The secrets that requests carry, to be taken out of what comes back.

    Args:
        headers: those of the requests.
        url: where they go; its query may hold secrets too.

    >>> secrets = Secrets({"Authorization": "Bearer sk-0123456789", "User-Agent": "parallel_openai"})
    >>> secrets.out_of("Wrong key: sk-0123456789.")
    'Wrong key: ***.'
    >>> secrets.out_of_body(b'{"message": "sk\\\\u002d0123456789 is wrong"}')
    b'{"message":"*** is wrong"}'
    """

    def __init__(self, headers: Mapping[str, str], url: str = "") -> None:
        self._lasting = _written({**headers, **dict(parse_qsl(urlsplit(url).query))})
        self._renewed: list[str] = []
        self._set()

    def renew(self, headers: Mapping[str, str]) -> None:
        """Further secrets are sent from now on."""
        self._renewed = list(dict.fromkeys([*_written(headers), *self._renewed]))[:_KEPT]
        self._set()

    def _set(self) -> None:
        # The longest ones first, for one may be a part of another.
        self._texts = sorted({*self._lasting, *self._renewed}, key=len, reverse=True)
        self._bytes = [text.encode() for text in self._texts]

    def out_of(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, _MASK)
        return text

    def out_of_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers themselves, where there is nothing to take out; else others, with names in lower case."""
        for secret in self._texts:
            for value in headers.values():
                if secret in value:
                    return {name.lower(): self.out_of(value) for name, value in headers.items()}
        return headers

    def out_of_body(self, body: bytes) -> bytes:
        for secret in self._bytes:
            if secret in body:
                body = body.replace(secret, _MASK.encode())
        # Signs of letters that stand there otherwise than as themselves: escaped, or two bytes each.
        # One byte is found ten times faster than two.
        if (b"\\" in body and (b"\\u00" in body or b"\\/" in body)) or b"\x00" in body:
            return self._out_of_disguise(body)
        return body

    def _out_of_disguise(self, body: bytes) -> bytes:
        try:
            plain = dumps(loads(body))
        except ValueError:
            return body
        return self.out_of_body(plain) if any(secret in plain for secret in self._bytes) else body


def _written(named: Mapping[str, str]) -> list[str]:
    """The secrets among named values, also as JSON and a URL write them."""
    ways = (str, lambda text: dumps(text)[1:-1].decode(), quote, quote_plus)
    return list(dict.fromkeys(way(secret) for secret in secrets_in(named) for way in ways))


def secrets_in(named: Mapping[str, str]) -> list[str]:
    """The secrets among the values of headers, or of a query's parts.

    >>> secrets_in({"Authorization": "Bearer sk-0123456789", "User-Agent": "parallel_openai 0.1.0"})
    ['sk-0123456789']
    >>> secrets_in({"Cookie": "session=0123456789abcdef; theme=dark"}), secrets_in({"api-key": "not-needed"})
    (['session=0123456789abcdef', '0123456789abcdef'], [])
    """
    values = [value for name, value in named.items() if _NAMES.search(name)]
    words = [word for value in values for word in re.split(r"[\s;]+", value)]
    return [each for word in words for each in (word, word.partition("=")[2]) if _is_secret(each)]


def _is_secret(word: str) -> bool:
    if len(word) >= _LONG:
        return True
    return len(word) >= _SHORT and any(map(str.isdigit, word)) and any(map(str.isalpha, word))
