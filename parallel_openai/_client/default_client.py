"""The default client, made from the environment."""

from __future__ import annotations

import os

from parallel_openai._arguments import a_type
from parallel_openai._client.client import Client
from parallel_openai.errors import InvalidInputError

#: The variables from which a client is made.
_ENVIRONMENT = (
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_AD_TOKEN",
    "OPENAI_API_VERSION",
)
_clients: dict[tuple[str | None, ...], Client] = {}


def client_for(given: Client | None) -> Client:
    """The given client, or else the environment's, which is shared by all calls while these variables are unchanged."""
    if given is not None:
        if not isinstance(given, Client):
            raise InvalidInputError(
                f"client must be a parallel_openai.Client, not {a_type(given)}. "
                "Make one with Client(base_url, api_key)."
            )
        return given
    state = tuple(os.environ.get(name) for name in _ENVIRONMENT)
    if state not in _clients:
        _clients[state] = Client()
    return _clients[state]
