"""By which names a server on this machine may be called: a web page whose own name was made to lead here says that."""

from __future__ import annotations

import re

#: What this machine is called; and a name that no web page can have, as proxies are tried out with.
_OWN = re.compile(r"(127(\.[0-9]{1,3}){3}|\[::1\]|(.+\.)?(localhost|invalid))(:[0-9]+)?", re.IGNORECASE)


def is_own(host: str) -> bool:
    """Whether a request's `Host` means this machine.

    >>> is_own("127.0.0.1:8080"), is_own("localhost"), is_own("127.0.0.1.evil.example:8080")
    (True, True, False)
    """
    return _OWN.fullmatch(host) is not None


def refusal(host: str) -> str:
    return f"This server answers as localhost, and not as {host!r:.100}."
