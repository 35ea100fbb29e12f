"""The records that cross rooms. Those made for every row are named tuples, which are four times as fast to make."""

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
    """The size of a request, in every measure that a server may charge by."""

    prompt_tokens: int  # tokens of what is sent
    characters: int  # characters of what is sent
    max_output_tokens: int | None  # the request's cap on each answer; None without one
    choices: int  # how many answers are asked for (`n`)


class Usage(NamedTuple):
    """The usage of an answer, in every class that may have a price of its own."""

    prompt_tokens: int = 0  # all of them, of every class
    completion_tokens: int = 0  # all of them, including reasoning however it was reported
    reasoning_tokens: int = 0  # of these, reasoning
    cached_tokens: int = 0  # of the prompt, read from a cache
    cache_write_tokens: int = 0  # of the prompt, written to a cache
    cache_write_1h_tokens: int = 0  # of these, to be kept for an hour
    # Of the prompt.
    audio_prompt_tokens: int = 0
    image_prompt_tokens: int = 0
    # Of the completion.
    audio_completion_tokens: int = 0
    image_completion_tokens: int = 0
    # Searches of the web and of files at the server, which cost a fee each.
    searches: int = 0
    file_searches: int = 0
    tool_runs: int = 0  # calls of the server's other tools, such as a code interpreter, whose fees are not known

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Response(NamedTuple):
    """The outcome of one send: an HTTP answer, or the reason why there is none.

    Attributes:
        status: the HTTP status; 0 without a complete answer.
        headers: the answer's headers, looked up without regard to case.
        body: the answer's bytes as they came.
        data: the parsed JSON of the body; None if it is not JSON.
        seconds: from the send to the last byte.
        error_code: why no answer came (`timeout`, `connection_error`, ...), else None.
        error: the same as a sentence; for an HTTP answer, what we know of its cause and the server does not say.
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
        # Bytes of a header that are not UTF-8 become lone surrogates, which a UTF-8 file cannot hold.
        return (
            name if name is None or name.isascii() else name.encode("utf-8", "surrogateescape").decode(errors="replace")
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an answer."""

    # `done`: a complete answer; `retry`: send again after a backoff, as another attempt; `hold`: the account's limit or
    # an outage, wait and send again, not as an attempt; `fail`: do not send it again; `stop`: no request of the run can
    # succeed.
    kind: Kind
    code: str | None = None  # what was wrong; None if done
    message: str | None = None  # the same as a sentence
    wait: float | None = None  # seconds that the server asks for
    dimension: Dimension | None = None  # which limit refused, for a `hold`; None if unknown
    stop: type[RunStoppedError] | None = None  # the exception that ends the run, for a `stop`
    overload: bool = False  # whether the server is overloaded or away, for a `retry`
    broke: bool = False  # whether the server broke, by itself or at this request, for a `retry`
    lasts: bool = False  # whether the limit that refused seems to be a daily one, for a `hold`

    def __post_init__(self) -> None:
        # These are the server's words, which go to logs, terminals and exceptions.
        for name, words in (("code", self.code), ("message", self.message)):
            if words is not None and not words.isprintable():
                object.__setattr__(self, name, printable(" ".join(words.split())))


DONE = Verdict("done")


class Sender(Protocol):
    """Anything that can send a request, such as a `Client`."""

    def send(self, request: APIRequest, /) -> Awaitable[Response]: ...


#: Types that JSON does not change.
_PLAIN = (str, type(None))


class APIRequest:
    """One API call: what is sent, where to, and what is kept beside the answer.

    Args:
        request_json: the body of the call, as the API documents it. It is serialised at once: what the caller does with
            it afterwards changes nothing.
        metadata: anything JSON-able that is kept beside the request in the results; the API never sees it.
        path: where to, below the base URL.
        sample: which of several samples of the same prompt this is; samples are different requests.

    Attributes:
        body: the bytes that are sent.
        model, tier: the body's `model` and `service_tier`; None if they are missing or not strings.
        key: the digest of path, body and sample, whatever the tier. Two requests with the same key ask the same thing.
        former_key: the key in earlier versions, if it depended on the spelling of a number or on the tier; else None.
        measure: returns the size when it is first needed, since counting tokens takes longer than all else that is
            done to a request; None if unknown.
        asks_for: the number of rows whose answers it asks for.
        may_be_too_large: whether it has more rows than any request answered so far, and may be divided.
        context: what its maker needs again with its result: the number of its line, the rows packed in it, the answer
            that it is to repair. It is neither sent nor a part of the key.

    Raises:
        TypeError: `request_json` is not a mapping, is nested too deeply, or holds something that JSON cannot.
        InvalidInputError: there is no such field, as the ancestor's `task_id`.

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
        # Needed for every request, while the whole body is read back only for some.
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
        """A request of which only the key is known, which is enough to find its answer."""
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
        """Set a body that nobody else holds, so that it need not be read back."""
        self._json = request_json
        model, tier = request_json.get("model"), request_json.get("service_tier")
        self.model = model if isinstance(model, str) else None
        self.tier = tier if isinstance(tier, str) else None

    @property
    def size(self) -> Size | None:
        """The size; None if unknown."""
        if self._size is None and self.measure is not None:
            self._size = self.measure(self)
        return self._size

    @size.setter
    def size(self, size: Size | None) -> None:
        self._size = size

    def in_tier(self, tier: str) -> APIRequest:
        """The same request, with the same key, in another service tier."""
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
    """A body without its service tier."""
    if "service_tier" not in body:
        return body
    return {name: value for name, value in body.items() if name != "service_tier"}


def _ancestors(names: Iterable[str]) -> InvalidInputError:
    return InvalidInputError(
        f'APIRequest has no {", ".join(names)}: write APIRequest(request_json, metadata, path="chat/completions"). '
        "Attempts are the client's, as in Client(max_attempts=5); the run counts the tokens and numbers the requests."
    )


def request_key(path: str, canonical_body: bytes, sample: int = 0) -> str:
    """The digest of a request: 32 hexadecimal characters of BLAKE2b over path, sample and sorted body."""
    return blake2b(b"%b\n%b\n%d" % (canonical_body, path.encode(), sample), digest_size=16).hexdigest()


class Attempt(NamedTuple):
    """The record of one send."""

    at: float  # when it was sent, in seconds since 1970
    seconds: float  # until the answer
    waited: float  # seconds of waiting for capacity or for the backoff before the send
    status: int  # the HTTP status; 0 without a complete answer
    error_code: str | None = None  # what was wrong; None if nothing was
    request_id: str | None = None  # the server's, for its support
    # The fields that tell the cost of an unusable answer that was billed, such as one that broke off.
    bill: Mapping[str, Any] | None = None


class Result(NamedTuple):
    """The final outcome of a request."""

    request: APIRequest
    # `succeeded`: there is a complete answer; `failed`: there is none, and the request is not sent again in this run;
    # `cancelled`: the run ended first.
    status: Status
    response: Any = None  # the answer's JSON, or None
    error_code: str | None = None  # why it failed
    error: str | None = None  # the same as a sentence
    errors: tuple[str, ...] = ()  # the error of each failed send, as sentences
    attempts: tuple[Attempt, ...] = ()  # every send, in order
    raw: bytes | None = None  # the answer's bytes, on one line
    restored: bool = False  # whether it is in the journal already
    # Earlier results of the row, which were unusable, in order; from the journal, `response` has only what tells
    # the cost.
    earlier: tuple[Result, ...] = ()
    sent: APIRequest | None = None  # what was sent, if that is a repair of `request`
    usage: Usage | None = None  # as the server reports it; None if it does not


class Ruling(NamedTuple):
    """What the caller makes of a result: the rows it counts for, and a request to send in its place.

    >>> together([accept(), reject("empty"), reject("empty")])
    Ruling(succeeded=1, failed={'empty': 2}, further=None)
    """

    succeeded: int = 0  # rows that have their answer
    # Rows that will get none, by error code.
    failed: Mapping[str, int] = {}  # nobody writes into it
    further: APIRequest | None = None  # a request to send in place of this one; it has a result of its own


def accept() -> Ruling:
    return Ruling(1)


def reject(code: str | None) -> Ruling:
    return Ruling(failed={code or "error": 1})


def ruling_of(result: Result) -> Ruling:
    """The ruling on a result as it is."""
    return accept() if result.status == "succeeded" else reject(result.error_code)


def together(rulings: Iterable[Ruling]) -> Ruling:
    """The rulings on the rows of one request, none of which is replaced."""
    succeeded, failed = 0, Counter[str]()
    for each in rulings:
        succeeded += each.succeeded
        failed.update(each.failed)
    return Ruling(succeeded, dict(failed))
