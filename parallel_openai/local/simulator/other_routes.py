"""The simulator's other paths: models, statistics, controls and 404."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from parallel_openai.local.simulator import hosts
from parallel_openai.local.simulator.batches.routes import BatchRoutes
from parallel_openai.local.simulator.checks import bodies as checks
from parallel_openai.local.simulator.refusals import Refusal
from parallel_openai.local.simulator.server import ENDPOINTS, JSON, Simulator

MAX_BODY_BYTES = 512 * 2**20
MODELS = ("gpt-4o-mini", "gpt-5-mini", "gpt-5-nano", "o4-mini", "text-embedding-3-small")


@web.middleware
async def own_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request whose `Host` is not this machine."""
    if not hosts.is_own(request.host):
        raise web.HTTPForbidden(text=hosts.refusal(request.host))
    return await handler(request)


@web.middleware
async def answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        await request.release()
        headers = {"x-simulated": "true", **refusal.headers}
        return web.Response(status=refusal.status, body=refusal.body(), content_type=JSON, headers=headers)


def application(simulator: Simulator) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[own_host, answer_refusals])
    simulator.add_routes(app)
    batches = BatchRoutes(simulator)
    batches.add_routes(app)
    OtherRoutes(simulator, batches).add_routes(app)
    return app


class OtherRoutes:
    """`/v1/models`, the paths that control the simulator, and whatever is not found."""

    def __init__(self, simulator: Simulator, batches: BatchRoutes) -> None:
        self.simulator = simulator
        self.batches = batches

    def add_routes(self, application: web.Application) -> None:
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/stats", self._stats)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_post("/control", self._control)
        application.router.add_post("/reset", self._reset)
        application.router.add_post("/script", self._script)
        application.router.add_route("*", "/{path:.*}", self._unknown)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self.simulator.check_key(request)
        names = self.simulator.settings.models or MODELS
        data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"} for name in names]
        return _json({"object": "list", "data": data})

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        if any(request.path == endpoint.path for endpoint in ENDPOINTS):
            hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
            message = f"Not allowed to {request.method} on {request.path}. {hint}"
            raise Refusal(405, message, code="method_not_supported")
        self.simulator.ledger.unknown_paths[request.path] += 1
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return _json({"status": "ok", "seconds": self.simulator.now()})

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        stats = self.simulator.stats(with_charged=request.query.get("charged") != "0")
        stats["batches"] = self.batches.batches.stats()
        if "first" in request.query and "last" in request.query:
            stats["allowed"] = self.simulator.account.allowed(
                float(request.query["first"]), float(request.query["last"])
            )
        return _json(stats)

    async def _control(self, request: web.Request) -> web.StreamResponse:
        changes = checks.json_object(await request.read())
        try:
            self.simulator.change(changes)
        except (ValueError, TypeError) as error:
            raise Refusal(400, str(error)) from error
        return _json(self.simulator.settings.as_dict())

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        self.simulator.reset()
        self.batches.reset()
        return _json({"status": "ok"})

    async def _script(self, request: web.Request) -> web.StreamResponse:
        given = checks.json_object(await request.read())
        try:
            self.simulator.scripts.add(given.get("answers", ()), matching=given.get("matching"))
        except (ValueError, TypeError) as error:
            raise Refusal(400, str(error)) from error
        return _json({"status": "ok"})


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type=JSON)
