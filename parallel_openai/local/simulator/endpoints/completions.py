"""Completions, the legacy endpoint: validation and the answer."""

from __future__ import annotations

import math
import random
import re
import time
from typing import Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import answers, counting, usage
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Endpoint, ParsedBody
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings

_PARAMETERS = (
    "best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop stream "
    "stream_options suffix temperature top_p user"
)
PARAMETERS = frozenset(_PARAMETERS.split())
CHAT_MODEL = re.compile(r"^(gpt-[4-9]|o[1-9]|gpt-3\.5-turbo(?!-instruct))")
DEFAULT_MAX_TOKENS = 16


def read(body: dict[str, Any], settings: Settings) -> ParsedBody:
    """Validate the body.

    >>> read({"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon a time"}, Settings()).prompt_tokens
    4
    """
    checks.known_parameters(body, PARAMETERS)
    checks.no_stream(body)
    model = checks.model(body, settings.models)
    if CHAT_MODEL.match(model):
        message = (
            "This is a chat model and not supported in the v1/completions endpoint. Did you mean to use "
            "v1/chat/completions?"
        )
        raise Refusal(404, message, param="model")
    prompts = _prompts(body.get("prompt", "<|endoftext|>"))
    checks.number(body, "max_tokens", 0, None, whole=True)
    checks.number(body, "n", 1, 128, whole=True)
    checks.number(body, "best_of", 1, 20, whole=True)
    checks.number(body, "temperature", 0, 2)
    checks.number(body, "top_p", 0, 1)
    checks.number(body, "logprobs", 0, 5, whole=True)
    tokens = sum(counting.tokens(each) if isinstance(each, str) else len(each) for each in prompts)
    checks.context_length(tokens, settings.context_length)
    max_tokens = body.get("max_tokens")
    return ParsedBody(
        body={**body, "prompt": prompts},
        model=model,
        prompt="",
        prompt_tokens=tokens,
        max_output=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        n=len(prompts) * (body.get("n") or 1),
    )


def _prompts(given: Any) -> list[Any]:
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        return [given]
    if not isinstance(given, list) or not given:
        raise checks.wrong_type("prompt", "one of a string or array", given)
    for at, each in enumerate(given):
        if not isinstance(each, str) and not (isinstance(each, list) and all(type(one) is int for one in each)):
            raise checks.wrong_type(f"prompt[{at}]", "one of a string or array of integers", each)
    return given


def answer(parsed: ParsedBody, settings: Settings, rng: random.Random, flaw: str | None) -> Answer:
    choices: list[dict[str, Any]] = []
    output_tokens = 0
    for prompt in parsed.body["prompt"]:
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        for _ in range(parsed.body.get("n") or 1):
            completion = answers.complete(None, text, settings, rng, max_output=parsed.max_output, flaw=flaw)
            output_tokens += completion.tokens
            choices.append(_choice(len(choices), completion, parsed.body.get("logprobs"), rng))
    body = {
        "id": f"cmpl-simulated{rng.getrandbits(64):016x}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": parsed.model,
        "choices": choices,
        "usage": usage.in_format(
            settings,
            {
                "prompt_tokens": parsed.prompt_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": parsed.prompt_tokens + output_tokens,
            },
        ),
        "system_fingerprint": "simulated",
    }
    return Answer(body, parsed.prompt_tokens, output_tokens)


def _choice(index: int, completion: answers.Completion, top: int | None, rng: random.Random) -> dict[str, Any]:
    text = completion.text if completion.text is not None else completion.refusal or ""
    logprobs = None if top is None else _logprobs(text, top, rng)
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": completion.finish_reason}


def _logprobs(text: str, top: int, rng: random.Random) -> dict[str, Any]:
    pieces = counting.pieces(text)
    shares = [round(math.log(0.6 + 0.39 * rng.random()), 8) for _ in pieces]
    offsets = [at * counting.CHARACTERS_PER_TOKEN for at in range(len(pieces))]
    tops = [{piece: share} for piece, share in zip(pieces, shares, strict=True)] if top else None
    return {"tokens": pieces, "token_logprobs": shares, "top_logprobs": tops, "text_offset": offsets}


COMPLETIONS = Endpoint("/v1/completions", read, answer)
