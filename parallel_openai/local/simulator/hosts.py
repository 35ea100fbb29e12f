"""The host names that a local server answers to, as a defence against DNS rebinding by a web page."""

from __future__ import annotations

import re

#: `.invalid` cannot be a web page's domain; tests of proxies use it.
_OWN = re.compile(r"(127(\.[0-9]{1,3}){3}|\[::1\]|(.+\.)?(localhost|invalid))(:[0-9]+)?", re.IGNORECASE)


def is_own(host: str) -> bool:
    """Whether a `Host` header names this machine.

    >>> is_own("127.0.0.1:8080"), is_own("localhost"), is_own("127.0.0.1.evil.example:8080")
    (True, True, False)
    """
    return _OWN.fullmatch(host) is not None


def refusal(host: str) -> str:
    return f"This server answers as localhost, and not as {host!r:.100}."
