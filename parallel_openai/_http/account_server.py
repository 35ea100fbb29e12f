"""One account's server: its address, key, headers and connections. It knows nothing of limits."""

from __future__ import annotations

import ssl as ssl_module
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from parallel_openai._http.addresses.base_url import BaseURL
from parallel_openai._http.addresses.url_checks import mask_url
from parallel_openai._http.credentials.keys import Key
from parallel_openai._http.transport_per_loop import Connections
from parallel_openai._records import APIRequest, Response
from parallel_openai.errors import AuthenticationError

if TYPE_CHECKING:
    from parallel_openai._http.transport import Transport

#: Seconds to wait for an answer of the flex tier, which may be queued for long. OpenAI recommends this value.
FLEX_TIMEOUT = 900.0


class AccountServer:
    """Sends one account's requests."""

    def __init__(
        self,
        address: BaseURL,
        key: Key,
        headers: Mapping[str, str],  # sent with each request; a key that is a string is among them
        *,
        timeout: float,  # seconds for one answer
        # As in `Client`:
        trust_env: bool,
        ssl: ssl_module.SSLContext | bool,
    ) -> None:
        self.address = address
        self.key = key
        self.headers = dict(headers)
        self.timeout, self.trust_env, self.ssl = timeout, trust_env, ssl
        names = {name.lower() for name in headers}
        # The caller's own header wins.
        self._asks_for_key = key.function is not None and key.header.lower() not in names
        base_url, sent, renewed = address.base_url, self.headers, key.current if self._asks_for_key else None

        def connect() -> Transport:  # without self, which would keep a client's connections open after it is dropped
            from parallel_openai._http.transport import Transport  # aiohttp takes half of the package's import

            return Transport(
                base_url, sent, timeout=timeout, clock=time.monotonic, trust_env=trust_env, ssl=ssl, renewed=renewed
            )

        self.connections = Connections(connect)

    def check_key(self) -> None:
        """Raise AuthenticationError if there is no key and the server certainly needs one."""
        has_key = self.key.is_given or any(name.lower() in ("authorization", "api-key") for name in self.headers)
        if self.address.needs_key and not has_key:
            variable = "AZURE_OPENAI_API_KEY" if self.address.is_azure else "OPENAI_API_KEY"
            raise AuthenticationError(f"There is no API key. Set {variable} or pass Client(api_key=...).")

    def url(self, request: APIRequest) -> str:
        """The URL that a request goes to, with any secrets in its query masked."""
        root, question, query = self.address.base_url.partition("?")
        return mask_url(f"{root}/{self._path(request)}{question}{query}")

    async def post(self, request: APIRequest) -> Response:
        """Send a request at once, regardless of limits."""
        transport, path = self.connections.here(), request.path
        if self.address.in_deployments:
            path = self._path(request)
        timeout = FLEX_TIMEOUT if request.tier == "flex" and self.timeout < FLEX_TIMEOUT else None
        used = await self.key.current() if self._asks_for_key else None
        response = await transport.post(path, request.body, timeout=timeout)
        if response.status == 401 and used is not None:  # the key expired early, for example while a laptop slept
            self.key.forget(used)
            response = await transport.post(path, request.body, timeout=timeout)
        if response.status == 404:
            response = response._replace(error=self.address.about_404(path, response.body))
        return response

    def _path(self, request: APIRequest) -> str:
        if not self.address.in_deployments:
            return request.path
        return self.address.path(request.path, request.model)
