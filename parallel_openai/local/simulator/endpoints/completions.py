"""Completions, the older endpoint: what the API refuses, and the answer."""

from __future__ import annotations

import math
import random
import re
import time
from typing import Any

from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import answers, counting, usage
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Asked, Endpoint
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings

_PARAMETERS = (
    "best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop stream "
    "stream_options suffix temperature top_p user"
)
PARAMETERS = frozenset(_PARAMETERS.split())
CHAT_MODEL = re.compile(r"^(gpt-[4-9]|o[1-9]|gpt-3\.5-turbo(?!-instruct))")
USUAL_MAXIMUM = 16


def read(body: dict[str, Any], settings: Settings) -> Asked:
    """The checked body.

    >>> read({"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon a time"}, Settings()).prompt_tokens
    4
    """
    checks.known_parameters(body, PARAMETERS)
    checks.whole(body)
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
    most = body.get("max_tokens")
    return Asked(
        body={**body, "prompt": prompts},
        model=model,
        prompt="",
        prompt_tokens=tokens,
        max_output=USUAL_MAXIMUM if most is None else most,
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


def answer(asked: Asked, settings: Settings, dice: random.Random, flaw: str | None) -> Answer:
    choices: list[dict[str, Any]] = []
    output_tokens = 0
    for prompt in asked.body["prompt"]:
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        for _ in range(asked.body.get("n") or 1):
            said = answers.say(None, text, settings, dice, max_output=asked.max_output, flaw=flaw)
            output_tokens += said.tokens
            choices.append(_choice(len(choices), said, asked.body.get("logprobs"), dice))
    body = {
        "id": f"cmpl-simulated{dice.getrandbits(64):016x}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": choices,
        "usage": usage.dressed(
            settings,
            {
                "prompt_tokens": asked.prompt_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": asked.prompt_tokens + output_tokens,
            },
        ),
        "system_fingerprint": "simulated",
    }
    return Answer(body, asked.prompt_tokens, output_tokens)


def _choice(index: int, said: answers.Said, top: int | None, dice: random.Random) -> dict[str, Any]:
    text = said.text if said.text is not None else said.refusal or ""
    logprobs = None if top is None else _logprobs(text, top, dice)
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": said.finish_reason}


def _logprobs(text: str, top: int, dice: random.Random) -> dict[str, Any]:
    pieces = counting.pieces(text)
    shares = [round(math.log(0.6 + 0.39 * dice.random()), 8) for _ in pieces]
    offsets = [at * counting.CHARACTERS_PER_TOKEN for at in range(len(pieces))]
    tops = [{piece: share} for piece, share in zip(pieces, shares, strict=True)] if top else None
    return {"tokens": pieces, "token_logprobs": shares, "top_logprobs": tops, "text_offset": offsets}


COMPLETIONS = Endpoint("/v1/completions", read, answer)
