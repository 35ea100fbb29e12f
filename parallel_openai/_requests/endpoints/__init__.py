"""The API's endpoints: a class for each, registered in `ENDPOINTS`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from parallel_openai._requests.endpoints.base import Answer, Endpoint, Packing, cut_short, mappings, names_in
from parallel_openai._requests.endpoints.chat import Chat
from parallel_openai._requests.endpoints.completions import Completions
from parallel_openai._requests.endpoints.embeddings import Embeddings, of_length
from parallel_openai._requests.endpoints.moderations import Moderations
from parallel_openai._requests.endpoints.responses import Responses
from parallel_openai._requests.endpoints.usage import PLACES, SEARCHING_MODEL, bill_of, is_simulated, usage_of
from parallel_openai.errors import InvalidInputError

#: The endpoints' names, for type checkers and completion.
EndpointName = Literal["chat.completions", "responses", "embeddings", "completions", "moderations"]
CHAT = Chat()
EMBEDDINGS = Embeddings()
_RESPONSES = Responses()
# Add an endpoint here.
ENDPOINTS: dict[str, Endpoint] = {
    each.name: each for each in (CHAT, _RESPONSES, EMBEDDINGS, Completions(), Moderations())
}
#: The parameters that cap an answer at any endpoint.
ALL_CAPS = tuple(dict.fromkeys(cap for each in ENDPOINTS.values() for cap in each.caps))

__all__ = [
    "ALL_CAPS",
    "CHAT",
    "EMBEDDINGS",
    "ENDPOINTS",
    "PLACES",
    "SEARCHING_MODEL",
    "Answer",
    "Endpoint",
    "EndpointName",
    "Packing",
    "bill_of",
    "cut_short",
    "endpoint",
    "endpoint_at",
    "is_simulated",
    "mappings",
    "names_in",
    "of_length",
    "path_answering",
    "path_for",
    "usage_of",
]


def endpoint(name: str) -> Endpoint:
    """Return the endpoint by its name in the OpenAI SDK or by its path.

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
    """The endpoint whose path the URL's path ends with, if any.

    >>> endpoint_at("/openai/deployments/mine/chat/completions/").name
    'chat.completions'
    >>> endpoint_at("/v1/completions").name
    'completions'
    """
    path = "/" + path.strip("/")
    fitting = [each for each in ENDPOINTS.values() if path.endswith("/" + each.path)]
    return max(fitting, key=lambda each: len(each.path), default=None)


def path_for(body: Mapping[str, Any]) -> str:
    """Guess the path for a request body from its fields: `messages`, `prompt` (legacy completions), or `input`, which
    is for embeddings unless it holds messages, or the model or another field belongs to another endpoint.

    >>> path_for({"messages": []}), path_for({"input": "a"}), path_for({"prompt": "a"})
    ('chat/completions', 'embeddings', 'completions')
    >>> path_for({"input": "a", "max_output_tokens": 9}), path_for({"input": "a", "model": "omni-moderation-latest"})
    ('responses', 'moderations')
    """
    if "messages" in body or not ("input" in body or "prompt" in body):
        return "chat/completions"
    if "input" not in body:
        return "completions"
    of_messages = any("role" in each for each in mappings(body["input"]))
    if of_messages or body.keys() & (_RESPONSES.parameters - EMBEDDINGS.parameters):
        return "responses"
    return "moderations" if "moderation" in str(body.get("model")) else "embeddings"


#: Fields that occur only in one endpoint's answers.
_PATH_BY_FIELD = {"output": "responses", "results": "moderations", "data": "embeddings"}


def path_answering(body: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """The path of the endpoint that answered a body, which a line of results does not name.

    >>> path_answering({"input": "a"}, {"output": []}), path_answering({"prompt": "a"}, {"choices": []})
    ('responses', 'completions')
    """
    if "choices" in answer:
        return "completions" if path_for(body) == "completions" else "chat/completions"
    return next((path for field, path in _PATH_BY_FIELD.items() if field in answer), path_for(body))
