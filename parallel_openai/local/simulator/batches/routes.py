"""Routes of `/v1/files` and `/v1/batches`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from parallel_openai.local.simulator import refusals
from parallel_openai.local.simulator.batches.files import Files
from parallel_openai.local.simulator.batches.lifecycle import Batches
from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.server import ENDPOINTS, JSON, Simulator

Action = Callable[[web.Request], Awaitable[Any]]


class BatchRoutes:
    """`/v1/files` and `/v1/batches`. Neither counts against the rate limits."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._updated, self._moment, self._speed = time.monotonic(), time.time(), simulator.settings.batch_speed
        self._rng = random.Random(simulator.settings.seed)
        self._start()

    def add_routes(self, application: web.Application) -> None:
        for method, path, action in (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._list_files),
            ("GET", "/v1/files/{id}", self._file),
            ("DELETE", "/v1/files/{id}", self._delete_file),
            ("GET", "/v1/files/{id}/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list_batches),
            ("GET", "/v1/batches/{id}", self._batch),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ):
            application.router.add_route(method, path, self._handler(action))
        application.on_shutdown.append(self._end)

    def reset(self) -> None:
        self.batches.close()
        self._start()

    def _start(self) -> None:
        simulator, self._short_downloads = self.simulator, 0
        self.files = Files(self._time)
        self.batches = Batches(
            ENDPOINTS, self.files, lambda: simulator.ledger, lambda: simulator.settings, self._time, self._draw
        )

    def _draw(self, digest: bytes) -> str | None:
        return self.simulator.fault_sampler.draw(digest)

    def _time(self) -> float:
        """Seconds since the epoch by the batches' clock, which stays continuous when its speed changes."""
        now = time.monotonic()
        self._moment += (now - self._updated) * self._speed
        self._updated, self._speed = now, self.simulator.settings.batch_speed
        return self._moment

    def _handler(self, action: Action) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            # A server that fails may have done the action already, or not.
            fails = self._rng.random() < self.simulator.settings.batch_faults
            before = self._rng.random() < 0.5
            self.simulator.check_key(request)
            if fails and before:
                raise refusals.by_status(500)
            answer = await action(request)
            if fails:
                raise refusals.by_status(500)
            if isinstance(answer, web.StreamResponse):
                return answer
            return web.Response(body=orjson.dumps(answer), content_type=JSON, headers={"x-simulated": "true"})

        return handle

    async def _end(self, application: web.Application) -> None:
        self.batches.close()
        await asyncio.sleep(0)

    async def _upload(self, request: web.Request) -> Any:
        return (await self.files.upload(request)).as_json()

    async def _list_files(self, request: web.Request) -> Any:
        found = self.files.listed(request.query.get("purpose"), request.query.get("order", "desc"))
        return _page(found, request, default=10_000)

    async def _file(self, request: web.Request) -> Any:
        return self.files.get(request.match_info["id"]).as_json()

    async def _delete_file(self, request: web.Request) -> Any:
        return self.files.delete(request.match_info["id"])

    async def _content(self, request: web.Request) -> Any:
        file_id = request.match_info["id"]
        if self.batches.has_lost(file_id):
            raise self.files.unknown(file_id)
        file = self.files.get(file_id)
        if file.purpose == "batch_output" and self._short_downloads < self.simulator.settings.batch_short_downloads:
            self._short_downloads += 1
            lines = file.path.read_bytes().splitlines(keepends=True)
            return web.Response(body=b"".join(lines[: len(lines) // 2]), headers={"x-simulated": "true"})
        return web.FileResponse(file.path, headers={"content-type": "application/octet-stream", "x-simulated": "true"})

    async def _create(self, request: web.Request) -> Any:
        return self.batches.create(checks.json_object(await request.read()))

    async def _list_batches(self, request: web.Request) -> Any:
        return _page(self.batches.listed(), request, default=20)

    async def _batch(self, request: web.Request) -> Any:
        return self.batches.retrieve(request.match_info["id"])

    async def _cancel(self, request: web.Request) -> Any:
        return self.batches.cancel(request.match_info["id"])


def _page(found: list[dict[str, Any]], request: web.Request, *, default: int) -> dict[str, Any]:
    try:
        limit = int(request.query.get("limit", default))
    except ValueError:
        raise Refusal(400, "Invalid 'limit': expected an integer.", param="limit") from None
    after = request.query.get("after")
    ids = [each["id"] for each in found]
    start = ids.index(after) + 1 if after in ids else 0
    page = found[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(found),
    }
