"""The nouns that cross the borders between modules. Frozen; they know how to describe themselves and nothing else.

Several are made for every row: named tuples, since a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

from parallel_openai._json import alike, body_and_canonical, dumps_strictly, read_back
from parallel_openai._printable import printable
from parallel_openai.errors import InvalidInputError, RunStoppedError

Status = Literal["succeeded", "failed", "cancelled"]
Kind = Literal["done", "retry", "hold", "fail", "stop"]
Dimension = Literal["requests", "tokens"]

#: An answer larger than this is refused: no completion is, and an endless body would fill the memory.
MAX_RESPONSE_BYTES = 64 * 2**20
#: The error code of a send for which the process had no file left to open.
TOO_MANY_FILES = "too_many_open_files"


class Size(NamedTuple):
    """How large a request is, in every measure that a server may charge by."""

    prompt_tokens: int  # tokens of what is sent
    characters: int  # characters of what is sent
    max_output_tokens: int | None  # the cap the request sets on each answer, in tokens; None where it sets none
    choices: int  # how many answers are asked for (`n`)


class Usage(NamedTuple):
    """What an answer took, in every class that may have a price of its own: the one record that costs, budgets and
    reports are made of.
    """

    prompt_tokens: int = 0  # all that was read, of whatever class
    completion_tokens: int = 0  # all that was written, thoughts included wherever they were told
    reasoning_tokens: int = 0  # of these, thoughts
    cached_tokens: int = 0  # of the prompt, read from a cache
    cache_write_tokens: int = 0  # of the prompt, written to a cache
    cache_write_1h_tokens: int = 0  # of these, written to be kept for an hour
    # Of the prompt, sound and pictures.
    audio_prompt_tokens: int = 0
    image_prompt_tokens: int = 0
    # Of the completion, sound and pictures.
    audio_completion_tokens: int = 0
    image_completion_tokens: int = 0
    # Searches of the web, and of files kept at the server, that cost a fee each.
    searches: int = 0
    file_searches: int = 0
    tool_runs: int = 0  # calls of other tools of the server, such as its code interpreter, whose fees no list tells

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Response(NamedTuple):
    """What one send gave: an HTTP answer, or the reason why there was none.

    Attributes:
        status: the HTTP status; 0 where no complete answer came.
        headers: the answer's headers, looked up without regard to case.
        body: the answer's bytes as they came.
        data: the parsed JSON of the body; None where it is no JSON.
        seconds: from the send to the last byte.
        error_code: why no answer came (`timeout`, `connection_error`, ...), else None.
        error: the same as a sentence; of an HTTP answer, what we know of its cause and the server does not say.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    data: Any
    seconds: float
    error_code: str | None = None
    error: str | None = None

    @property
    def request_id(self) -> str | None:
        name = self.headers.get("x-request-id")
        # What is no UTF-8 in a header comes as halves of surrogate pairs, which no file of UTF-8 can hold.
        return (
            name if name is None or name.isascii() else name.encode("utf-8", "surrogateescape").decode(errors="replace")
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an answer."""

    # `done`: a complete answer; `retry`: send again after a backoff, it counts as an attempt; `hold`: the account's
    # limit or an outage, wait and send again, it counts as none; `fail`: never send it again; `stop`: no request of the
    # run can succeed.
    kind: Kind
    code: str | None = None  # what was wrong, in one word; None when done
    message: str | None = None  # the same as a sentence
    wait: float | None = None  # seconds that the server asks for; None when it does not
    dimension: Dimension | None = None  # which limit refused, for a `hold`; None when the server does not say
    stop: type[RunStoppedError] | None = None  # the exception that ends the run, for a `stop`
    overload: bool = False  # whether it is one of the words of a server that is overloaded or away, for a `retry`
    broke: bool = False  # whether it says that the server broke, by itself or at this request, for a `retry`
    lasts: bool = False  # whether the limit that refused seems to be one of a day, for a `hold`

    def __post_init__(self) -> None:
        # They are the server's words, which go to logs, terminals and exceptions from here.
        for name, words in (("code", self.code), ("message", self.message)):
            if words is not None and not words.isprintable():
                object.__setattr__(self, name, printable(" ".join(words.split())))


DONE = Verdict("done")


class Sender(Protocol):
    """Whatever can put one request on the wire; a `Client` is one."""

    def send(self, request: APIRequest, /) -> Awaitable[Response]: ...


#: What JSON gives back as it is.
_PLAIN = (str, type(None))


class APIRequest:
    """One API call: what is sent, where to, and what the caller wants to find beside the answer.

    Args:
        request_json: the body of the call, as the API documents it. It is serialised at once: what the caller does with
            it afterwards changes nothing.
        metadata: anything JSON-able that travels beside the request into the results; the API never sees it.
        path: where to, below the base URL.
        sample: which of several samples of the same prompt this is; samples are different requests.

    Attributes:
        body: the bytes that are sent.
        model, tier: the body's `model` and `service_tier`; None where it has none, or no text there.
        key: the digest of path, body and sample, whatever the tier. Two requests with the same key ask the same thing.
        former_key: the key that it had before, where that hung on how a number is written or on the tier; else None.
        measure: gives the size when it is first asked for, since counting tokens takes longer than all else that is
            done to a request; None where nobody said how.
        asks_for: how many rows' answers it asks for.
        may_be_too_large: whether it asks for more of them than any that was answered, and may be divided.
        context: what whoever made it wants to have at hand again beside its result: the number of its line, the rows
            that travel in it, the answer that it is to mend. It is neither sent nor a part of the key.

    Raises:
        TypeError: `request_json` holds something that JSON cannot carry or is nested too deeply, or is no mapping.
        InvalidInputError: a field is given that it does not have, such as the ancestor's `task_id`.

    >>> one = APIRequest({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hi."}]})
    >>> one.body
    b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"Hi."}]}'
    >>> one.key == APIRequest({"messages": one.request_json["messages"], "model": "gpt-5-mini"}).key
    True
    """

    __slots__ = (
        "_json",
        "_size",
        "asks_for",
        "body",
        "context",
        "former_key",
        "key",
        "may_be_too_large",
        "measure",
        "metadata",
        "model",
        "path",
        "sample",
        "tier",
    )

    def __init__(
        self,
        request_json: Mapping[str, Any],
        metadata: Any = None,
        *,
        path: str = "chat/completions",
        sample: int = 0,
        **unknown: NoReturn,
    ) -> None:
        if unknown:
            raise _ancestors(unknown)
        if type(request_json) is not dict and not isinstance(request_json, Mapping):
            raise TypeError(f"a request's body is a mapping, and not {request_json!r:.100}")
        self._json: Mapping[str, Any] | None = None
        self.metadata = metadata
        self.path = path
        self.sample = sample
        self.body, canonical = body_and_canonical(request_json)
        # Asked for at every request, while the whole body need not be read back for most.
        self.model: str | None = request_json.get("model")
        self.tier: str | None = request_json.get("service_tier")
        if type(self.model) not in _PLAIN or type(self.tier) not in _PLAIN:
            self.request_json = self.request_json  # what JSON makes of them
        plain = former = alike(canonical) if b".0" in canonical else canonical
        if "service_tier" in request_json:
            plain = alike(dumps_strictly(without_tier(request_json), sort_keys=True))
        elif plain is not canonical:
            former = canonical
        self.key = request_key(path, plain, sample)
        self.former_key: str | None = None if former is plain else request_key(path, former, sample)
        self.measure: Callable[[APIRequest], Size] | None = None
        self._size: Size | None = None
        self.asks_for, self.may_be_too_large = 1, False
        self.context: object = None

    @classmethod
    def of_key(cls, key: str, path: str, sample: int = 0) -> APIRequest:
        """A request of which only the key is at hand, which is enough to find its answer."""
        request = cls.__new__(cls)
        request.key, request.path, request.sample, request.body = key, path, sample, b""
        request.asks_for, request.may_be_too_large = 1, False
        request.metadata = request.model = request.tier = request.former_key = None
        request.measure = request.context = request._size = request._json = None
        return request

    @property
    def request_json(self) -> Mapping[str, Any]:
        """The body as it is sent, read back from its bytes when it is first asked for."""
        if self._json is None:
            self._json = read_back(self.body)
        return self._json

    @request_json.setter
    def request_json(self, request_json: Mapping[str, Any]) -> None:
        """For a body that nobody else holds, which needs no reading back."""
        self._json = request_json
        model, tier = request_json.get("model"), request_json.get("service_tier")
        self.model = model if isinstance(model, str) else None
        self.tier = tier if isinstance(tier, str) else None

    @property
    def size(self) -> Size | None:
        """How large it is; None where nobody can tell."""
        if self._size is None and self.measure is not None:
            self._size = self.measure(self)
        return self._size

    @size.setter
    def size(self, size: Size | None) -> None:
        self._size = size

    def in_tier(self, tier: str) -> APIRequest:
        """The same request in another service tier. It asks the same thing, so it has the same key."""
        body = {**self.request_json, "service_tier": tier}
        return APIRequest(body, self.metadata, path=self.path, sample=self.sample)

    async def call_api(self, client: Sender) -> Response:
        """Send this request once, within the client's limits, and return what came back, good or bad.

        Raises nothing for an HTTP error or a broken connection: read `status`, `error_code` and `data`.
        """
        return await client.send(self)

    def __repr__(self) -> str:
        return f"APIRequest({self.path!r}, key={self.key!r})"


def without_tier(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a body asks for, whatever the service tier that it is sent in."""
    if "service_tier" not in body:
        return body
    return {name: value for name, value in body.items() if name != "service_tier"}


def _ancestors(names: Iterable[str]) -> InvalidInputError:
    return InvalidInputError(
        f'APIRequest has no {", ".join(names)}: write APIRequest(request_json, metadata, path="chat/completions"). '
        "Attempts are the client's, as in Client(max_attempts=5); the run counts the tokens and numbers the requests."
    )


def request_key(path: str, canonical_body: bytes, sample: int = 0) -> str:
    """The content digest of a request: 32 hexadecimal characters of BLAKE2b over path, sample and sorted body."""
    return blake2b(b"%b\n%b\n%d" % (canonical_body, path.encode(), sample), digest_size=16).hexdigest()


class Attempt(NamedTuple):
    """One send, as it is remembered."""

    at: float  # when it was sent, in seconds since 1970
    seconds: float  # how long the answer took
    waited: float  # seconds it stood waiting for capacity or for its backoff before it was sent
    status: int  # the HTTP status; 0 where no complete answer came
    error_code: str | None = None  # what was wrong with it; None where it was good
    request_id: str | None = None  # the server's name for it, for its support
    # What tells the cost of an answer that was billed and is none, such as one that broke off.
    bill: Mapping[str, Any] | None = None


class Result(NamedTuple):
    """What becomes of a request in the end."""

    request: APIRequest  # the request
    # `succeeded`: the server gave a complete answer; `failed`: it did not, and will not be asked again in this run;
    # `cancelled`: the run ended first.
    status: Status
    response: Any = None  # the answer's JSON, or None
    error_code: str | None = None  # why it failed, in one word
    error: str | None = None  # the same as a sentence
    errors: tuple[str, ...] = ()  # what went wrong at each send that did, as sentences
    attempts: tuple[Attempt, ...] = ()  # every send, the last one last
    raw: bytes | None = None  # the answer's bytes, on one line
    restored: bool = False  # it is in the journal already
    # Results of the same row that were no good and asked about once more, the first one first; of those read from the
    # journal, `response` holds only what tells the cost.
    earlier: tuple[Result, ...] = ()
    sent: APIRequest | None = None  # what was really sent, where that is not `request` but a repair of it
    usage: Usage | None = None  # what the server says that it took; None where it does not say, or gave no answer


class Ruling(NamedTuple):
    """What those who asked say of a result: what it comes to, in rows, and what is sent in its place.

    >>> together([accept(), reject("empty"), reject("empty")])
    Ruling(succeeded=1, failed={'empty': 2}, further=None)
    """

    succeeded: int = 0  # rows that have their answer
    # Rows that have none and will get none, by error code.
    failed: Mapping[str, int] = {}  # nobody writes into it
    further: APIRequest | None = None  # a request to be sent in the course of this one; it has a result of its own


def accept() -> Ruling:
    return Ruling(1)


def reject(code: str | None) -> Ruling:
    return Ruling(failed={code or "error": 1})


def replace_by(request: APIRequest) -> Ruling:
    return Ruling(further=request)


def ruling_of(result: Result) -> Ruling:
    """The ruling of those who have nothing to add to a result."""
    return accept() if result.status == "succeeded" else reject(result.error_code)


def together(rulings: Iterable[Ruling]) -> Ruling:
    """The rulings on the rows of one request, none of which is replaced."""
    succeeded, failed = 0, Counter[str]()
    for each in rulings:
        succeeded += each.succeeded
        failed.update(each.failed)
    return Ruling(succeeded, dict(failed))
