"""Counts the tokens of text and of whole requests as the server does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from parallel_openai._json import dumps
from parallel_openai._records import APIRequest, Size
from parallel_openai._requests.encodings import encoding_for_model, get_encoding
from parallel_openai._requests.endpoints import ALL_CAPS, ENDPOINTS

# OpenAI's documented overhead in chat: for each message, for each name in it, and for the start of the answer.
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PER_REPLY = 3

# Estimates for content other than text. An image at low detail costs 85 tokens; otherwise its cost depends on its
# unknown size, and is 765 for 1024 x 1024. A second of audio costs about 10 tokens and is at least 5,000 characters of
# base64. Files, of text and perhaps images, are estimated as a token for 10 characters of base64.
IMAGE_TOKENS = 765
LOW_DETAIL_IMAGE_TOKENS = 85
AUDIO_CHARACTERS_PER_TOKEN = 500
FILE_CHARACTERS_PER_TOKEN = 10

# tiktoken's regular expression overflows its stack on a megabyte of spaces, so long texts are counted in slices.
_SLICE = 20_000
_REPEATED_AT_MOST = 20_000

_LEGACY = ENDPOINTS["completions"]
# The caps that count at each path: only what its endpoint knows, since many servers ignore other parameters.
_CAPS = {each.path: each.caps for each in ENDPOINTS.values() if each.caps}


def count_tokens(text: str, encoding_name: str) -> int:
    """The number of tokens in text. Special tokens count as text, lone surrogates as U+FFFD.

    >>> count_tokens("What is the sentiment of this review?", "o200k_base")
    8
    """
    encode = get_encoding(encoding_name).encode_ordinary
    if len(text) <= _SLICE:
        return len(encode(text))
    return sum(len(encode(text[start:end])) for start, end in _slices(text))


def size_of(request: APIRequest) -> Size:
    """The size of a request in its own model's encoding."""
    return request_size(request.request_json, encoding_for_model(request.model), request.path)


def request_size(request_json: Mapping[str, Any], encoding_name: str, path: str = "") -> Size:
    """The size of a request body of any endpoint; an estimate for content other than plain text.

    `path` distinguishes an `input` of Responses from one of embeddings; without it the model's name does.

    Chat is counted as OpenAI documents: the text, 3 tokens per message, 1 per name, 3 for the start of the answer. An
    image counts 85 tokens at low detail, otherwise 765; audio and files count by the length of their data, tools,
    schemas and documents by their JSON. `characters` counts text, and 4 per token number. Several prompts in a legacy
    completion are as many `choices`.

    >>> question = {"role": "user", "content": "What is the capital of France?"}
    >>> request_size({"model": "gpt-5-mini", "messages": [question], "max_completion_tokens": 16}, "o200k_base")
    Size(prompt_tokens=14, characters=30, max_output_tokens=16, choices=1)
    >>> request_size({"model": "text-embedding-3-small", "input": ["one title", "another"]}, "cl100k_base")
    Size(prompt_tokens=3, characters=16, max_output_tokens=None, choices=1)
    """
    counter = _TokenCounter(encoding_name)
    get = request_json.get
    prompts = 1
    if (messages := get("messages")) is not None:
        counter.messages(messages)
    if (items := get("input")) is not None:
        is_message = path == "responses" if path else _answers_in_text(get("model"))
        counter.input(items, is_message=is_message)
    if (prompt := get("prompt")) is not None:
        prompts = counter.prompts(prompt)
    is_legacy = path == "completions" or (not path and prompt is not None and not isinstance(prompt, dict))
    if (instructions := get("instructions")) is not None:
        counter.message({"role": "system", "content": instructions})
    for key in ("tools", "functions", "response_format", "text", "documents"):
        if schema := get(key):
            counter.repeated(_as_json(schema))
    if "n" in request_json or "best_of" in request_json:
        prompts *= _largest(request_json, ("n", "best_of")) or 1
    cap = _largest(request_json, _CAPS.get(path, ALL_CAPS)) or (_LEGACY.default_cap if is_legacy else None)
    return Size(counter.tokens, counter.characters, cap, prompts)


class _TokenCounter:
    __slots__ = ("characters", "encoding_name", "tokens")

    def __init__(self, encoding_name: str) -> None:
        self.encoding_name = encoding_name
        self.tokens = 0
        self.characters = 0

    def messages(self, messages: Any) -> None:
        self.tokens += TOKENS_PER_REPLY
        for message in messages if isinstance(messages, (list, tuple)) else (messages,):
            self.message(message)

    def message(self, message: Any) -> None:
        """Count a chat message, or an item of a Responses input: a message, a tool call, a tool's output."""
        self.tokens += TOKENS_PER_MESSAGE
        if not isinstance(message, dict):
            self.part(message)
            return
        is_user = message.get("role") == "user"
        for key, value in message.items():
            if key == "role":
                self.tokens += 1
            elif value is None or key in ("type", "id", "status"):
                continue
            elif isinstance(value, str):
                # User messages differ between rows; system messages and examples are mostly the same, so cached.
                self.text(value) if is_user else self.repeated(value)
                self.tokens += TOKENS_PER_NAME if key == "name" else 0
            elif key in ("content", "output") and isinstance(value, (list, tuple)):
                for part in value:
                    self.part(part)
            else:
                self.repeated(_as_json(value))

    def part(self, part: Any) -> None:
        """Count a part of a message's content: text, an image, audio, a file."""
        if isinstance(part, str):
            self.text(part)
            return
        if not isinstance(part, dict):
            self.text(_as_json(part))
            return
        kind = part.get("type")
        if isinstance(part.get("text"), str):
            self.text(part["text"])
        elif kind in ("image_url", "input_image"):
            self.tokens += LOW_DETAIL_IMAGE_TOKENS if _find(part, "detail") == "low" else IMAGE_TOKENS
        elif kind in ("input_audio", "file", "input_file"):
            data = _find(part, "data") or _find(part, "file_data")
            per_token = AUDIO_CHARACTERS_PER_TOKEN if kind == "input_audio" else FILE_CHARACTERS_PER_TOKEN
            self.tokens += 1 + len(data) // per_token if data else IMAGE_TOKENS
        else:
            self.text(_as_json(part))

    def input(self, items: Any, *, is_message: bool) -> None:
        """Count the `input` of Responses (`is_message`), or of embeddings and moderations."""
        if isinstance(items, str):
            if is_message:
                self.messages([{"role": "user", "content": items}])
            else:
                self.text(items)
        elif is_message and isinstance(items, (list, tuple)) and any(isinstance(item, dict) for item in items):
            self.messages(items)
        else:
            self.prompts(items)

    def prompts(self, prompts: Any) -> int:
        """Count one or several texts or lists of token numbers that are not messages; returns how many there are."""
        if not isinstance(prompts, (list, tuple)):
            self.part(prompts)
            return 1
        if prompts and isinstance(prompts[0], int):
            self.numbers(len(prompts))
            return 1
        for prompt in prompts:
            if isinstance(prompt, (list, tuple)):
                self.numbers(len(prompt))
            else:
                self.part(prompt)
        return max(1, len(prompts))

    def numbers(self, count: int) -> None:
        self.tokens += count
        self.characters += 4 * count

    def text(self, text: str) -> None:
        self.tokens += count_tokens(text, self.encoding_name)
        self.characters += len(text)

    def repeated(self, text: str) -> None:
        """Count text that is probably the same in the next request, and cache the count."""
        if len(text) > _REPEATED_AT_MOST:
            self.text(text)
            return
        self.tokens += _count_repeated(text, self.encoding_name)
        self.characters += len(text)


_count_repeated = lru_cache(maxsize=256)(count_tokens)


def _answers_in_text(model: Any) -> bool:
    return not (isinstance(model, str) and ("embed" in model or "moderation" in model))


def _find(part: Mapping[str, Any], key: str) -> str | None:
    """The string under this key, in the part itself or one level down (`input_audio.data`)."""
    for fields in (part, *part.values()):
        if isinstance(fields, Mapping) and isinstance(fields.get(key), str):
            found: str = fields[key]
            return found
    return None


def _largest(request_json: Mapping[str, Any], names: Iterable[str]) -> int | None:
    largest = None
    for name in names:
        value = request_json.get(name)
        # The comparison excludes nan and infinity; the server refuses numbers below 1.
        if isinstance(value, (int, float)) and 1 <= value < 2**63 and (largest is None or value > largest):
            largest = int(value)
    return largest


def _as_json(value: Any) -> str:
    try:
        return dumps(value).decode()
    except (TypeError, ValueError, RecursionError):
        # Not JSON, or circular: the request cannot be sent, so its size does not matter.
        return ""


def _slices(text: str) -> list[tuple[int, int]]:
    """Slices that end before a single space between words, where tiktoken splits too, so that the count is exact."""
    slices = []
    start = 0
    while len(text) - start > _SLICE:
        end = start + _SLICE
        for space in range(end - 1, end - 500, -1):
            if text[space] == " " and not text[space - 1].isspace() and not text[space + 1].isspace():
                end = space
                break
        slices.append((start, end))
        start = end
    return [*slices, (start, len(text))]
