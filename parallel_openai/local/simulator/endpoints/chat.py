"""Chat completions: what the API refuses, and the answer, whole or as chunks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import answers, counting
from parallel_openai.local.simulator.endpoints import usage as usages
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Asked, Endpoint
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


def read(body: dict[str, Any], settings: Settings) -> Asked:
    """The checked body.

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
    # Three tokens around each message, as the API counts them.
    prompt_tokens = sum(counting.tokens(part) for part in parts) + images + 3 * len(messages)
    checks.context_length(prompt_tokens, settings.context_length)
    return Asked(
        body=body,
        model=model,
        prompt=parts[-1] if parts else "",
        prompt_tokens=prompt_tokens,
        max_output=body.get("max_completion_tokens") or body.get("max_tokens"),
        n=body.get("n") or 1,
        stream=bool(body.get("stream")),
    )


def answer(asked: Asked, settings: Settings, dice: random.Random, flaw: str | None) -> Answer:
    said = [_say(asked, settings, dice, flaw) for _ in range(asked.n)]
    choices = [_choice(index, each, asked, dice) for index, each in enumerate(said)]
    completion_tokens, reasoning_tokens = _output_tokens(said, asked, settings, flaw)
    usage = usages.told(settings, usages.CHAT, asked.prompt_tokens, completion_tokens, reasoning_tokens)
    head = {
        "id": f"chatcmpl-simulated{dice.getrandbits(64):016x}",
        "created": int(time.time()),
        "model": asked.model,
        "service_tier": asked.body.get("service_tier")
        if asked.body.get("service_tier") in ("flex", "priority")
        else "default",
        "system_fingerprint": "simulated",
    }
    body = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
    events = list(_chunks(head, choices, usage, asked)) if asked.stream else ()
    return Answer(body, asked.prompt_tokens, completion_tokens, events)


def _say(asked: Asked, settings: Settings, dice: random.Random, flaw: str | None) -> answers.Said:
    body = asked.body
    functions = [each.get("function", {}) for each in body.get("tools") or () if each.get("type") == "function"]
    answers_tool = body["messages"][-1].get("role") == "tool"
    tool = None if answers_tool else answers.tool(functions, body.get("tool_choice"), asked.prompt, dice)
    if tool is not None and flaw is None and not asked.stream:
        return answers.Said(None, "tool_calls", tool=tool)
    wanted = body.get("response_format")
    return answers.say(wanted, asked.prompt, settings, dice, max_output=asked.max_output, flaw=flaw)


def _choice(index: int, said: answers.Said, asked: Asked, dice: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": said.refusal, "annotations": []}
    if said.tool is not None:
        function = {"name": said.tool.name, "arguments": said.tool.arguments}
        call = {"id": f"call_simulated{dice.getrandbits(64):016x}", "type": "function", "function": function}
        message["tool_calls"] = [call]
    told = None
    if asked.body.get("logprobs"):
        top = asked.body.get("top_logprobs") or 0
        told = logprobs_of(said.text, asked.prompt, asked.body.get("response_format"), top, dice)
    return {"index": index, "message": message, "logprobs": told, "finish_reason": said.finish_reason}


def _output_tokens(said: list[answers.Said], asked: Asked, settings: Settings, flaw: str | None) -> tuple[int, int]:
    """Completion tokens, and how many of them went into thinking."""
    if flaw == "length":
        # A reasoning model that has thought until its maximum has nothing left to say, and is paid all the same.
        thought = (asked.max_output or 256) * asked.n
        return thought, thought
    thought = settings.thoughts * asked.n
    return sum(each.tokens for each in said) + thought, thought


def _chunks(head: dict[str, Any], choices: list[dict[str, Any]], usage: Any, asked: Asked) -> Iterator[dict[str, Any]]:
    with_usage = (asked.body.get("stream_options") or {}).get("include_usage")
    frame = {**head, "object": "chat.completion.chunk", **({"usage": None} if with_usage else {})}
    for choice in choices:
        for delta, logprobs, finish_reason in _deltas(choice):
            part = {
                "index": choice["index"],
                "delta": delta,
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }
            yield {**frame, "choices": [part]}
    if with_usage:
        yield {**frame, "choices": [], "usage": usage}


def _deltas(choice: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any, str | None]]:
    message, logprobs = choice["message"], choice["logprobs"]
    yield {"role": "assistant", "content": "", "refusal": None}, None, None
    for at, piece in enumerate(counting.pieces(message["content"] or "")):
        told = {"content": [logprobs["content"][at]], "refusal": None} if logprobs else None
        yield {"content": piece}, told, None
    if message["refusal"]:
        yield {"refusal": message["refusal"]}, None, None
    yield {}, None, choice["finish_reason"]


CHAT = Endpoint("/v1/chat/completions", read, answer)
