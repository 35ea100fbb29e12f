"""What a request's answer may cost at the most, by what its body asks for; and what makes that unknown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parallel_openai._records import Usage
from parallel_openai._requests.endpoints import SEARCHING_MODEL

#: Models that read what they search, which nobody can tell in advance. (A search of Perplexity's Sonar has one price.)
_READS_UNSEEN = re.compile(r"-search-(?:preview|api)\b|deep-research|:online\b", re.IGNORECASE)
#: Fields that name what is kept at the server, or have it search.
_READ_ELSEWHERE = ("previous_response_id", "conversation", "plugins", "search_parameters", "enable_search")


def worst_case(body: Mapping[str, Any], prompt_tokens: int, output_tokens: int) -> Usage:
    """The dearest that so many tokens can be.

    >>> worst_case({"modalities": ["text", "audio"]}, 10, 20).audio_completion_tokens
    20
    """
    model, modalities = str(body.get("model")), _list(body.get("modalities"))
    kinds = {str(part.get("type")) for part in _parts(body)}
    speaks = "audio" in modalities or body.get("audio") is not None
    paints = "image" in modalities or "image" in model
    return Usage(
        prompt_tokens,
        output_tokens,
        cache_write_tokens=prompt_tokens,
        cache_write_1h_tokens=prompt_tokens,
        audio_prompt_tokens=prompt_tokens if any("audio" in kind for kind in kinds) else 0,
        image_prompt_tokens=prompt_tokens,
        audio_completion_tokens=output_tokens if speaks else 0,
        image_completion_tokens=output_tokens if paints else 0,
        searches=1 if SEARCHING_MODEL.search(model) else 0,
    )


def models_of(body: Mapping[str, Any]) -> list[str]:
    """Those that may answer: the one that is asked, and those that some servers fall back on."""
    return [str(body.get("model")), *(each for each in _list(body.get("models")) if isinstance(each, str))]


def reads_unseen(body: Mapping[str, Any]) -> str | None:
    """What in a body has the model read more than the body itself holds; None where nothing has.

    >>> reads_unseen({"tools": [{"type": "web_search"}]})
    "the tool 'web_search'"
    """
    for name in _READ_ELSEWHERE:
        if body.get(name) is not None and body[name] is not False:
            return name
    if body.get("web_search_options") is not None:  # {} searches, too
        return "web_search_options"
    if isinstance(body.get("prompt"), Mapping):  # one that is kept at OpenAI
        return "prompt"
    for model in models_of(body):
        if _READS_UNSEEN.search(model):
            return f"the model {model!r}, which searches by itself,"
    for tool in _list(body.get("tools")):
        if isinstance(tool, Mapping) and (kind := _hosted(tool)) is not None:
            return f"the tool {kind!r}"
    return _kept_elsewhere(body)


def has_media(body: Mapping[str, Any]) -> bool:
    """Whether there is a picture, a sound or a file in a body, of which servers make tokens as they please."""
    return any(part.get("type") not in ("text", "input_text", "output_text", "refusal") for part in _parts(body))


def _hosted(tool: Mapping[str, Any]) -> str | None:
    """The kind of a tool that the server itself runs; None for one that the caller does."""
    kind = tool.get("type") or ("function" if "function" in tool or "name" in tool else next(iter(tool), "function"))
    return None if kind in ("function", "custom") else str(kind)


def _kept_elsewhere(body: Mapping[str, Any]) -> str | None:
    for part in _parts(body):
        about = part.get("file", part)
        if isinstance(about, Mapping) and (about.get("file_id") or about.get("file_url")):
            return "a file"
    for message in _list(body.get("messages")):
        if isinstance(message, Mapping) and isinstance(message.get("audio"), Mapping):
            return "an earlier answer's sound"
    return None


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in (*_list(body.get("messages")), *_list(body.get("input"))):
        for part in _list(message.get("content")) if isinstance(message, Mapping) else ():
            if isinstance(part, Mapping):
                yield part


def _list(value: Any) -> Sequence[Any]:
    if hasattr(value, "tolist"):  # numpy's array, as parquet files give lists
        value = value.tolist()
    return value if isinstance(value, (list, tuple)) else ()
