"""Read the usage and the model from a response of any endpoint or server.

Servers count in many ways, and some contradict themselves. What they bill is then unknown: the larger count is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from parallel_openai._json import loads
from parallel_openai._records import Usage

#: The fields of a response that may hold its usage.
PLACES = ("usage", "usageMetadata", "usage_metadata", "x_groq", "amazon-bedrock-invocationMetrics", "meta")
#: Models that search the web by themselves, and bill it.
SEARCHING_MODEL = re.compile(r"-search-(?:preview|api)\b|deep-research|:online\b|(?:^|/)sonar", re.IGNORECASE)


def usage_of(response: Any) -> Usage | None:
    """The usage in a response of any endpoint; None if it has none, or one of zeros, which nothing costs.

    >>> usage_of({"usage": {"prompt_tokens": 9, "completion_tokens": 2}}).total_tokens
    11

    Reasoning that only the total includes counts as well:

    >>> usage_of({"usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 400}}).completion_tokens
    391
    """
    if not isinstance(response, dict):
        return None
    found = _plain(response) or _largest(response)
    return None if found is None or not any(found) else _with_calls(found, response)


def is_simulated(response: Any) -> bool:
    """Whether a response comes from the simulator."""
    return isinstance(response, dict) and response.get("system_fingerprint") == "simulated"


def model_of(response: Mapping[str, Any]) -> str | None:
    """The server's name for the model that answered, marked if it is the simulator."""
    model = response.get("model")
    if not isinstance(model, str):
        return None
    return f"{model} (simulated)" if is_simulated(response) else model


def bill_of(response: Any) -> dict[str, Any]:
    """The fields of a response that determine its cost.

    >>> bill_of({"model": "m", "usage": {}, "output": [{"type": "message"}, {"type": "web_search_call", "id": "ws_1"}]})
    {'model': 'm', 'usage': {}, 'output': [{'type': 'web_search_call'}]}
    """
    bill = {name: response[name] for name in ("model", *PLACES, "service_tier") if name in response}
    bill |= {name: [] for name in _WITHOUT_OUTPUT if isinstance(response.get(name), list)}
    if beside := list(_beside(response)):
        bill["usage"] = [*beside, bill.get("usage")]
    if choices := list(_in_choices(response)):
        bill["choices"] = [{"usage": usage} for usage in choices]
    calls = [{"type": kind} for kind in _item_types(response) if kind in _CALLS]
    return {**bill, "output": calls} if calls else bill


#: The meaning of a usage record's fields. Those with `beside` are counted in addition to the prompt or the completion,
#: not as a part of it, unless the total says otherwise.
_NAMES = {
    **dict.fromkeys(("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens", "promptTokens"), "prompt"),
    **dict.fromkeys(("prompt_token_count", "inputTokenCount"), "prompt"),
    **dict.fromkeys(
        ("completion_tokens", "output_tokens", "candidatesTokenCount", "outputTokens", "completionTokens"), "completion"
    ),
    **dict.fromkeys(("candidates_token_count", "outputTokenCount"), "completion"),
    **dict.fromkeys(("total_tokens", "totalTokenCount", "totalTokens", "total_token_count"), "total"),
    **dict.fromkeys(("reasoning_tokens", "thoughtsTokenCount", "thoughts_token_count"), "thoughts_beside"),
    "citation_tokens": "citations_beside",
    **dict.fromkeys(("cache_read_input_tokens", "cacheReadInputTokens"), "read_beside"),
    **dict.fromkeys(("cache_creation_input_tokens", "cacheWriteInputTokens"), "written_beside"),
    **dict.fromkeys(("cached_tokens", "prompt_cache_hit_tokens", "cachedContentTokenCount"), "cached"),
    "cached_content_token_count": "cached",
    "cache_write_tokens": "written",
    **dict.fromkeys(("num_search_queries", "num_sources_used", "web_search_requests", "web_search_calls"), "searches"),
    **dict.fromkeys(("file_search_calls", "document_search_calls"), "file_searches"),
    **dict.fromkeys(("x_search_calls", "code_interpreter_calls", "code_execution_requests"), "tool_runs"),
}
_PROMPT_DETAILS = {
    **dict.fromkeys(("cached_tokens", "cache_read_tokens"), "cached"),
    **dict.fromkeys(("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens"), "written"),
    "audio_tokens": "audio_prompt",
    "image_tokens": "image_prompt",
    "text_tokens": "text_prompt",
}
_COMPLETION_DETAILS = {
    "reasoning_tokens": "thoughts",
    "accepted_prediction_tokens": "accepted",
    "rejected_prediction_tokens": "rejected",
    "audio_tokens": "audio_completion",
    "image_tokens": "image_completion",
    "text_tokens": "text_completion",
}
_CACHE_DETAILS = {"ephemeral_1h_input_tokens": "written_1h"}
_DETAILS: dict[str, Mapping[str, str]] = {
    **dict.fromkeys(("prompt_tokens_details", "input_tokens_details", "input_token_details"), _PROMPT_DETAILS),
    **dict.fromkeys(
        ("completion_tokens_details", "output_tokens_details", "output_token_details"), _COMPLETION_DETAILS
    ),
    **dict.fromkeys(("cache_creation", "cache_creation_token_details"), _CACHE_DETAILS),
    **dict.fromkeys(("server_tool_use", "server_side_tool_usage_details"), _NAMES),
}
#: Items of a Responses answer with a fee per call, by the field of `Usage` that counts them.
_CALLS = {
    "web_search_call": "searches",
    "file_search_call": "file_searches",
    "code_interpreter_call": "tool_runs",
    "image_generation_call": "tool_runs",
}
#: The fields of answers that have no tokens.
_WITHOUT_OUTPUT = ("data", "results")
#: The fields in which some gateways wrap a whole answer.
_WRAPPERS = ("data", "result", "response")
#: Larger counts are implausible and are clipped to this, so that sums fit into 64 bits.
_MOST = 2**60
_OTHER_PLACES = frozenset(PLACES[1:])
_PLAIN_RECORD = frozenset(
    {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
)
#: The counts of a record without separately priced tokens.
_PLAIN = frozenset({"prompt", "completion", "total", "cached"})
#: How deeply records may be nested.
_DEEPEST = 3


def _plain(response: Mapping[str, Any]) -> Usage | None:
    """The fast path for most answers: two counts, their total, and details that are all 0. None for other records."""
    fields = response.get("usage")
    if type(fields) is not dict or not _OTHER_PLACES.isdisjoint(response):
        return None
    choices = response.get("choices")
    for choice in choices if type(choices) is list else ():
        if type(choice) is dict and "usage" in choice:
            return None
    get = fields.get
    prompt, completion = get("prompt_tokens"), get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int or prompt < 0 or completion < 0:
        return None
    if get("total_tokens") != prompt + completion or prompt + completion > _MOST or not fields.keys() <= _PLAIN_RECORD:
        return None
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = get(name)
        if details and (not isinstance(details, dict) or any(details.values())):
            return None
    return Usage(prompt, completion)


def _largest(response: Mapping[str, Any]) -> Usage | None:
    """The larger counts of all usage records in a response. Those of its choices are added up."""
    gives_output = not any(isinstance(response.get(name), list) for name in _WITHOUT_OUTPUT)
    found: Usage | None = None
    for place in (*(response[name] for name in PLACES if name in response), *_beside(response)):
        found = _with_records(found, place, gives_output)
    choices = [_with_records(None, usage, gives_output) or Usage() for usage in _in_choices(response)]
    if choices:
        together = Usage(*map(sum, zip(*choices, strict=True)))
        found = together if found is None else _larger(found, together)
    return found


def _with_records(found: Usage | None, place: Any, gives_output: bool) -> Usage | None:
    """The larger counts of what was found and of the records in a place."""
    for fields in _records(place):
        one = _read(fields, gives_output)
        found = one if found is None else _larger(found, one)
    return found


def _beside(response: Mapping[str, Any]) -> Iterator[Any]:
    """The usage that some gateways put beside the words of an error, or wrap together with the answer."""
    error = response.get("error")
    metadata = error.get("metadata") if isinstance(error, dict) else None
    for place in (error, metadata, *(response.get(name) for name in _WRAPPERS)):
        if isinstance(place, dict) and "usage" in place:
            yield place["usage"]


def _in_choices(response: Mapping[str, Any]) -> Iterator[Any]:
    """The usage that some gateways put into each choice."""
    choices = response.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and "usage" in choice:
            yield choice["usage"]


def _records(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The usage records in a value, which may be nested, in a list, or JSON in a string."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = loads(value)
        except ValueError:
            return
    if isinstance(value, dict):
        yield value
    if depth == _DEEPEST or not isinstance(value, (dict, list)):
        return
    for name, inner in value.items() if isinstance(value, dict) else ((None, each) for each in value):
        if isinstance(inner, (dict, list, str)) and name not in _DETAILS:
            yield from _records(inner, depth + 1)


def _read(fields: Mapping[str, Any], gives_output: bool) -> Usage:
    counts: dict[str, int] = {}
    for name, value in fields.items():
        if name in _NAMES:
            _note(counts, _NAMES[name], value)
        elif name in _DETAILS:
            _note_details(counts, name, value)
    adds_up = counts.get("total", 0) == counts.get("prompt", 0) + counts.get("completion", 0)
    if adds_up and counts.keys() <= _PLAIN and not counts.get("cached"):
        return Usage(counts.get("prompt", 0), counts.get("completion", 0))
    prompt = _prompt(counts, adds_up)
    completion = _completion(counts, adds_up)
    missing = counts.get("total", 0) - prompt - completion
    if missing > 0 and gives_output:
        completion += missing
        counts["thoughts"] = max(counts.get("thoughts", 0), missing if "completion" in counts else 0)
    elif missing > 0:
        prompt += missing
    return _usage(counts, prompt, completion)


def _note_details(counts: dict[str, int], name: str, details: Any) -> None:
    meanings = _DETAILS[name]
    for inner, value in details.items() if isinstance(details, dict) else ():
        # Most are 0, which matters only if another field says that a cache was read.
        if inner in meanings and (value or inner == "cached_tokens"):
            _note(counts, meanings[inner], value)
        elif inner in _DETAILS and _DETAILS[inner] is not meanings:
            _note_details(counts, inner, value)


def _note(counts: dict[str, int], meaning: str, value: Any) -> None:
    count = _count(value)
    if count is None:
        return
    before = counts.get(meaning)
    # Cached tokens make the answer cheaper, so the smaller count is the cautious one.
    choose = min if meaning in ("cached", "read_beside") else max
    counts[meaning] = count if before is None else choose(before, count)


def _count(value: Any) -> int | None:
    """A number of tokens, also from a string; None for other values."""
    if type(value) is int:
        return min(value, _MOST) if value >= 0 else None
    if isinstance(value, bool) or not isinstance(value, (float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return math.ceil(min(number, _MOST)) if number >= 0 else None  # a nan is not


def _prompt(counts: Mapping[str, int], adds_up: bool) -> int:
    get = counts.get
    prompt, beside = get("prompt", 0), get("read_beside", 0) + get("written_beside", 0)
    cache = max(beside, get("cached", 0) + max(get("written", 0), get("written_1h", 0)))
    media = get("audio_prompt", 0) + get("image_prompt", 0)
    if cache > prompt or (beside and not adds_up):
        prompt += cache
    # Audio and images may be among the cached tokens; that is assumed only if the total adds up.
    return max(prompt, media + get("text_prompt", 0), media + (0 if adds_up else cache))


def _completion(counts: Mapping[str, int], adds_up: bool) -> int:
    get = counts.get
    completion, thoughts = get("completion", 0), get("thoughts", 0)
    beside = get("thoughts_beside", 0) + get("citations_beside", 0)
    parts = get("audio_completion", 0) + get("image_completion", 0) + get("text_completion", 0)
    more = max(beside if beside > completion or not adds_up else 0, thoughts if thoughts > completion else 0)
    if get("accepted", 0) + get("rejected", 0) > completion:  # what was rejected is billed, and not among them
        more += get("rejected", 0)
    return max(completion + more, parts)


def _usage(counts: Mapping[str, int], prompt: int, completion: int) -> Usage:
    get = counts.get
    return Usage(
        prompt,
        completion,
        min(max(get("thoughts", 0), get("thoughts_beside", 0)), completion),
        min((counts[name] for name in ("cached", "read_beside") if name in counts), default=0),
        max(get("written", 0), get("written_beside", 0), get("written_1h", 0)),
        get("written_1h", 0),
        get("audio_prompt", 0),
        get("image_prompt", 0),
        get("audio_completion", 0),
        get("image_completion", 0),
        get("searches", 0),
        get("file_searches", 0),
        get("tool_runs", 0),
    )


def _larger(one: Usage, other: Usage) -> Usage:
    """The larger of each count in two records of an answer, and the smaller of the cached tokens."""
    larger = Usage(*map(max, one, other))
    cached = min((each.cached_tokens for each in (one, other) if each.prompt_tokens), default=0)
    return larger._replace(cached_tokens=cached)


def _with_calls(usage: Usage, response: Mapping[str, Any]) -> Usage:
    """Add the calls with a fee that the answer shows."""
    model = response.get("model")
    least = 1 if (isinstance(model, str) and _is_searching_model(model)) or _has_citations(response) else 0
    kinds = [_CALLS[kind] for kind in _item_types(response) if kind in _CALLS] if "output" in response else []
    if not (least or kinds):
        return usage
    searches = max(usage.searches, least, kinds.count("searches"))
    file_searches = max(usage.file_searches, kinds.count("file_searches"))
    return usage._replace(
        searches=searches, file_searches=file_searches, tool_runs=max(usage.tool_runs, kinds.count("tool_runs"))
    )


@lru_cache(maxsize=64)
def _is_searching_model(model: str) -> bool:
    return SEARCHING_MODEL.search(model) is not None


def _item_types(response: Mapping[str, Any]) -> list[str]:
    items = response.get("output")
    return [str(item.get("type")) for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _has_citations(response: Mapping[str, Any]) -> bool:
    """Whether a chat answer has URL citations, as from a search."""
    choices = response.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        notes = message.get("annotations") if isinstance(message, dict) else None
        if notes and isinstance(notes, list):
            kinds = [each.get("type") for each in notes if isinstance(each, dict)]
            if "url_citation" in kinds:
                return True
    return False
