"""Where a server sends a request on to, and what it may be shown there."""

from __future__ import annotations

from collections.abc import Mapping

from yarl import URL


def redirected(url: URL, status: int, headers: Mapping[str, str]) -> URL | None:
    """Where the same request is to be sent instead; None if nowhere, or where it could be read on the way.

    The other statuses that redirect make a GET of it, which is no question.

    >>> redirected(URL("http://host/v1/chat"), 308, {"Location": "/v2/chat?a=%2F"})
    URL('http://host/v2/chat?a=%2F')
    """
    if status not in (307, 308):
        return None
    try:
        target = url.join(URL(headers.get("Location", ""), encoded=True)).with_fragment(None)
        good = target.scheme in ("http", "https") and bool(target.host) and target.raw_user is None
    except ValueError:
        return None
    return target if good and target != url and (url.scheme, target.scheme) != ("https", "http") else None


def has_same_owner(base: URL, target: URL) -> bool:
    """Whether a key for one URL may be shown to the other: the same server, or the same one with TLS, as httpx has it.

    >>> has_same_owner(URL("http://host/v1"), URL("https://host/v1")), has_same_owner(URL("http://host"), URL("http://b"))
    (True, False)
    """
    is_upgrade = base.host == target.host and (base.scheme, base.port, target.scheme, target.port) == (
        *("http", 80),
        *("https", 443),
    )
    return is_upgrade or base.origin() == target.origin()
