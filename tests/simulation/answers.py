"""The right answer to each text on each endpoint, and the wrong ones that may come instead."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from parallel_openai._requests.encodings import get_encoding
from tests.simulation.life import LABELS

#: Dollars for a token of the prompt and of the answer, as OpenAI's page of prices has them.
PRICES = {
    "gpt-4o-mini": (0.15e-6, 0.60e-6),
    "gpt-4.1-mini": (0.40e-6, 1.60e-6),
    "text-embedding-3-small": (0.02e-6, 0.0),
}
CONTEXT_LENGTH = 300
DIMENSIONS = 4


def inputs_of(request: Mapping[str, Any]) -> list[str]:
    """What is asked: the first message of the user, the prompt, or each text that is embedded."""
    given = request.get("messages", request.get("input", request.get("prompt")))
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], str):
        return list(given)
    return [next(each["content"] for each in given if each["role"] == "user")]


def question_of(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def reply_to(text: str) -> str:
    """What is right to answer.

    >>> reply_to("Row 1")
    're: a47a9b1f8da1'
    """
    return f"re: {question_of(text)}"


def label_of(text: str) -> str:
    return LABELS[int(question_of(text), 16) % len(LABELS)]


def vector_of(text: str) -> list[float]:
    digest = blake2b(text.encode(), digest_size=DIMENSIONS).digest()
    return [byte / 256 for byte in digest]


def prompt_tokens(request: Mapping[str, Any]) -> int:
    is_embedding = str(request.get("model")).startswith("text-embedding")
    count = get_encoding("cl100k_base" if is_embedding else "o200k_base").encode_ordinary
    if "messages" in request:
        return 3 + sum(4 + len(count(each["content"])) for each in request["messages"])
    given = request.get("input", request.get("prompt"))
    if not isinstance(given, str) and given and not isinstance(given[0], str):
        given = [each["content"] for each in given]
    texts = [given] if isinstance(given, str) else list(given)
    return sum(len(count(text)) for text in (*texts, request.get("instructions") or ""))


def usd_of(request: Mapping[str, Any], prompt: int, completion: int) -> float:
    """Dollars; the flex tier's are half of the usual ones."""
    prices = PRICES[str(request["model"])]
    return (prompt * prices[0] + completion * prices[1]) * (0.5 if request.get("service_tier") == "flex" else 1.0)


def answer_to(path: str, request: Mapping[str, Any], fault: str | None) -> tuple[dict[str, Any], bool]:
    """The answer with its usage, and whether it is a good one."""
    if path.endswith("embeddings"):
        answer, completion, good = _vectors(request), 0, True
    else:
        content, reason, good = _content(request, fault)
        completion = len(get_encoding("o200k_base").encode_ordinary(content or ""))
        shape = _of_responses if path.endswith("responses") else _of_choices
        answer = shape(path, request, content, reason, has_logprobs=fault != "no_logprobs")
    answer = {"model": request["model"], **answer, "usage": _usage(path, prompt_tokens(request), completion)}
    if request.get("service_tier") == "flex":
        answer["service_tier"] = "flex"
    return answer, good


def tokens_in(answer: Mapping[str, Any]) -> tuple[int, int]:
    """What the usage says, of the prompt and of the answer."""
    usage = answer["usage"]
    names = ("input_tokens", "output_tokens") if "output" in answer else ("prompt_tokens", "completion_tokens")
    return usage[names[0]], usage[names[1]]


def text_in(answer: Mapping[str, Any]) -> str | None:
    """What an answer says, of any endpoint but embeddings."""
    if "output" in answer:
        parts = answer["output"][0]["content"]
        return parts[0].get("text") if parts else None
    [choice] = answer["choices"]
    text: str | None = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


def is_good(answer: Mapping[str, Any]) -> bool:
    """Whether an answer in a journal is one, for a row."""
    if "data" in answer:
        return answer["data"][0]["embedding"] is not None
    if "output" in answer:
        ended = answer.get("status") == "completed"
    else:
        ended = bool(answer.get("choices")) and answer["choices"][0]["finish_reason"] == "stop"
    return ended and "nonsense" not in (text_in(answer) or "nonsense")


def _usage(path: str, prompt: int, completion: int) -> dict[str, int]:
    names = ("input_tokens", "output_tokens") if path.endswith("responses") else ("prompt_tokens", "completion_tokens")
    return {names[0]: prompt, names[1]: completion, "total_tokens": prompt + completion}


def _content(request: Mapping[str, Any], fault: str | None) -> tuple[str | None, str, bool]:
    """What is said, why it ended there, and whether it is an answer."""
    [text] = inputs_of(request)
    content = reply_to(text)
    if "response_format" in request or "text" in request:
        content = orjson.dumps({"label": label_of(text)}).decode()
        if fault == "off_label":
            return '{"label":"nonsense"}', "stop", False
    if fault == "truncated":
        return content[:3], "length", False
    if fault == "unfinished":
        return content[:3], "error", False
    if fault == "filtered":
        return content[:3], "content_filter", False
    return (None, "stop", False) if fault == "refusal" else (content, "stop", True)


def _of_choices(
    path: str, request: Mapping[str, Any], content: str | None, reason: str, *, has_logprobs: bool
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
    if path.endswith("chat/completions"):
        refusal = "I cannot help with that." if content is None else None
        choice["message"] = {"role": "assistant", "content": content, "refusal": refusal}
        if request.get("logprobs") and has_logprobs and content is not None:
            choice["logprobs"] = {"content": _logprobs(content)}
    else:
        choice["text"] = content or ""
    return {"choices": [choice]}


def _of_responses(
    path: str, request: Mapping[str, Any], content: str | None, reason: str, *, has_logprobs: bool
) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "output_text", "text": content}
    if content is None:
        part = {"type": "refusal", "refusal": "I cannot help with that."}
    elif "include" in request and has_logprobs:
        part["logprobs"] = _logprobs(content)
    status = {"stop": "completed", "error": "failed"}.get(reason, "incomplete")
    details = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
    message = {"type": "message", "role": "assistant", "content": [part]}
    answer: dict[str, Any] = {"object": "response", "status": status, "output": [message]}
    if details is not None:
        answer["incomplete_details"] = {"reason": details}
    return answer


def _logprobs(content: str) -> Sequence[Mapping[str, Any]]:
    encoding = get_encoding("o200k_base")
    pieces = [encoding.decode([token]) for token in encoding.encode_ordinary(content)]
    told = [{"token": piece, "logprob": -0.01, "bytes": list(piece.encode())} for piece in pieces]
    return [{**each, "top_logprobs": [each]} for each in told]


def _vectors(request: Mapping[str, Any]) -> dict[str, Any]:
    data = []
    for index, text in enumerate(inputs_of(request)):
        vector: Any = vector_of(text)
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    return {"object": "list", "data": data}
