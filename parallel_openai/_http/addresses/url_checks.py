"""Checks a server's URL, masks it for display, and brings it into one spelling."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from yarl import URL

from parallel_openai.errors import InvalidInputError


def check_url(base_url: str) -> URL:
    """Parse a base URL, or raise InvalidInputError.

    >>> check_url("localhost:8000")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: base_url must look like https://host/v1, not 'localhost:8000'.
    """
    shown = mask_url(base_url)
    try:
        url = URL(base_url)
        valid = url.scheme in ("http", "https") and _is_host(url.host) and url.port is not None
    except (ValueError, TypeError):
        valid = False
    if not valid:
        raise InvalidInputError(f"base_url must look like https://host/v1, not {shown!r}.")
    if url.user or url.password:
        raise InvalidInputError(f"base_url must not carry a name or password ({shown}); pass them in headers=.")
    return url


def _is_host(host: str | None) -> bool:
    return bool(host) and all(0 < len(label) < 64 for label in str(host).removesuffix(".").split("."))


def mask_url(url: str) -> str:
    """A URL for display, with credentials and query values masked except an API version.

    >>> mask_url("https://ann:secret@host/v1")
    'https://***@host/v1'
    >>> mask_url("https://host/v1?api-version=1&subscription=secret")
    'https://host/v1?api-version=1&subscription=***'
    """
    rest, question, query = url.partition("?")
    if question:
        rest = rest + "?" + _SECRET_IN_QUERY.sub(r"\1***", query)
    start, separator, rest_of = rest.partition("://")
    if not separator:  # no scheme, but possibly credentials
        start, rest_of = "", rest
    credentials, at, place = rest_of.rpartition("@")  # the last one: an unquoted password may hold `/` or `@`
    return f"{start}{separator}{'***' if credentials else ''}{at}{place}"


_SECRET_IN_QUERY = re.compile(r"((?:^|(?<=&))(?!api-version=)[^=&]*=)[^&]*")


_PORTS = {"http": 80, "https": 443}


def one_spelling(url: str) -> str:
    """The canonical spelling of a URL.

    >>> one_spelling("https://API.Host.example:443//v1")
    'https://api.host.example/v1'
    """
    parts = urlsplit(url)
    usual = _PORTS.get(parts.scheme)
    host = parts.netloc.lower().removesuffix(f":{usual}")
    return urlunsplit(parts._replace(netloc=host, path=re.sub("/+", "/", parts.path)))


def is_local(base_url: str) -> bool:
    """Whether a URL points to this machine.

    >>> is_local("http://127.0.0.1:8080/v1"), is_local("https://api.openai.com/v1")
    (True, False)
    """
    host = urlsplit(base_url).hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")
