"""The dearest usage that a request's body permits, and what in a body makes that unknown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parallel_openai._records import Usage
from parallel_openai._requests.endpoints import SEARCHING_MODEL

#: Models that read what they find by searching, whose amount is unknown. (Perplexity's Sonar has a fixed price
#: instead.) The last are Groq's.
_READS_UNSEEN = re.compile(
    r"-search-(?:preview|api)\b|deep-research|:online\b|(?:^|/)compound(?:-beta)?(?:-mini)?$", re.IGNORECASE
)
#: Fields that refer to something stored at the server, or make it search: OpenAI's, OpenRouter's, xAI's, Alibaba's,
#: Azure's, Cohere's, Gemini's and Anthropic's.
_READ_ELSEWHERE = (
    *("previous_response_id", "conversation", "plugins", "search_parameters", "enable_search"),
    *("data_sources", "connectors", "cached_content", "mcp_servers"),
)


def worst_case(body: Mapping[str, Any], prompt_tokens: int, output_tokens: int) -> Usage:
    """The usage of these numbers of tokens, each in its dearest class.

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
    """The models that may answer: the one requested, and the fallbacks that some servers accept."""
    return [str(body.get("model")), *(each for each in _list(body.get("models")) if isinstance(each, str))]


def reads_unseen(body: Mapping[str, Any]) -> str | None:
    """What in a body makes the model read more than the body itself holds, or None.

    >>> reads_unseen({"tools": [{"type": "web_search"}]})
    "the tool 'web_search'"
    """
    for name in _READ_ELSEWHERE:
        if body.get(name) is not None and body[name] is not False:
            return name
    if body.get("web_search_options") is not None:  # {} makes it search too
        return "web_search_options"
    if isinstance(body.get("prompt"), Mapping):  # a prompt stored at OpenAI
        return "prompt"
    for model in models_of(body):
        if _READS_UNSEEN.search(model):
            return f"the model {model!r}, which searches by itself,"
    for tool in _list(body.get("tools")):
        if isinstance(tool, Mapping) and (kind := _hosted(tool)) is not None:
            return f"the tool {kind!r}"
    return _kept_elsewhere(body)


def has_media(body: Mapping[str, Any]) -> bool:
    """Whether a body holds images, audio or files, whose tokens each server counts in its own way."""
    return any(part.get("type") not in ("text", "input_text", "output_text", "refusal") for part in _parts(body))


def _hosted(tool: Mapping[str, Any]) -> str | None:
    """The kind of a tool that the server runs itself; None for one that the caller runs."""
    kind = tool.get("type") or ("function" if "function" in tool or "name" in tool else next(iter(tool), "function"))
    return None if kind in ("function", "custom") else str(kind)


def _kept_elsewhere(body: Mapping[str, Any]) -> str | None:
    for part in _parts(body):
        about = part.get("file", part)
        if isinstance(about, Mapping) and (about.get("file_id") or about.get("file_url") or _at_url(about)):
            return "a file"
    for item in _list(body.get("input")):
        if isinstance(item, Mapping) and item.get("type") == "item_reference":
            return "an item of an earlier response"
    for message in _list(body.get("messages")):
        if isinstance(message, Mapping) and isinstance(message.get("audio"), Mapping):
            return "an earlier answer's sound"
    return None


def _at_url(part: Mapping[str, Any]) -> bool:
    """Whether a part's sound, film or document is fetched from a URL, so that nothing is known of its length. A picture
    has at most some thousand tokens."""
    names = ("file_data", "audio_url", "video_url", "document_url")
    places = (each.get("url") if isinstance(each, Mapping) else each for each in map(part.get, names))
    return any(isinstance(place, str) and place.startswith(("http:", "https:")) for place in places)


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in (*_list(body.get("messages")), *_list(body.get("input"))):
        for part in _list(message.get("content")) if isinstance(message, Mapping) else ():
            if isinstance(part, Mapping):
                yield part


def _list(value: Any) -> Sequence[Any]:
    if hasattr(value, "tolist"):  # a numpy array, which lists in parquet files are read as
        value = value.tolist()
    return value if isinstance(value, (list, tuple)) else ()
