"""Decides which redirects to follow, and whether the key may be sent to their target."""

from __future__ import annotations

from collections.abc import Mapping

from yarl import URL


def redirected(url: URL, status: int, headers: Mapping[str, str]) -> URL | None:
    """The target of a redirect to follow, or None. One that would drop TLS is not followed.

    Only 307 and 308 are: after the others the request becomes a GET, without its body.

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
    """Whether a key for one URL may be sent to the other: the same origin, or its upgrade to TLS, as in httpx.

    >>> has_same_owner(URL("http://host/v1"), URL("https://host/v1")), has_same_owner(URL("http://host"), URL("http://b"))
    (True, False)
    """
    is_upgrade = base.host == target.host and (base.scheme, base.port, target.scheme, target.port) == (
        *("http", 80),
        *("https", 443),
    )
    return is_upgrade or base.origin() == target.origin()
