"""The server of a life: it answers by the text alone, keeps a ledger of what it billed, and fails as the life says."""

from __future__ import annotations

import asyncio
import base64
import random
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict

from parallel_openai._requests.encodings import get_encoding
from parallel_openai.local.simulator.endpoints.counting import reserved, settled
from parallel_openai.local.simulator.limits.account import Account
from parallel_openai.local.simulator.refusals import rate_limited
from parallel_openai.local.simulator.settings import Settings
from tests.limits.virtual import VirtualLoop
from tests.simulation.life import AFTER_WORK, BEFORE_WORK, LABELS, Call, Life

Answer = tuple[int, Mapping[str, str], bytes]

#: Dollars for a token of the prompt and of the answer, as OpenAI's page of prices has them for the model of a life.
PRICES = {"gpt-4o-mini": (0.15e-6, 0.60e-6), "text-embedding-3-small": (0.02e-6, 0.0)}
CONTEXT_LENGTH = 300
DIMENSIONS = 4


@dataclass
class Bill:
    """What one request cost.

    Attributes:
        call: the number of the call that sent it.
        question: digests of what was asked, one for each input.
        tokens: of the prompt and of the answer.
        usd: dollars.
        told: whether the answer said what it cost.
        outcome: `working`, then `delivered`, or `lost` where no whole answer came.
        good: whether the answer, where it is delivered, is one.
        turn: of the loop, when it was delivered.
        seconds: that the server took for it.
    """

    call: int
    question: tuple[str, ...]
    tokens: tuple[int, int]
    usd: float
    told: bool = True
    outcome: str = "working"
    good: bool = True
    turn: int = 0
    seconds: float = 0.0


@dataclass
class Books:
    """What outlives the process of the client."""

    now: float
    lot: random.Random
    account: Account
    bills: list[Bill] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)  # good answers in the journals when the call began
    refused_in_call: int = 0
    sent: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)


def books_of(life: Life) -> Books:
    return Books(0.0, random.Random(life.seed + 1), Account(Settings(**life.limits), now=0.0))


class Server:
    """One call's view of it."""

    def __init__(self, life: Life, call: Call, number: int, books: Books, loop: VirtualLoop) -> None:
        self.life, self.call, self.number, self.books, self._loop = life, call, number, books, loop
        self._began = books.now
        self._flying: Counter[str] = Counter()
        each = life.samples * (2 if life.second == "same client" else 1)
        asked = Counter(question_of(text or "") for text in life.texts)
        #: How many answers each question may have. Lines of a file are answered one by one; like rows, together.
        self._wanted = {question: count if life.verb == "file" else each for question, count in asked.items()}

    def now(self) -> float:
        return self._loop.time()

    def tell(self, what: str) -> None:
        self.books.story.append(f"{self.now():10.3f} {what}")

    async def answer(self, path: str, body: bytes) -> Answer:
        request = orjson.loads(body)
        questions = tuple(map(question_of, inputs_of(request)))
        with self._flying_now(questions):
            return await self._answer(path, request, questions)

    @contextmanager
    def _flying_now(self, questions: tuple[str, ...]) -> Iterator[None]:
        for question in questions:
            done = self.books.kept[question] + self._flying[question]
            done += sum(
                question in bill.question
                for bill in self.books.bills
                if bill.call == self.number and bill.outcome == "delivered" and bill.good
            )
            if done >= self._wanted[question]:
                self.books.wrong.append(f"{question} is sent again, although {done} answers are there or on their way")
            self._flying[question] += 1
        try:
            yield
        finally:
            for question in questions:
                self._flying[question] -= 1

    async def _answer(self, path: str, request: Mapping[str, Any], questions: tuple[str, ...]) -> Answer:
        await asyncio.sleep(self.books.lot.uniform(0.0002, 0.003))
        now = self.now()
        self.books.sent.append(now)
        if (refusal := self._refusal(request, now)) is not None:
            self.tell(f"{questions} refused with {refusal[0]}")
            await asyncio.sleep(0.01)
            return refusal
        return await self._work(path, request, questions)

    def _refusal(self, request: Mapping[str, Any], now: float) -> Answer | None:
        down = self.call.down
        if down is not None and down[0] <= now - self._began < down[1]:
            return self._error(503, "The server is overloaded.")
        fault = self._drawn(BEFORE_WORK)
        if fault == "reset":
            raise aiohttp.ServerDisconnectedError
        if fault == "refused":
            raise aiohttp.ClientOSError(104, "Connection reset by peer")
        if fault is not None:
            return self._error(int(fault), "Something went wrong.")
        prompt = prompt_tokens(request)
        if prompt > CONTEXT_LENGTH * len(inputs_of(request)):
            return self._error(400, "This model's maximum context length is exceeded.", code="context_length_exceeded")
        account = self.books.account
        cost = self._cost(request, prompt)
        lack = account.lack(cost, now)
        if lack is None:
            return None
        self.books.refused_in_call += 1
        if account.settings.charge_refused:
            account.take_refused(now)
        said = rate_limited(lack, model="m", style="openai", retry_after=account.settings.retry_after)
        return 429, CIMultiDict({**account.headers(now), **said.headers}), orjson.dumps({"error": said.error()})

    def _cost(self, request: Mapping[str, Any], prompt: int) -> int:
        counting = self.books.account.settings.counting
        return reserved(counting, prompt_tokens=prompt, max_output=request.get("max_completion_tokens"), n=1)

    async def _work(self, path: str, request: Mapping[str, Any], questions: tuple[str, ...]) -> Answer:
        account, now = self.books.account, self.now()
        prompt = prompt_tokens(request)
        cost = self._cost(request, prompt)
        account.take(1, cost, now)
        headers = CIMultiDict(
            {**account.headers(now), "content-type": "application/json", "x-request-id": f"req_{now}"}
        )
        fault = self._drawn(AFTER_WORK)
        is_chat = path.endswith("chat/completions")
        answer, completion, good = _chat(request, fault) if is_chat else _vectors(request)
        price = PRICES[str(request["model"])]
        usd = prompt * price[0] + completion * price[1]
        bill = Bill(self.number, questions, (prompt, completion), usd, good=good)
        self.books.bills.append(bill)
        answer["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        if fault == "no_usage":
            bill.told = False
            del answer["usage"]
        try:
            bill.seconds = self.life.latency * self.books.lot.lognormvariate(0, self.life.sigma)
            await asyncio.sleep(bill.seconds)
            account.settle(
                settled(account.settings.counting, cost, total_tokens=prompt + completion) - cost,
                self.now(),
                taken_at=now,
            )
            return await self._deliver(bill, fault, headers, answer)
        except BaseException:
            bill.outcome = "lost"
            self.tell(f"{questions} lost ({fault})")
            raise

    async def _deliver(self, bill: Bill, fault: str | None, headers: Any, answer: dict[str, Any]) -> Answer:
        if fault == "lost":
            raise aiohttp.ServerDisconnectedError
        if fault == "hang":
            await asyncio.sleep(1e5)
        if fault == "cut_off":
            raise aiohttp.ClientPayloadError("Response payload is not completed")
        body = orjson.dumps(answer)
        if fault in ("html", "nothing"):
            bill.good = bill.told = False
            body = b"<html>Log in</html>" if fault == "html" else b"{}"
        if fault == "late_headers":  # of a proxy that kept them
            headers = CIMultiDict(
                {**headers, "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "59s"}
            )
        bill.outcome, bill.turn = "delivered", self._loop._jumping.turns
        self.tell(f"{bill.question} delivered ({fault})")
        return 200, headers, body

    def _drawn(self, names: tuple[str, ...]) -> str | None:
        number = self.books.lot.random()
        for name in names:
            number -= self.call.faults.get(name, 0.0)
            if number < 0:
                return name
        return None

    @staticmethod
    def _error(status: int, message: str, *, code: str | None = None) -> Answer:
        error = {"error": {"message": message, "type": "server_error", "code": code}}
        return status, CIMultiDict({"content-type": "application/json"}), orjson.dumps(error)


def inputs_of(request: Mapping[str, Any]) -> list[str]:
    """What is asked: the first message of the user, or each text that is embedded."""
    if "input" in request:
        given = request["input"]
        return [given] if isinstance(given, str) else list(given)
    return [next(each["content"] for each in request["messages"] if each["role"] == "user")]


def question_of(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def reply_to(text: str) -> str:
    """What is right to answer.

    >>> reply_to("Row 1")
    're: a47a9b1f8da1'
    """
    return f"re: {question_of(text)}"


def label_of(text: str) -> str:
    return LABELS[int(question_of(text), 16) % len(LABELS)]


def vector_of(text: str) -> list[float]:
    digest = blake2b(text.encode(), digest_size=DIMENSIONS).digest()
    return [byte / 256 for byte in digest]


def prompt_tokens(request: Mapping[str, Any]) -> int:
    count = get_encoding("o200k_base").encode_ordinary
    if "input" in request:
        count = get_encoding("cl100k_base").encode_ordinary
        return sum(len(count(text)) for text in inputs_of(request))
    return 3 + sum(4 + len(count(each["content"])) for each in request["messages"])


def _chat(request: Mapping[str, Any], fault: str | None) -> tuple[dict[str, Any], int, bool]:
    [text] = inputs_of(request)
    content, reason, good = reply_to(text), "stop", True
    if "response_format" in request:
        content = orjson.dumps({"label": label_of(text)}).decode()
        if fault == "off_label":
            content, good = '{"label":"nonsense"}', False
    if fault == "truncated":
        content, reason, good = content[:3], "length", False
    message = {"role": "assistant", "content": content, "refusal": None}
    answer = {
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }
    return answer, len(get_encoding("o200k_base").encode_ordinary(content)), good


def _vectors(request: Mapping[str, Any]) -> tuple[dict[str, Any], int, bool]:
    data = []
    for index, text in enumerate(inputs_of(request)):
        vector: Any = vector_of(text)
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    return {"object": "list", "model": request["model"], "data": data}, 0, True
