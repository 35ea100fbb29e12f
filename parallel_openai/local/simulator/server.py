"""The simulated API: checks the key and the limits of a request, injects its fault, and answers."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, sha256
from typing import Any

import orjson
from aiohttp import web

from parallel_openai.local.simulator import refusals
from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.endpoints import counting
from parallel_openai.local.simulator.endpoints.chat import CHAT
from parallel_openai.local.simulator.endpoints.completions import COMPLETIONS
from parallel_openai.local.simulator.endpoints.embeddings import EMBEDDINGS
from parallel_openai.local.simulator.endpoints.endpoint import Answer, Endpoint, ParsedBody
from parallel_openai.local.simulator.endpoints.moderations import MODERATIONS
from parallel_openai.local.simulator.endpoints.responses import RESPONSES
from parallel_openai.local.simulator.faults import faults
from parallel_openai.local.simulator.faults.scripts import Scripted, Scripts
from parallel_openai.local.simulator.limits.account import Account, Lack
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.settings import Settings
from parallel_openai.local.simulator.statistics import Ledger

# Add an endpoint here.
ENDPOINTS: tuple[Endpoint, ...] = (CHAT, RESPONSES, EMBEDDINGS, COMPLETIONS, MODERATIONS)
JSON = "application/json"


@dataclass
class Call:
    request: web.Request
    raw: bytes
    digest: bytes
    arrived: float
    script: Scripted | None
    headers: dict[str, str]
    fault: str | None = None
    reserved: float = 0.0
    counted: bool = True


class Simulator:
    """The state of the server and its request handlers. It opens no socket and starts no task."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.perf_counter) -> None:
        self.settings = settings
        self.clock = clock
        self.scripts = Scripts()
        self._request_number = 0
        self.reset()

    def add_routes(self, application: web.Application) -> None:
        for endpoint in ENDPOINTS:
            application.router.add_post(endpoint.path, partial(self._handle, endpoint=endpoint))

    def now(self) -> float:
        """Seconds since the start or the last reset."""
        return self.clock() - self._origin

    def reset(self) -> None:
        """Clear the statistics and refill the budgets; settings and scripts stay."""
        self._origin = self.clock()
        self.ledger = Ledger()
        self.account = Account(self.settings, now=0.0)
        self.fault_sampler = faults.FaultSampler(self.settings)
        self._recent: deque[float] = deque()
        self._flex_rng = random.Random(self.settings.seed)

    def change(self, changes: Mapping[str, Any]) -> None:
        self.settings = self.settings.changed(**changes)
        self.account.change(self.settings, self.now())
        self.fault_sampler.change(self.settings)

    def stats(self, *, with_charged: bool = True) -> dict[str, Any]:
        now, ledger = self.now(), self.ledger
        allowed: dict[str, float | None] = {"requests": None, "tokens": None}
        if ledger.first_received is not None and ledger.last_received is not None:
            allowed = self.account.allowed(ledger.first_received, ledger.last_received)
        spent = {"requests": float(ledger.accepted), "tokens": ledger.tokens_charged}
        return {
            "seconds": now,
            **ledger.stats(with_charged=with_charged and self.settings.keep_charged),
            "allowed": allowed,
            "utilisation": {name: spent[name] / limit if limit else None for name, limit in allowed.items()},
            "levels": self.account.levels(now),
            "settings": self.settings.as_dict(),
        }

    async def _handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        ledger = self.ledger
        ledger.connected(request.transport)
        if self._in_outage():
            return self._reset_connection(request)
        raw = await request.read()
        now = self.now()
        self.account.record(now)
        ledger.arrive(now)
        self._request_number += 1
        headers = {"x-request-id": f"req_simulated{self._request_number:010d}", "x-simulated": "true"}
        call = Call(request, raw, sha256(raw).digest(), now, self.scripts.next(raw), headers)
        try:
            return await self._answer(call, endpoint)
        except Refusal as refusal:
            return await self._refuse(call, refusal)
        except asyncio.CancelledError:
            ledger.disconnected += 1
            raise
        finally:
            ledger.leave()

    async def _answer(self, call: Call, endpoint: Endpoint) -> web.StreamResponse:
        if call.script is not None:
            self.ledger.scripted += 1
            if not call.script.is_ordinary:
                return await self._scripted(call, call.script)
        self.check_key(call.request)
        parsed = endpoint.read(checks.json_object(call.raw), self.settings)
        self._admit(call, parsed)
        await self._wait(call)
        if self._in_outage():
            return self._reset_connection(call.request)
        if call.fault in faults.FAILED:
            raise refusals.by_status(int(call.fault))
        if call.fault == "reset":
            return faults.reset(call.request)
        if call.fault == "hang":
            await asyncio.sleep(self.settings.hang_seconds)
            return faults.reset(call.request)
        rng = random.Random(self._seed(call.digest))
        flaw = call.fault if call.fault in faults.FLAWS else None
        answer = endpoint.answer(parsed, self.settings, rng, flaw)
        self._settle(call, answer)
        return await self._deliver(call, parsed, answer)

    def check_key(self, request: web.Request) -> None:
        if self.settings.required_api_key is None:
            return
        given = request.headers.get("api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if given != self.settings.required_api_key:
            raise refusals.invalid_api_key(given)

    def _admit(self, call: Call, parsed: ParsedBody) -> None:
        """Take the request's cost from the budgets, or refuse it."""
        settings, now = self.settings, call.arrived
        if settings.insufficient_quota_after is not None and self.ledger.accepted >= settings.insufficient_quota_after:
            raise refusals.insufficient_quota()
        if settings.slow_down_above is not None and self._rate(now) >= settings.slow_down_above:
            raise refusals.slow_down()
        if parsed.body.get("service_tier") == "flex" and self._flex_rng.random() < settings.flex_unavailable:
            raise refusals.resource_unavailable()
        call.reserved = counting.reserved(
            settings.counting, prompt_tokens=parsed.prompt_tokens, max_output=parsed.max_output, n=parsed.n
        )
        if (lack := self.account.lack(call.reserved, now)) is not None:
            if settings.charge_refused:
                self.account.take_refused(now)
            raise self._rate_limited(lack, parsed.model)
        call.fault = self._draw_fault(call)
        if call.fault == "slow_down":
            raise refusals.slow_down()
        if call.fault == "429":
            raise self._without_cause(parsed.model)
        call.counted = settings.charge_failed or call.fault not in faults.FAILED
        if call.counted:
            self.account.take(1, call.reserved, now)
            self.ledger.accept(now, call.reserved)
            if settings.slow_down_above is not None:
                self._recent.append(now)
        call.headers.update(self.account.headers(now))

    def _draw_fault(self, call: Call) -> str | None:
        fault = call.script.fault if call.script and call.script.fault else self.fault_sampler.draw(call.digest)
        if fault is not None:
            self.ledger.faults[fault] += 1
        return fault

    def _rate_limited(self, lack: Lack, model: str) -> Refusal:
        return refusals.rate_limited(
            lack, model=model, style=self.settings.error_style, retry_after=self.settings.retry_after
        )

    def _without_cause(self, model: str) -> Refusal:
        limit = self.settings.max_requests_per_minute or 0
        refusal = self._rate_limited(Lack("requests", "min", limit, limit, 1, 1.0), model)
        if not self.settings.fault_429_retry_after:
            refusal.headers = {}
        return refusal

    def _rate(self, now: float) -> int:
        """Requests accepted in the last second."""
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        return len(self._recent)

    async def _wait(self, call: Call) -> None:
        seconds = self.settings.latency
        if self.settings.latency_sigma:
            rng = random.Random(self._seed(call.digest, b"latency"))
            seconds *= math.exp(rng.gauss(0, self.settings.latency_sigma))
        if call.script is not None and call.script.latency is not None:
            seconds = call.script.latency
        if seconds <= 0:
            return
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            # The client is gone, but the model has worked and is billed.
            self._bill(call.digest, delivered=False)
            raise

    def _seed(self, digest: bytes, purpose: bytes = b"") -> int:
        seed = self.settings.seed.to_bytes(16, "little", signed=True)
        return int.from_bytes(blake2b(seed + digest + purpose, digest_size=8).digest(), "little")

    def _settle(self, call: Call, answer: Answer) -> None:
        total = answer.prompt_tokens + answer.completion_tokens
        final = counting.settled(self.settings.counting, int(call.reserved), total_tokens=total)
        if (difference := final - call.reserved) and call.counted:
            now = self.now()
            self.account.settle(difference, now, taken_at=call.arrived)
            self.ledger.charge_tokens(now, difference)
        self.ledger.prompt_tokens += answer.prompt_tokens
        self.ledger.completion_tokens += answer.completion_tokens

    def _bill(self, digest: bytes, *, delivered: bool) -> None:
        if self.settings.keep_charged:
            self.ledger.bill(digest, delivered=delivered)

    async def _deliver(self, call: Call, parsed: ParsedBody, answer: Answer) -> web.StreamResponse:
        request, fault = call.request, call.fault
        call.headers["openai-processing-ms"] = str(int((self.now() - call.arrived) * 1000))
        gone = request.transport is None or request.transport.is_closing()
        complete = fault is None or fault in faults.FLAWS or fault == "close_keepalive"
        if complete or fault in ("truncated", "malformed"):
            self._bill(call.digest, delivered=complete and not gone)
        self.ledger.answered += complete and not gone
        headers = self._with_script(call, {"content-type": JSON, **call.headers})
        self.ledger.statuses["307" if fault == "redirect" else "200"] += 1
        body = _events(answer) if parsed.stream else orjson.dumps(answer.body)
        if parsed.stream:
            headers["content-type"] = "text/event-stream; charset=utf-8"
        if complete and fault != "close_keepalive":
            return (
                await self._stream(request, body, headers)
                if parsed.stream
                else web.Response(body=body, headers=headers)
            )
        return await self._faulty(request, fault or "", body, headers)

    async def _faulty(
        self, request: web.Request, fault: str, body: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        if fault == "close_keepalive":
            return await faults.close_keepalive(request, body, headers)
        if fault == "truncated":
            return await faults.truncated(request, body, headers)
        if fault == "malformed":
            return web.Response(body=body[: len(body) // 2], headers=headers)
        if fault == "error_in_200":
            return web.Response(body=refusals.by_status(500).body(), headers=headers)
        if fault == "gzip_bomb":
            return await faults.gzip_bomb(request, headers)
        if fault == "endless":
            return await faults.endless(request, headers, self.settings.hang_seconds)
        if fault == "redirect":
            return web.Response(status=307, headers={**headers, "location": self.settings.redirect_to})
        return web.Response(body=faults.PAGE, headers={**headers, "content-type": "text/html; charset=utf-8"})

    async def _stream(self, request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for event in body.split(b"\n\n")[:-1]:
            await response.write(event + b"\n\n")
        await response.write_eof()
        return response

    async def _refuse(self, call: Call, refusal: Refusal) -> web.StreamResponse:
        code = refusal.code or refusal.type
        self.ledger.refuse(code, refusal.dimension)
        self.ledger.statuses[str(refusal.status)] += 1
        headers = {"content-type": JSON, **call.headers, **self.account.headers(self.now()), **refusal.headers}
        if refusal.status == 429 and self.settings.refusal_latency:
            await asyncio.sleep(self.settings.refusal_latency)
        body = refusal.body()
        if call.fault == "502":
            # As a gateway's error page, not the API's JSON.
            body, headers["content-type"] = faults.PAGE, "text/html; charset=utf-8"
        return web.Response(status=refusal.status, body=body, headers=self._with_script(call, headers))

    async def _scripted(self, call: Call, script: Scripted) -> web.StreamResponse:
        if script.latency:
            await asyncio.sleep(script.latency)
        if script.body is None:
            refusal = script.refusal()
            if script.status == 429 and refusal.code == "rate_limit_exceeded":
                refusal.headers = self._without_cause("the model").headers
            raise refusal
        self.ledger.statuses[str(script.status)] += 1
        if script.status == 200:
            self.ledger.answered += 1
            self._bill(call.digest, delivered=True)
        headers = {"content-type": JSON, **call.headers, **self.account.headers(self.now())}
        return web.Response(status=script.status, body=script.body, headers=self._with_script(call, headers))

    def _with_script(self, call: Call, headers: dict[str, str]) -> dict[str, str]:
        if call.script is None or not call.script.headers:
            return headers
        changed = {**headers, **{name.lower(): value for name, value in call.script.headers.items()}}
        return {name: value for name, value in changed.items() if value is not None}

    def _in_outage(self) -> bool:
        if self.settings.outage is None:
            return False
        start, duration = self.settings.outage
        return start <= self.now() < start + duration

    def _reset_connection(self, request: web.Request) -> web.StreamResponse:
        self.ledger.faults["outage"] += 1
        return faults.reset(request)


def _events(answer: Answer) -> bytes:
    lines = [b"data: " + orjson.dumps(event) for event in answer.events]
    return b"\n\n".join([*lines, b"data: [DONE]", b""])
