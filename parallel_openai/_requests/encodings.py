"""Find a model's token encoding and load it without network access. The only module that uses tiktoken.

tiktoken is imported inside functions to keep importing the package fast.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from parallel_openai._log import log
from parallel_openai._loop.forks import fork_safe_lock
from parallel_openai._requests import vocabularies
from parallel_openai.errors import InvalidInputError, ParallelOpenAIError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import tiktoken


DEFAULT_ENCODING = "o200k_base"

_encodings: dict[str, tiktoken.Encoding] = {}
_loading = fork_safe_lock()


def encoding_for_model(model: str | None) -> str:
    """The name of the model's encoding; `o200k_base` if tiktoken does not know the model, which is logged once.

    >>> encoding_for_model("gpt-5-mini"), encoding_for_model("text-embedding-3-small")
    ('o200k_base', 'cl100k_base')
    >>> encoding_for_model("llama-4"), encoding_for_model("ft:gpt-4.1-mini-2025-04-14:acme::a1b2")
    ('o200k_base', 'o200k_base')
    """
    return DEFAULT_ENCODING if model is None else _encoding_for_model(model)


@lru_cache(maxsize=1024)
def _encoding_for_model(model: str) -> str:
    from tiktoken.model import encoding_name_for_model

    name = model.rpartition("/")[2]  # gateways prefix the vendor
    if name.startswith("ft:"):  # tiktoken knows only old fine-tuned families
        name = name.split(":")[1]
    try:
        return encoding_name_for_model(name)
    except KeyError:
        # Logged once per model, because the result is cached.
        log.info("tiktoken does not know the model %r; its tokens are counted with %s.", model, DEFAULT_ENCODING)
        return DEFAULT_ENCODING


def get_encoding(name: str) -> tiktoken.Encoding:
    """Return the encoding, loaded on first use.

    `cl100k_base`, `o200k_base` and `o200k_harmony` come from tiktoken's cache if it has them, otherwise from files in
    this package, never from the network. tiktoken downloads the others; if it cannot, `o200k_base` is used instead.

    >>> get_encoding("o200k_base").encode("hello world")
    [24912, 2375]
    >>> get_encoding("o300k_base")
    Traceback (most recent call last):
    parallel_openai.errors.InvalidInputError: No token encoding 'o300k_base'; tiktoken has ['cl100k_base', ...].
    """
    encoding = _encodings.get(name)
    if encoding is None:
        with _loading:
            encoding = _encodings.get(name) or _load(name)
            _encodings[name] = encoding
    return encoding


def _load(name: str) -> tiktoken.Encoding:
    import tiktoken

    if name in _SHIPPED:
        return _load_shipped(name)
    if name not in tiktoken.list_encoding_names():
        raise InvalidInputError(f"No token encoding {name!r}; tiktoken has {sorted(tiktoken.list_encoding_names())}.")
    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        log.warning("tiktoken cannot fetch %s (%s); counting with %s.", name, type(error).__name__, DEFAULT_ENCODING)
        return _encodings.get(DEFAULT_ENCODING) or _load_shipped(DEFAULT_ENCODING)


def _load_shipped(name: str, *, folder: Path | Traversable = vocabularies.FOLDER) -> tiktoken.Encoding:
    import tiktoken

    vocabulary, pattern, special_tokens = _SHIPPED[name]
    if name in tiktoken.list_encoding_names() and _tiktoken_has(vocabulary):
        return tiktoken.get_encoding(name)
    try:
        ranks = vocabularies.ranks(vocabulary, folder=folder)
    except ValueError as error:
        if name in tiktoken.list_encoding_names() and "lzma" in str(error):
            return tiktoken.get_encoding(name)  # from the network
        raise ParallelOpenAIError(str(error)) from error
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)


def _tiktoken_has(vocabulary: str) -> bool:
    """Whether tiktoken's cache holds the intact file; it would download one that is missing or damaged."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder == "":
        return False  # disables tiktoken's cache
    url = f"https://openaipublic.blob.core.windows.net/encodings/{vocabulary}.tiktoken"
    try:
        if folder is None:  # there is no temporary folder on a full or a read-only disk
            folder = os.path.join(tempfile.gettempdir(), "data-gym-cache")
        content = Path(folder, hashlib.sha1(url.encode()).hexdigest()).read_bytes()
    except OSError:
        return False
    return vocabularies.matches(vocabulary, content)


_CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_CL100K_SPECIAL = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}
_O200K_SPECIAL = {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
_HARMONY_NAMES = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}
_HARMONY_RESERVED = (200000, 200001, 200004, 200009, 200010, 200011, *range(200013, 201088))
_HARMONY_SPECIAL = _O200K_SPECIAL | _HARMONY_NAMES | {f"<|reserved_{number}|>": number for number in _HARMONY_RESERVED}

# The encodings that need no network: file of ranks, pattern that splits text before merging, special tokens.
_SHIPPED = {
    "cl100k_base": ("cl100k_base", _CL100K_PATTERN, _CL100K_SPECIAL),
    "o200k_base": ("o200k_base", _O200K_PATTERN, _O200K_SPECIAL),
    "o200k_harmony": ("o200k_base", _O200K_PATTERN, _HARMONY_SPECIAL),
}
