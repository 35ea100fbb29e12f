"""The server of a life: it answers by the text alone, keeps a ledger of what it billed, and fails as the life says."""

from __future__ import annotations

import asyncio
import errno
import math
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict

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
from tests.simulation.life import AFTER_WORK, BEFORE_WORK, BROKEN, Call, Life

Answer = tuple[int, Mapping[str, str], bytes]

_CAPS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_PLACE = ConnectionKey("127.0.0.1", 9, False, True, None, None, None)  # type: ignore[call-arg]
#: Codes of refusals that have one of their own.
_CODES = {"400": "content_policy_violation", "401": "invalid_api_key", "413": "request_too_large", "422": "bad_input"}


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
        self._stale: Mapping[str, str] | None = None
        each = life.samples * (2 if life.second in ("same client", "other model") else 1)
        asked = Counter(question_of(text or "") for text in life.texts)
        #: How many answers each question may have. Lines of a file are answered one by one; like rows, together.
        self._wanted = {question: count if life.verb == "file" else each for question, count in asked.items()}

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
            if (refusal := await self._refusal(request)) is not None:
                self.tell(f"{questions} refused with {refusal[0]}")
                await asyncio.sleep(0.01)
                return refusal
            return await self._work(path, request, questions)

    def see_that_it_is_wanted(self, questions: tuple[str, ...]) -> None:
        """Note where something is sent although its answers are there, or on their way."""
        for question in questions:
            done = self.books.kept[question] + self._flying[question] + self.books.owed(question)
            done += sum(
                question in bill.question
                for bill in self.books.bills
                if bill.came_in == self.number and bill.outcome == "delivered" and bill.good
            )
            if done >= self._wanted[question]:
                self.books.wrong.append(f"{question} is sent again, although {done} answers are there or on their way")

    @contextmanager
    def _flying_now(self, questions: tuple[str, ...]) -> Iterator[None]:
        self._flying.update(questions)
        try:
            yield
        finally:
            self._flying.subtract(questions)

    async def failure(self) -> Answer | None:
        """What goes wrong before any work: an answer, or an error of the connection."""
        down = self.call.down
        if down is not None and down[0] <= self.now() - self.began < down[1]:
            return error_of(503, "The server is overloaded.")
        fault = self.drawn(BEFORE_WORK)
        if fault is None or fault == "unavailable":
            return None
        if fault in BROKEN:
            await asyncio.sleep(15.0 if fault == "connect_timeout" else 0.0)
            raise connection_error(fault)
        if fault == "slow_down":
            return 429, CIMultiDict(), orjson.dumps({"error": slow_down().error()})
        if fault == "quota":
            return error_of(429, "You exceeded your current quota.", code="insufficient_quota")
        return error_of(int(fault), "Something went wrong.", code=_CODES.get(fault))

    async def _refusal(self, request: Mapping[str, Any]) -> Answer | None:
        if (failure := await self.failure()) is not None:
            return failure
        now, prompt = self.now(), prompt_tokens(request)
        if request.get("service_tier") == "flex" and self.drawn(("unavailable",)) is not None:
            return error_of(429, "Resource Unavailable", code="resource_unavailable")
        if prompt > CONTEXT_LENGTH * len(inputs_of(request)):
            return error_of(400, "This model's maximum context length is exceeded.", code="context_length_exceeded")
        account = self.books.account(str(request["model"]))
        lack = account.lack(self._cost(request, prompt), now)
        if lack is None:
            return None
        self.books.refused_in_call += 1
        if account.settings.charge_refused:
            account.take_refused(now)
        said = rate_limited(lack, model="m", style="openai", retry_after=account.settings.retry_after)
        return 429, CIMultiDict({**account.headers(now), **said.headers}), orjson.dumps({"error": said.error()})

    def _cost(self, request: Mapping[str, Any], prompt: int) -> int:
        cap = next((request[name] for name in _CAPS if name in request), None)
        return reserved(self.books.settings.counting, prompt_tokens=prompt, max_output=cap, n=1)

    async def _work(self, path: str, request: Mapping[str, Any], questions: tuple[str, ...]) -> Answer:
        account, now = self.books.account(str(request["model"])), self.now()
        cost = self._cost(request, prompt_tokens(request))
        account.take(1, cost, now)
        headers = self._headers(account, now)
        fault = self.drawn(AFTER_WORK)
        answer, good = answer_to(path, request, fault)
        prompt, completion = tokens_in(answer)
        bill = Bill(self.number, questions, (prompt, completion), usd_of(request, prompt, completion), good=good)
        self.books.bills.append(bill)
        if fault in ("no_usage", "error_in_200"):
            bill.told = False
            del answer["usage"]
        try:
            bill.seconds = self.life.latency * self.books.lot.lognormvariate(0, self.life.sigma)
            wait = bill.seconds * (60.0 if fault == "slow" else 1.0)
            bill.due = math.inf if fault == "hang" else now + wait
            await asyncio.sleep(wait)
            account.settle(
                settled(account.settings.counting, cost, total_tokens=prompt + completion) - cost,
                self.now(),
                taken_at=now,
            )
            return await self._deliver(bill, fault, headers, answer)
        except BaseException as error:
            bill.outcome = "left" if isinstance(error, asyncio.CancelledError) else "lost"
            self.tell(f"{questions} {bill.outcome} ({fault})")
            raise

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
