"""The server of a life: its answer depends on the text alone, it records what it bills, and fails as the seed says."""

from __future__ import annotations

import asyncio
import errno
import math
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import aiohttp
import orjson
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict

from parallel_openai._http.deadlines import LATE
from parallel_openai._http.transport import CONNECT_TIMEOUT
from parallel_openai.local.simulator.endpoints.counting import reserved, settled
from parallel_openai.local.simulator.limits.account import Account
from parallel_openai.local.simulator.refusals import rate_limited, slow_down
from tests.limits.virtual import VirtualLoop
from tests.simulation.answers import (
    CONTEXT_LENGTH,
    answer_to,
    inputs_of,
    prompt_tokens,
    question_of,
    tokens_in,
    usd_of,
)
from tests.simulation.books import Bill, Books
from tests.simulation.life import (
    AFTER_WORK,
    BEFORE_WORK,
    BREAKS,
    BROKEN,
    LATER,
    SECONDS_LATER,
    ZERO_LIMITS,
    Call,
    Life,
)

Answer = tuple[int, Mapping[str, str], bytes]

_CAPS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_PLACE = ConnectionKey("127.0.0.1", 9, False, True, None, None, None)  # type: ignore[call-arg]
_ZERO_LIMITS = {
    f"x-ratelimit-{said}-{dimension}": "0" for said in ("limit", "remaining") for dimension in ("requests", "tokens")
}
#: Who sends: a run of several beside each other, or a worker of a cluster. Each judges by what came to itself.
SENDER: ContextVar[str] = ContextVar("SENDER", default="")
#: Codes of refusals that have one of their own.
_CODES = {"400": "content_policy_violation", "401": "invalid_api_key", "413": "request_too_large", "422": "bad_input"}


class Came(NamedTuple):
    """What came back of a send: a good answer; or of a server that breaks, by itself or at what it was asked."""

    sender: tuple[str, str]  # and the model
    questions: tuple[str, ...]
    at: float
    broke: bool


class Server:
    """One call's view of it.

    Args:
        kill: ends the client's process.
    """

    def __init__(
        self, life: Life, call: Call, number: int, books: Books, loop: VirtualLoop, kill: Callable[[], None]
    ) -> None:
        self.life, self.call, self.number, self.books, self._loop = life, call, number, books, loop
        self.kill, self.began = kill, books.now
        self._flying: Counter[str] = Counter()
        self._in_flight = self._at_work = 0
        self._stale: Mapping[str, str] | None = None
        self._not_before: dict[str, float] = {}  # as questions were told
        self.came: list[Came] = []  # in the order in which it came
        self._most_at_once = life.given.get("max_concurrent_requests", 500) * (1 if life.second is None else 2)
        self._most_at_once += life.lane == "ray"  # half of it, rounded up, for each of two workers
        each = life.samples * (2 if life.second in ("same client", "other model", "compared") else 1)
        asked = Counter(question_of(text or "") for text in life.texts)
        #: How many answers each question may have. Lines of a file are answered one by one; like rows, together.
        self.wanted = {question: count if life.verb == "file" else each for question, count in asked.items()}

    def now(self) -> float:
        return self._loop.time()

    @property
    def turn(self) -> int:
        return self._loop._jumping.turns

    def tell(self, what: str) -> None:
        self.books.story.append(f"{self.now():10.3f} {what}")

    async def answer(self, path: str, body: bytes) -> Answer:
        request = orjson.loads(body)
        questions = tuple(map(question_of, inputs_of(request)))
        self.see_that_it_is_wanted(questions)
        with self._flying_now(questions):
            await asyncio.sleep(self.books.lot.uniform(0.0002, 0.003))
            self.books.sent.append(self.now())
            if self._in_flight > self._most_at_once:
                self.books.wrong.append(f"{self._in_flight} are in flight where {self._most_at_once} may be")
            if (refusal := await self._refusal(request, questions)) is not None:
                self.tell(f"{questions} refused with {refusal[0]}")
                await asyncio.sleep(0.01)
                if refusal[0] == 500:
                    self._note(request, questions, broke=True)
                return refusal
            return await self._work(path, request, questions)

    def _note(self, request: Mapping[str, Any], questions: tuple[str, ...], *, broke: bool) -> None:
        self.came.append(Came((SENDER.get(), str(request["model"])), questions, self.now(), broke))

    def see_that_it_is_wanted(self, questions: tuple[str, ...]) -> None:
        """Note where something is sent although its answers are there, or on their way."""
        for question in questions:
            done = self.books.kept[question] + self._flying[question] + self.books.owed(question)
            done += sum(
                question in bill.question
                for bill in self.books.bills
                if bill.came_in == self.number and bill.outcome == "delivered" and bill.good
            )
            if done >= self.wanted[question]:
                self.books.wrong.append(f"{question} is sent again, although {done} answers are there or on their way")

    @contextmanager
    def _flying_now(self, questions: tuple[str, ...]) -> Iterator[None]:
        self._flying.update(questions)
        self._in_flight += 1
        try:
            yield
        finally:
            self._flying.subtract(questions)
            self._in_flight -= 1

    async def failure(self) -> Answer | None:
        """What goes wrong before any work: an answer, or an error of the connection."""
        down = self.call.down
        is_down = down is not None and down[0] <= self.now() - self.began < down[1]
        fault = self.call.down_as if is_down else self.drawn(BEFORE_WORK)
        if fault is None or fault == "unavailable":
            return None
        if fault == "connect_timeout":
            began = self.now()
            await asyncio.sleep(CONNECT_TIMEOUT)
            if self.now() - began > CONNECT_TIMEOUT + LATE and began in self.books.sent:
                self.books.sent.remove(began)  # the process was suspended, and connects again in the same attempt
        if fault in BROKEN:
            raise connection_error(fault)
        if fault == "slow_down":
            return 429, CIMultiDict(), orjson.dumps({"error": slow_down().error()})
        if fault == "quota":
            return error_of(429, "You exceeded your current quota.", code="insufficient_quota")
        message = "The server is overloaded." if is_down else "Something went wrong."
        return error_of(int(fault), message, code=_CODES.get(fault))

    def _failure_of_row(self, questions: tuple[str, ...]) -> Answer | None:
        """Of a row that breaks the server each time; or one that says when to come again, which is to be heeded."""
        now, faults = self.now(), self.call.faults
        for question in questions:
            if now < self._not_before.get(question, 0.0):
                self.books.wrong.append(f"{question} is sent before the server said")
        if BREAKS in faults and any(int(each, 16) % 100 < 100 * faults[BREAKS] for each in questions):
            return error_of(500, "Something went wrong.")
        if LATER not in faults or self.drawn((LATER,)) is None:
            return None
        if self.life.second is None and not self.call.deaths:
            waits = [each for each in questions if self.wanted[each] == 1]
            self._not_before.update(dict.fromkeys(waits, now + SECONDS_LATER))
        status, headers, body = error_of(503, "The server is overloaded.")
        return status, CIMultiDict({**headers, "retry-after": f"{SECONDS_LATER:.0f}"}), body

    async def _refusal(self, request: Mapping[str, Any], questions: tuple[str, ...]) -> Answer | None:
        if (failure := await self.failure()) is not None:
            return failure
        if (failure := self._failure_of_row(questions)) is not None:
            return failure
        if self.life.slots is not None and self._at_work >= self.life.slots:
            return self._full()
        now, prompt = self.now(), prompt_tokens(request)
        if request.get("service_tier") == "flex" and self.drawn(("unavailable",)) is not None:
            return error_of(429, "Resource Unavailable", code="resource_unavailable")
        if prompt > CONTEXT_LENGTH * len(inputs_of(request)):
            return error_of(400, "This model's maximum context length is exceeded.", code="context_length_exceeded")
        account = self.books.account(str(request["model"]))
        lack = account.lack(self._cost(request, prompt), now)
        if lack is None:
            return None
        self.books.refused.append(now)
        if account.settings.charge_refused:
            account.take_refused(now)
        said = rate_limited(lack, model="m", style="openai", retry_after=account.settings.retry_after)
        return 429, CIMultiDict({**account.headers(now), **said.headers}), orjson.dumps({"error": said.error()})

    def _full(self) -> Answer:
        self.books.full.append(self.now())
        status, seconds = self.life.full_as
        _, headers, body = error_of(status, "Too many requests at once.")
        return status, CIMultiDict({**headers, **({} if seconds is None else {"retry-after": seconds})}), body

    def _cost(self, request: Mapping[str, Any], prompt: int) -> int:
        cap = next((request[name] for name in _CAPS if name in request), None)
        return reserved(self.books.settings.counting, prompt_tokens=prompt, max_output=cap, n=1)

    async def _work(self, path: str, request: Mapping[str, Any], questions: tuple[str, ...]) -> Answer:
        account, now = self.books.account(str(request["model"])), self.now()
        cost = self._cost(request, prompt_tokens(request))
        account.take(1, cost, now)
        headers = self._headers(account, now)
        fault = self.drawn((*AFTER_WORK, ZERO_LIMITS))
        answer, good = answer_to(path, request, fault)
        prompt, completion = tokens_in(answer)
        bill = Bill(self.number, questions, (prompt, completion), usd_of(request, prompt, completion), good=good)
        self.books.bills.append(bill)
        if fault in ("no_usage", "error_in_200"):
            bill.told = False
            del answer["usage"]
        self._at_work += 1
        try:
            bill.seconds = self.life.latency * self.books.lot.lognormvariate(0, self.life.sigma)
            bill.seconds *= 60.0 if fault == "slow" else 1.0
            bill.due = math.inf if fault == "hang" else now + bill.seconds
            await asyncio.sleep(bill.seconds)
            account.settle(
                settled(account.settings.counting, cost, total_tokens=prompt + completion) - cost,
                self.now(),
                taken_at=now,
            )
            delivered = await self._deliver(bill, fault, headers, answer)
            if bill.good:
                self._note(request, questions, broke=False)
            return delivered
        except BaseException as error:
            bill.outcome = "left" if isinstance(error, asyncio.CancelledError) else "lost"
            self.tell(f"{questions} {bill.outcome} ({fault})")
            raise
        finally:
            self._at_work -= 1

    def _headers(self, account: Account, now: float) -> Mapping[str, str]:
        headers = {**account.headers(now), "content-type": "application/json", "x-request-id": f"req_{now}"}
        self._stale = self._stale or headers
        return headers

    async def _deliver(
        self, bill: Bill, fault: str | None, headers: Mapping[str, str], answer: dict[str, Any]
    ) -> Answer:
        if fault == "lost":
            raise aiohttp.ServerDisconnectedError
        if fault == "hang":
            await asyncio.sleep(1e5)
        if fault == "cut_off":
            raise aiohttp.ClientPayloadError("Response payload is not completed")
        body = orjson.dumps(answer)
        if fault in ("html", "nothing", "error_in_200"):
            bill.good = bill.told = False
            error = {"error": {"message": "Provider returned an error", "code": 502}}
            body = {"html": b"<html>Log in</html>", "nothing": b"{}"}.get(fault) or orjson.dumps(error)
        if fault == "late_headers":  # of a proxy that kept them
            headers = {**headers, "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "59s"}
        elif fault == "stale_headers":  # of the first answer, for whatever was spent since
            headers = self._stale or headers
        elif fault == ZERO_LIMITS:
            headers = {**headers, **_ZERO_LIMITS}
        elif fault == "no_headers":
            headers = {"content-type": "application/json"}
        bill.deliver(self.number, self.turn)
        self.tell(f"{bill.question} delivered ({fault})")
        return 200, CIMultiDict(headers), body

    def drawn(self, names: tuple[str, ...], faults: Mapping[str, float] | None = None) -> str | None:
        number = self.books.lot.random()
        for name in names:
            number -= (self.call.faults if faults is None else faults).get(name, 0.0)
            if number < 0:
                return name
        return None


def error_of(status: int, message: str, *, code: str | None = None) -> Answer:
    error = {"error": {"message": message, "type": "server_error", "code": code}}
    return status, CIMultiDict({"content-type": "application/json"}), orjson.dumps(error)


def connection_error(fault: str) -> Exception:
    """What aiohttp raises where the connection breaks, or never comes about."""
    return {
        "reset": aiohttp.ServerDisconnectedError(),
        "refused": aiohttp.ClientConnectorError(_PLACE, OSError(errno.ECONNREFUSED, "Connection refused")),
        "dns": aiohttp.ClientConnectorDNSError(_PLACE, OSError(-3, "Temporary failure in name resolution")),
        "tls": aiohttp.ClientConnectorSSLError(_PLACE, ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR]")),
        "connect_timeout": aiohttp.ConnectionTimeoutError(),
    }[fault]
