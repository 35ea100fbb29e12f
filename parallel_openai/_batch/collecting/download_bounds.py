"""How large a file of the server may be, by what was asked for."""

from __future__ import annotations

from parallel_openai._records import MAX_RESPONSE_BYTES, APIRequest

#: Bytes that an answer may have, generously: text, what is heard, painted or told with the probability of each token,
#: and the vector of one input.
MOST_OF_TEXT, MOST_OF_ALL, MOST_OF_A_VECTOR = 2 * 2**20, MAX_RESPONSE_BYTES, 2**18
#: Bytes that a file may have beyond them.
BESIDE = 2**24
_LONG = ("logprobs", "top_logprobs", "modalities", "audio", "tools", "include")


def most_bytes(request: APIRequest, inputs: int) -> int:
    """How long the answer to a request may be.

    >>> most_bytes(APIRequest({"model": "gpt-5-mini", "n": 2}), 1)
    4194360
    """
    body = request.request_json
    if request.path == "embeddings":
        most = inputs * MOST_OF_A_VECTOR
    else:
        choices = body.get("n")
        each = MOST_OF_ALL if any(body.get(name) for name in _LONG) else MOST_OF_TEXT
        most = each * inputs * (choices if type(choices) is int and choices > 0 else 1)
    return most + 2 * len(request.body)  # some endpoints repeat what they were asked
