"""What differs between the API's endpoints: a class each, and one line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from parallel_openai._requests.endpoints.base import Answer, Endpoint, Packing, mappings, names_in
from parallel_openai._requests.endpoints.chat import Chat
from parallel_openai._requests.endpoints.completions import Completions
from parallel_openai._requests.endpoints.embeddings import Embeddings, of_length
from parallel_openai._requests.endpoints.moderations import Moderations
from parallel_openai._requests.endpoints.responses import Responses
from parallel_openai._requests.endpoints.usage import PLACES, SEARCHING_MODEL, bill_of, is_simulated, usage_of
from parallel_openai.errors import InvalidInputError

#: The endpoints' names, for those who complete what is typed.
EndpointName = Literal["chat.completions", "responses", "embeddings", "completions", "moderations"]
CHAT = Chat()
EMBEDDINGS = Embeddings()
_RESPONSES = Responses()
# Add an endpoint here.
ENDPOINTS: dict[str, Endpoint] = {
    each.name: each for each in (CHAT, _RESPONSES, EMBEDDINGS, Completions(), Moderations())
}

__all__ = [
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


def path_for(body: Mapping[str, Any]) -> str:
    """Where a body goes if nobody says it: a `prompt` to the older completions, an `input` to embeddings, unless it is
    of messages, or what stands beside it is another endpoint's.

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


#: What the answers of each endpoint have that no others' do.
_HAVE = {"output": "responses", "results": "moderations", "data": "embeddings"}


def path_answering(body: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """The endpoint that gave an answer to a body, which a line of results does not say.

    >>> path_answering({"input": "a"}, {"output": []}), path_answering({"prompt": "a"}, {"choices": []})
    ('responses', 'completions')
    """
    if "choices" in answer:
        return "completions" if path_for(body) == "completions" else "chat/completions"
    return next((path for field, path in _HAVE.items() if field in answer), path_for(body))
