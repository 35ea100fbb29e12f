"""The functions of the OpenAI Cookbook's script (`api_request_parallel_processor.py`), and an awaitable result."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterator, Mapping
from itertools import count
from typing import Any

from parallel_openai._files.endpoint_url import split_url
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._requests.tokens import request_size

#: Tokens of an answer without a cap, as in the Cookbook's script.
_DEFAULT_ANSWER_TOKENS = 15


class FileStatus(StatusTracker, Coroutine[Any, Any, StatusTracker]):
    """The counts of a run on files. Like the Cookbook's coroutine it can be passed to `await` and `asyncio.run`."""

    def __await__(self) -> Generator[Any, Any, StatusTracker]:
        yield from ()
        return self

    # By identity, since asyncio.gather merges equal awaitables.
    __hash__ = object.__hash__

    def send(self, value: Any) -> Any:
        raise StopIteration(self)

    def throw(self, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        pass


def num_tokens_consumed_from_request(
    request_json: Mapping[str, Any], api_endpoint: str, token_encoding_name: str = "cl100k_base"
) -> int:
    """The most tokens of a request that count against a rate limit: its prompt, and each answer's cap (default 15).

    >>> question = {"role": "user", "content": "What is the capital of France?"}
    >>> num_tokens_consumed_from_request({"messages": [question], "max_tokens": 10}, "chat/completions")
    24
    """
    size = request_size(request_json, token_encoding_name, api_endpoint)
    if api_endpoint == "embeddings":
        return size.prompt_tokens
    cap = _DEFAULT_ANSWER_TOKENS if size.max_output_tokens is None else size.max_output_tokens
    return size.prompt_tokens + cap * size.choices


def api_endpoint_from_url(request_url: str) -> str:
    """The endpoint of a full URL.

    >>> api_endpoint_from_url("https://api.openai.com/v1/chat/completions")
    'chat/completions'
    """
    return split_url(request_url)[1]


def task_id_generator_function() -> Iterator[int]:
    """0, 1, 2 and so on.

    >>> numbers = task_id_generator_function()
    >>> next(numbers), next(numbers)
    (0, 1)
    """
    return count()
