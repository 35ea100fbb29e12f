"""Hypothesis strategies for what servers and disks may return, and the properties that must hold regardless."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parallel_openai as po
from parallel_openai._frames.columns.answer_columns import Answers
from parallel_openai._frames.process import answer_reader
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._http.transport import Transport
from parallel_openai._journal.entry import JournalEntry, result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._json import loads
from parallel_openai._limits.limiter import Limiter
from parallel_openai._records import APIRequest, Response, Result, Size
from parallel_openai._requests.endpoints import ENDPOINTS, Endpoint
from parallel_openai._run.response_verdict import RetryPolicy
from parallel_openai._run.runner import End, Runner
from parallel_openai._run.spending.budget import Budget
from parallel_openai._run.spending.caps import prices_at
from parallel_openai.errors import JournalError, RunStoppedError
from tests.limits.virtual import VirtualLoop, run_virtually

PLACE = Path("journal.jsonl")
#: Cases that hypothesis tries in one go: it gets slow when it has many to tell apart.
PIECE = 1000
#: Virtual seconds that a few requests may take, whatever the server says: max_wait, and a day that a header may name.
PATIENCE = 400_000.0


def fuzz(check: Callable[..., None], cases: int) -> None:
    """Try so many cases, the smallest that fails being shown; each check has its strategies in CHECKS."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    for done in range(0, cases, PIECE):
        test = given(*CHECKS[check])(check)
        piece = min(PIECE, cases - done)
        settings(max_examples=piece, deadline=None, database=None, suppress_health_check=quiet)(test)()


def line(number: int, *, key: str | None = None, answer: Any = None) -> bytes:
    """A good line of a journal."""
    request = APIRequest({"model": "m", "messages": [{"role": "user", "content": f"Zoë asks {number}?"}]})
    record = {"key": key or request.key, "status": "succeeded", "attempts": [{"at": 1.0, "status": 200}]}
    body = {"choices": [{"message": {"content": "[{}]\\n"}}]} if answer is None else answer
    return json.dumps([request.request_json, body, None, record], ensure_ascii=False).encode() + b"\n"


LINES = [line(number) for number in range(20)]


# A journal.


def any_bytes_open_or_are_refused_and_no_whole_line_is_lost(content: bytes) -> None:
    PLACE.write_bytes(content)
    whole = [each for each in content.split(b"\n") if JournalEntry.read(each) is not None]
    try:
        with Journal(PLACE, sync="never") as journal:
            journal.append(LINES[0].strip())
    except JournalError:
        assert not whole
        assert PLACE.read_bytes() == content
        return
    after = PLACE.read_bytes()
    assert [each for each in after.split(b"\n") if JournalEntry.read(each) is not None] == [*whole, LINES[0].strip()]
    assert after.endswith(b"\n")
    known = KnownResults(PLACE, failures=True)
    known.close()
    assert LINES_KEY in known


LINES_KEY = json.loads(LINES[0])[3]["key"]


def whatever_a_line_holds_beside_its_request_stops_no_run(answer: Any, record: Any, endpoint: Endpoint) -> None:
    request = APIRequest({"model": "m", "messages": []})
    if isinstance(record, dict):
        record = {**record, "key": request.key}
    text = json.dumps([{"model": "m", "messages": []}, answer, None, record]).encode() + b"\n"
    PLACE.write_bytes(LINES[0] + text)
    known = KnownResults(PLACE, failures=True)
    result = known.get(request)
    known.close()
    assert (result is not None) == isinstance(record, dict)
    if result is not None:
        columns_of([result], endpoint)
    assert len(po.read_journal(PLACE)) == 2


# A server.


def whatever_a_server_answers_each_request_comes_to_its_end(answers: list[Response], endpoint: Endpoint) -> None:
    """Through the processor, the limiter, the budget, the journal's line and the cells, in virtual time."""
    loop, left = VirtualLoop(), iter(answers)
    results: list[Result] = []
    budget = Budget(tokens=1e9)
    limiter = Limiter(clock=loop.time)

    async def send(request: APIRequest, lease: object) -> Response:
        await asyncio.sleep(0.1)
        return next(left, GOOD)

    async def run() -> End:
        retry = RetryPolicy(max_wait=3600.0, random=lambda: 0.5)
        processor = Runner(
            send=send, limiter=limiter, on_result=results.append, retry=retry, budget=budget, clock=loop.time
        )
        return await processor.run(requests)

    requests = [sized(APIRequest({"model": "m", "n": number}, path=endpoint.path)) for number in range(2)]
    try:
        ended: str = run_virtually(run(), loop, within=PATIENCE)
    except RunStoppedError:
        ended = "stopped"
    if ended in ("budget", "stopped"):  # a server may say that an answer took more than there is
        results.extend(Result(request, "cancelled") for request in requests[len(results) :])
    assert len(results) == len(requests)
    assert math.isfinite(budget.spent_tokens)
    for result in results:
        assert (result.status == "failed") == bool(result.error_code)
        if result.status != "cancelled":
            entry = JournalEntry.read(result_line(result, record=True))
            assert entry is not None
            assert entry.body == loads(result.request.body)
            assert entry.key == result.request.key
    columns_of(results, endpoint)


def whatever_comes_over_the_wire_is_a_response(content: bytes, cut: bool) -> None:
    """Bytes in the place of an HTTP answer: a response or a named error, and soon."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(content)
        if cut:
            writer.transport.abort()
        else:
            writer.close()

    async def main() -> Response:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}/v1", {}, timeout=5.0, clock=asyncio.get_running_loop().time)
        try:
            return await asyncio.wait_for(transport.post("chat/completions", b"{}"), 6.0)
        finally:
            await transport.close()
            server.close()

    response = asyncio.run(main())
    assert (response.status == 0) == (response.error_code is not None)
    assert response.error_code != "timeout"
    if response.status == 0:
        assert str(response.error).endswith((".", "?"))


def columns_of(results: list[Result], endpoint: Endpoint) -> None:
    """Every cell of a frame is made of the results, so that nothing in them can stop it."""
    reader = answer_reader(RequestBuilder("text", "m", endpoint=endpoint))
    answers = Answers(len(results), 1, reader, prices_at("http://127.0.0.1/v1"))
    for slot, result in enumerate(results):
        if result.status != "cancelled":
            answers.fill(slot, result)
            answers.cost(result)
    assert {len(column) for column in answers.columns().values()} == {len(results)}


def sized(request: APIRequest) -> APIRequest:
    request.size = Size(10, 40, 20, 1)
    return request


USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
ANSWER = {"model": "m", "choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}], "usage": USAGE}


def response(status: int, headers: dict[str, str], body: bytes) -> Response:
    try:
        data = loads(body)
    except ValueError:
        data = None
    return Response(status, headers, body, data, 0.1)


GOOD = response(200, {}, json.dumps(ANSWER).encode())

pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(LINES),
    st.sampled_from(LINES).flatmap(lambda each: st.integers(0, len(each)).map(lambda end: each[:end])),
    st.just(b"\n"),
)
oddities = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries({}, optional=dict.fromkeys(("attempts", "error", "error_code", "status"), oddities))
ATTEMPTS = st.lists(st.dictionaries(st.sampled_from(["at", "seconds", "status", "request_id"]), oddities), max_size=3)


def objects(*names: str, inner: st.SearchStrategy[Any] = oddities) -> st.SearchStrategy[Any]:
    """Objects with these fields, each of which may be missing or anything."""
    return oddities | st.fixed_dictionaries({}, optional=dict.fromkeys(names, inner))


choices = objects("message", inner=objects("content", "refusal", "tool_calls") | oddities) | st.fixed_dictionaries(
    {"message": objects("content", "refusal", "role"), "finish_reason": st.sampled_from(["stop", "length", 5, None])}
)
usages = objects("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "input_tokens")
outputs = objects(
    "type", "content", "status", "summary", inner=st.lists(objects("type", "text", "refusal"), max_size=2)
)
endpoints = st.sampled_from(list(ENDPOINTS.values()))
bodies = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "output": st.lists(outputs, max_size=3) | oddities,
            "status": st.sampled_from(["completed", "incomplete", "failed", None, 5]),
            "incomplete_details": objects("reason"),
            "data": st.lists(objects("index", "embedding"), max_size=3) | oddities,
            "results": st.lists(objects("flagged", "categories", "category_scores"), max_size=3) | oddities,
            "choices": st.lists(objects("text", "index", "finish_reason"), max_size=2),
            "usage": usages,
            "service_tier": oddities,
        },
    ),
    st.fixed_dictionaries(
        {"choices": st.lists(choices, max_size=3) | oddities},
        optional={"usage": usages, "model": oddities, "system_fingerprint": oddities, "error": oddities},
    ),
    st.fixed_dictionaries({"error": objects("message", "type", "code", "param") | oddities}),
    oddities,
    st.just(ANSWER),
)
contents = st.one_of(
    bodies.map(lambda body: json.dumps(body).encode()),
    st.tuples(bodies, st.integers(0, 99)).map(lambda pair: json.dumps(pair[0]).encode()[: pair[1]]),
    st.binary(max_size=80),
)
values = st.one_of(
    st.floats().map(str),
    st.integers(-(10**9), 10**18).map(str),
    st.sampled_from(["1s", "6m0s", "120ms", "1h2m", "-1s", "1e400", "nan", "٣", "Wed, 21 Oct 2026 07:28:00 GMT", ""]),
    st.text(max_size=8),
)
HEADERS = (
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
    *("retry-after", "retry-after-ms", "x-should-retry", "location", "content-type", "x-request-id"),
)
headers = st.dictionaries(st.sampled_from(HEADERS), values, max_size=6)
statuses = st.sampled_from([200] * 8 + [201, 204, 301, 307, 400, 401, 403, 404, 408, 409, 413, 429, 429, 500, 503, 999])
broken = st.sampled_from(["connection_error", "timeout", "connection_refused", "tls_error", "response_too_large"]).map(
    lambda code: Response(0, {}, b"", None, 0.1, code, f"It broke ({code}).")
)
heads = st.one_of(
    st.just(b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n"),
    st.just(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    st.just(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n"),
    st.just(b"HTTP/1.0 500 \r\n\r\n"),
    st.binary(max_size=40),
    st.lists(st.tuples(st.sampled_from(HEADERS), values), max_size=4).map(
        lambda pairs: b"HTTP/1.1 200 OK\r\n" + b"".join(f"{n}: {v}\r\n".encode() for n, v in pairs) + b"\r\n"
    ),
)

#: Each check and what it is given.
CHECKS: dict[Callable[..., None], tuple[st.SearchStrategy[Any], ...]] = {
    any_bytes_open_or_are_refused_and_no_whole_line_is_lost: (st.lists(pieces, max_size=8).map(b"".join),),
    whatever_a_line_holds_beside_its_request_stops_no_run: (
        oddities,
        st.one_of(oddities, RECORDS, ATTEMPTS.map(lambda attempts: {"attempts": attempts})),
        endpoints,
    ),
    whatever_a_server_answers_each_request_comes_to_its_end: (
        st.lists(st.builds(response, statuses, headers, contents) | broken, max_size=5),
        endpoints,
    ),
    whatever_comes_over_the_wire_is_a_response: (
        st.tuples(heads, contents).map(b"".join) | st.binary(max_size=99),
        st.booleans(),
    ),
}
