"""The API key and other headers of requests. A key is a string, or a function that is called again now and then."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from weakref import WeakKeyDictionary

from parallel_openai._arguments import a_type
from parallel_openai.errors import AuthenticationError, InvalidInputError

#: A function that returns a key, such as azure-identity's token provider.
KeyFunction = Callable[[], "str | Awaitable[str]"]
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
#: Seconds for which a key is used before its function is called again; providers renew tokens long before they expire.
KEPT = 60.0


class Key:
    """A key and the header that carries it.

    Args:
        key: the key itself, or a function that returns it, as for expiring tokens such as Microsoft Entra's.
        in_header: `api-key` or `Authorization`.
        clock: a monotonic clock, in seconds.

    >>> Key("sk-1", "Authorization", clock=lambda: 0.0).headers
    {'Authorization': 'Bearer sk-1'}
    """

    def __init__(self, key: str | KeyFunction, in_header: str, *, clock: Callable[[], float]) -> None:
        self.function = key if callable(key) else None  # that returns the key
        self.header = in_header
        self._clock = clock
        self._value = "" if callable(key) else checked_key(key)
        self._until = 0.0
        self._asking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()
        # For every request; empty if the key comes from a function.
        self.headers = self._as_headers() if self._value else {}

    @property
    def is_given(self) -> bool:
        return bool(self._value) or self.function is not None

    async def current(self) -> Mapping[str, str]:
        """The headers, with a key that is recent."""
        if self.function is not None and self._clock() >= self._until:
            loop = asyncio.get_running_loop()
            asking = self._asking.get(loop)
            if asking is None or asking.done():
                asking = self._asking[loop] = loop.create_task(self._ask(self.function))
            await asyncio.shield(asking)
        return self._as_headers()

    def forget(self, headers: Mapping[str, str]) -> None:
        """Call the function again, since the server rejected these headers, unless they have been renewed meanwhile."""
        if headers == self._as_headers():
            self._until = 0.0

    async def _ask(self, function: KeyFunction) -> None:
        raised = None
        try:
            given = await asyncio.to_thread(function)  # may use the network
            given = await given if inspect.isawaitable(given) else given
        except Exception as error:
            raised = type(error).__name__
        if raised is not None:  # outside the `except`, so that neither message nor context can carry a secret
            raise AuthenticationError(f"The function api_key= raised {raised}. Call it by itself to see its words.")
        try:
            self._value = checked_key(given)
        except InvalidInputError as error:
            raise AuthenticationError(f"The function api_key= returned no key. {error}") from None
        self._until = self._clock() + KEPT

    def _as_headers(self) -> dict[str, str]:
        value = f"Bearer {self._value}" if self.header == "Authorization" else self._value
        return {self.header: value}


def find_key(
    key: str | KeyFunction | None, *, is_azure: bool, environment: Mapping[str, str], clock: Callable[[], float]
) -> Key:
    """The key given, or else the environment's.

    Azure wants a key in the header `api-key`, and a token, which is what functions return, in `Authorization`.

    >>> find_key(None, is_azure=True, environment={"AZURE_OPENAI_API_KEY": "abc"}, clock=lambda: 0.0).headers
    {'api-key': 'abc'}
    """
    header = "api-key" if is_azure and not callable(key) else "Authorization"
    if key is not None:
        return Key(key, header, clock=clock)
    if is_azure:
        token = environment.get("AZURE_OPENAI_AD_TOKEN", "")
        if token.strip():
            return Key(token, "Authorization", clock=clock)
        key = environment.get("AZURE_OPENAI_API_KEY")
    return Key(key or environment.get("OPENAI_API_KEY", ""), header, clock=clock)


def make_headers(
    key: Mapping[str, str],
    organization: str | None,
    project: str | None,
    extra: Mapping[str, str],
    *,
    environment: Mapping[str, str],
) -> dict[str, str]:
    """The headers of every request. Those in `extra` replace any others of the same name.

    >>> make_headers({}, None, None, {"X-Team": "blue\\nred"}, environment={})
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: The header 'X-Team' must be a string without line breaks.
    """
    headers = {"User-Agent": "parallel_openai", **key}
    organization = organization or environment.get("OPENAI_ORG_ID")
    project = project or environment.get("OPENAI_PROJECT_ID")
    if organization:
        headers["OpenAI-Organization"] = organization
    if project:
        headers["OpenAI-Project"] = project
    for name, value in {**headers, **extra}.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise InvalidInputError(f"{name!r} is not a header name, which has only letters, digits and hyphens.")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise InvalidInputError(f"The header {name!r} must be a string without line breaks.")
    own = {name.lower() for name in extra}
    return {**{name: value for name, value in headers.items() if name.lower() not in own}, **extra}


def checked_key(key: object) -> str:
    """The key without surrounding whitespace; InvalidInputError if it cannot be a key."""
    if not isinstance(key, str):
        raise InvalidInputError(f"The API key must be a string or a function that returns one, not {a_type(key)}.")
    key = key.strip()
    if not key.isascii() or any(character.isspace() for character in key):
        raise InvalidInputError("The API key holds a space or a character that no key has; copy it again.")
    return key
