"""Chat completions: validation, and the answer as one body or as chunks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import answers, counting, endpoint
from parallel_openai.local.simulator.endpoints import usage as usages
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Endpoint, ParsedBody
from parallel_openai.local.simulator.endpoints.logprobs import logprobs_of
from parallel_openai.local.simulator.settings import Settings

_PARAMETERS = (
    "messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens "
    "max_tokens metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier "
    "stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)
PARAMETERS = frozenset(_PARAMETERS.split())


def read(body: dict[str, Any], settings: Settings) -> ParsedBody:
    """Validate the body.

    >>> read({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hi."}]}, Settings()).prompt_tokens
    4
    """
    checks.known_parameters(body, PARAMETERS)
    model = checks.model(body, settings.models)
    messages = checks.messages(body)
    checks.number(body, "n", 1, 128, whole=True)
    checks.number(body, "temperature", 0, 2)
    checks.number(body, "top_p", 0, 1)
    checks.number(body, "max_tokens", 1, None, whole=True)
    checks.number(body, "max_completion_tokens", 1, None, whole=True)
    checks.logprobs(body)
    checks.metadata(body)
    checks.reasoning(body, model)
    checks.response_format(body, messages)
    checks.tools(body)
    parts = list(counting.texts(messages))
    images = counting.images(messages) * counting.TOKENS_PER_IMAGE
    # The API adds three tokens for each message.
    prompt_tokens = sum(counting.tokens(part) for part in parts) + images + 3 * len(messages)
    checks.context_length(prompt_tokens, settings.context_length)
    return ParsedBody(
        body=body,
        model=model,
        prompt=parts[-1] if parts else "",
        prompt_tokens=prompt_tokens,
        max_output=body.get("max_completion_tokens") or body.get("max_tokens"),
        n=body.get("n") or 1,
        stream=bool(body.get("stream")),
    )


def answer(parsed: ParsedBody, settings: Settings, rng: random.Random, flaw: str | None) -> Answer:
    completions = [_complete(parsed, settings, rng, flaw) for _ in range(parsed.n)]
    choices = [_choice(index, each, parsed, rng) for index, each in enumerate(completions)]
    completion_tokens, reasoning_tokens = _output_tokens(completions, parsed, settings, flaw)
    usage = usages.usage_of(settings, usages.CHAT, parsed.prompt_tokens, completion_tokens, reasoning_tokens)
    head = {
        "id": f"chatcmpl-simulated{rng.getrandbits(64):016x}",
        "created": int(time.time()),
        "model": parsed.model,
        "service_tier": endpoint.service_tier(parsed.body),
        "system_fingerprint": "simulated",
    }
    body = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
    events = list(_chunks(head, choices, usage, parsed)) if parsed.stream else ()
    return Answer(body, parsed.prompt_tokens, completion_tokens, events)


def _complete(parsed: ParsedBody, settings: Settings, rng: random.Random, flaw: str | None) -> answers.Completion:
    body = parsed.body
    functions = [each.get("function", {}) for each in body.get("tools") or () if each.get("type") == "function"]
    answers_tool = body["messages"][-1].get("role") == "tool"
    tool = None if answers_tool else answers.tool(functions, body.get("tool_choice"), parsed.prompt, rng)
    if tool is not None and flaw is None and not parsed.stream:
        return answers.Completion(None, "tool_calls", tool=tool)
    response_format = body.get("response_format")
    return answers.complete(response_format, parsed.prompt, settings, rng, max_output=parsed.max_output, flaw=flaw)


def _choice(index: int, completion: answers.Completion, parsed: ParsedBody, rng: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": completion.text,
        "refusal": completion.refusal,
        "annotations": [],
    }
    if completion.tool is not None:
        function = {"name": completion.tool.name, "arguments": completion.tool.arguments}
        call = {"id": f"call_simulated{rng.getrandbits(64):016x}", "type": "function", "function": function}
        message["tool_calls"] = [call]
    logprobs = None
    if parsed.body.get("logprobs"):
        top = parsed.body.get("top_logprobs") or 0
        logprobs = logprobs_of(completion.text, parsed.prompt, parsed.body.get("response_format"), top, rng)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": completion.finish_reason}


def _output_tokens(
    completions: list[answers.Completion], parsed: ParsedBody, settings: Settings, flaw: str | None
) -> tuple[int, int]:
    """Completion tokens, and how many of them are reasoning tokens."""
    if flaw == "length":
        # A reasoning model that spends its maximum on reasoning answers nothing and is billed all the same.
        reasoning = (parsed.max_output or 256) * parsed.n
        return reasoning, reasoning
    reasoning = settings.thoughts * parsed.n
    return sum(each.tokens for each in completions) + reasoning, reasoning


def _chunks(
    head: dict[str, Any], choices: list[dict[str, Any]], usage: Any, parsed: ParsedBody
) -> Iterator[dict[str, Any]]:
    with_usage = (parsed.body.get("stream_options") or {}).get("include_usage")
    frame = {**head, "object": "chat.completion.chunk", **({"usage": None} if with_usage else {})}
    for choice in choices:
        for delta, logprobs, finish_reason in _deltas(choice):
            part = {"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
            yield {**frame, "choices": [part]}
    if with_usage:
        yield {**frame, "choices": [], "usage": usage}


def _deltas(choice: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any, str | None]]:
    message, logprobs = choice["message"], choice["logprobs"]
    yield {"role": "assistant", "content": "", "refusal": None}, None, None
    for at, piece in enumerate(counting.pieces(message["content"] or "")):
        token = {"content": [logprobs["content"][at]], "refusal": None} if logprobs else None
        yield {"content": piece}, token, None
    if message["refusal"]:
        yield {"refusal": message["refusal"]}, None, None
    yield {}, None, choice["finish_reason"]


CHAT = Endpoint("/v1/chat/completions", read, answer)
