"""Finds the proxy that the environment names, and connects through SOCKS proxies."""

from __future__ import annotations

from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from parallel_openai._http.addresses.url_checks import mask_url
from parallel_openai.errors import InvalidInputError

_HTTP = ("http", "https")
_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")


def proxy_for(url: URL) -> URL | None:
    """The proxy that `HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY` names for a server, unless `NO_PROXY` excludes it."""
    proxies = getproxies()
    text = proxies.get(url.scheme) or proxies.get("all")
    if not text or _is_excluded(url, proxies.get("no", "")):
        return None
    subject, remedy = f"The environment names the proxy {mask_url(text)}", "Client(trust_env=False) leaves it out."
    try:
        proxy = URL(text if "://" in text else f"http://{text}")
        good = bool(proxy.host) and (proxy.port is not None or proxy.scheme in _SOCKS)
    except ValueError:
        good = False
    if not good:
        raise InvalidInputError(f"{subject}, which is not a URL such as http://host:3128. {remedy}")
    if proxy.scheme not in _HTTP + _SOCKS:
        raise InvalidInputError(f"{subject}, but only http, https and socks5 proxies are supported. {remedy}")
    if is_socks(proxy) and find_spec("aiohttp_socks") is None:
        raise InvalidInputError(
            f"{subject}, for which a library is needed: pip install 'parallel-openai[socks]'. {remedy}"
        )
    return proxy


def is_socks(proxy: URL | None) -> bool:
    """Whether the proxy speaks SOCKS, so that it only connects and never sees requests addressed to itself."""
    return proxy is not None and proxy.scheme in _SOCKS


def connector_through(proxy: URL | None, **options: Any) -> aiohttp.TCPConnector:
    """A connector, through the proxy if it speaks SOCKS. The proxy then resolves host names, which may be internal."""
    if proxy is None or not is_socks(proxy):
        return aiohttp.TCPConnector(**options)
    from aiohttp_socks import ProxyConnectionError, ProxyConnector, ProxyError, ProxyTimeoutError, ProxyType

    class Connector(ProxyConnector):
        async def connect(self, req: aiohttp.ClientRequest, *rest: Any, **more: Any) -> Any:
            try:
                return await super().connect(req, *rest, **more)
            except (ProxyConnectionError, ProxyError, ProxyTimeoutError) as error:
                raise aiohttp.ClientProxyConnectionError(req.connection_key, OSError(str(error))) from error

    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    port = proxy.port or 1080
    return Connector(proxy.host or "", port, kind, proxy.user or "", proxy.password or "", rdns=True, **options)


def _is_excluded(url: URL, names: str) -> bool:
    return bool(proxy_bypass(f"{url.host}:{url.port}")) or any(
        _is_covered(url, each.strip()) for each in names.split(",")
    )


def _is_covered(url: URL, name: str) -> bool:
    """Whether an entry of `NO_PROXY` covers a server: networks and bracketed addresses, which Python does not support.

    >>> url = URL("http://10.1.2.3:8000")
    >>> [_is_covered(url, name) for name in ("10.0.0.0/8", "10.0.0.0/8:8000", "10.1.2.3:80", "*.2.3", "11.0.0.0/8", "")]
    [True, True, False, True, False, False]
    """
    host, port = name, ""
    if name.startswith("["):
        host, _, port = name[1:].partition("]")
    elif name.count(":") == 1:
        host, _, port = name.partition(":")
    if port.strip(":") not in ("", str(url.port)):
        return False
    try:
        return ip_address(url.host or "") in ip_network(host, strict=False)
    except ValueError:
        return host.startswith("*.") and str(url.host).endswith(host[1:].lower())
