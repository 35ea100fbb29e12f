"""The proxy that the environment names."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from yarl import URL

from parallel_openai.engine.urls import mask_url
from parallel_openai.errors import InvalidInputError


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for a server, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say.

    Raises:
        InvalidInputError: it is of a kind that is not spoken here.
    """
    proxy = None if proxy_bypass(f"{url.host}:{url.port}") else getproxies().get(url.scheme)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise InvalidInputError(
            f"The environment names the proxy {mask_url(proxy)}, and only http:// and https:// ones are known here. "
            "Client(trust_env=False) leaves it out."
        )
    return proxy
