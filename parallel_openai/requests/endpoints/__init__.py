"""What differs between the API's endpoints: a class each, and one line in the table."""

from __future__ import annotations

from functools import lru_cache

from parallel_openai.errors import InvalidInputError
from parallel_openai.requests.endpoints.base import Answer, Endpoint, Packing, mappings, names_in
from parallel_openai.requests.endpoints.chat import Chat
from parallel_openai.requests.endpoints.completions import Completions
from parallel_openai.requests.endpoints.embeddings import Embeddings, in_order, of_length
from parallel_openai.requests.endpoints.moderations import Moderations
from parallel_openai.requests.endpoints.responses import Responses
from parallel_openai.requests.endpoints.usage import PLACES, SEARCHING_MODEL, bill_of, is_simulated, usage_of

CHAT = Chat()
EMBEDDINGS = Embeddings()
# Add an endpoint here.
ENDPOINTS: dict[str, Endpoint] = {
    each.name: each for each in (CHAT, Responses(), EMBEDDINGS, Completions(), Moderations())
}

__all__ = [
    "CHAT",
    "EMBEDDINGS",
    "ENDPOINTS",
    "PLACES",
    "SEARCHING_MODEL",
    "Answer",
    "Endpoint",
    "Packing",
    "bill_of",
    "endpoint",
    "endpoint_at",
    "in_order",
    "is_simulated",
    "mappings",
    "names_in",
    "of_length",
    "usage_of",
]


def endpoint(name: str) -> Endpoint:
    """The endpoint of that name, as the OpenAI SDK writes it or as the path has it.

    >>> endpoint("chat.completions").path
    'chat/completions'
    >>> endpoint("/v1/chat/completions").name
    'chat.completions'
    """
    known = ENDPOINTS.get(name) if isinstance(name, str) else None
    if known is None and isinstance(name, str):
        known = next((each for each in ENDPOINTS.values() if each.path == name.strip("/").removeprefix("v1/")), None)
    if known is None:
        raise InvalidInputError(f"No endpoint {name!r}; there are: {', '.join(ENDPOINTS)}.")
    return known


@lru_cache(maxsize=64)
def endpoint_at(path: str) -> Endpoint | None:
    """The endpoint that a URL's path ends in, whatever stands before it; None where it is none of them.

    >>> endpoint_at("/openai/deployments/mine/chat/completions/").name
    'chat.completions'
    >>> endpoint_at("/v1/completions").name
    'completions'
    """
    path = "/" + path.strip("/")
    fitting = [each for each in ENDPOINTS.values() if path.endswith("/" + each.path)]
    return max(fitting, key=lambda each: len(each.path), default=None)
