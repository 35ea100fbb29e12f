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


def application(simulator: Simulator) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[own_host])
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
        try:
            self.simulator.check_key(request)
        except Refusal as refusal:
            return web.Response(status=refusal.status, body=refusal.body(), content_type=JSON)
        names = self.simulator.settings.models or MODELS
        data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"} for name in names]
        return _json({"object": "list", "data": data})

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        if any(request.path == endpoint.path for endpoint in ENDPOINTS):
            hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
            message = f"Not allowed to {request.method} on {request.path}. {hint}"
            refusal = Refusal(405, message, code="method_not_supported")
        else:
            self.simulator.ledger.unknown_paths[request.path] += 1
            refusal = Refusal(404, f"Invalid URL ({request.method} {request.path})")
        return web.Response(
            status=refusal.status, body=refusal.body(), content_type=JSON, headers={"x-simulated": "true"}
        )

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
        try:
            self.simulator.change(checks.json_object(await request.read()))
        except (ValueError, TypeError, Refusal) as error:
            return _json({"error": {"message": str(error)}}, status=400)
        return _json(self.simulator.settings.as_dict())

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        self.simulator.reset()
        self.batches.reset()
        return _json({"status": "ok"})

    async def _script(self, request: web.Request) -> web.StreamResponse:
        try:
            given = checks.json_object(await request.read())
            self.simulator.scripts.add(given.get("answers", ()), matching=given.get("matching"))
        except (ValueError, TypeError, Refusal) as error:
            return _json({"error": {"message": str(error)}}, status=400)
        return _json({"status": "ok"})


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type=JSON)
