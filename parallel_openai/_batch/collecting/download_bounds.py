"""Bounds the size of a batch's output file, by its requests."""

from __future__ import annotations

from parallel_openai._records import MAX_RESPONSE_BYTES, APIRequest

#: The most bytes of an answer, generously: text; audio, images or text with log probabilities; and one embedding.
MAX_TEXT_BYTES, MAX_ANSWER_BYTES, MAX_VECTOR_BYTES = 2 * 2**20, MAX_RESPONSE_BYTES, 2**18
#: Bytes that a file may have beyond its answers.
EXTRA_BYTES = 2**24
_LONG = ("logprobs", "top_logprobs", "modalities", "audio", "tools", "include")


def max_answer_bytes(request: APIRequest, inputs: int) -> int:
    """The most bytes of the answer to a request.

    >>> max_answer_bytes(APIRequest({"model": "gpt-5-mini", "n": 2}), 1)
    4194360
    """
    body = request.request_json
    if request.path == "embeddings":
        size = inputs * MAX_VECTOR_BYTES
    else:
        n = body.get("n")
        each = MAX_ANSWER_BYTES if any(body.get(name) for name in _LONG) else MAX_TEXT_BYTES
        size = each * inputs * (n if type(n) is int and n > 0 else 1)
    return size + 2 * len(request.body)  # some endpoints repeat the request
