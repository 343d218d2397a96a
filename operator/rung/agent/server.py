"""The agent's HTTP API, as `docs/architecture.md` has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from rung.adapters.agent import Reflex, Wanted
from rung.agent.catalogue import Catalogue
from rung.agent.metrics import Metrics

LARGEST_REQUEST_BYTES = 1 << 20


def make_app(
    catalogue: Catalogue,
    metrics: Metrics,
    passed_on: Callable[[], Awaitable[bytes]],
    stuck: Callable[[], list[str]],
    changed: Callable[[], None],
    tell_gate: Callable[[Reflex], Awaitable[None]] | None = None,
) -> web.Application:
    """Build the web application.

    Args:
        catalogue: what is answered, and where what is wanted goes.
        metrics: what `/metrics` answers.
        passed_on: what it passes on of its neighbours' metrics, as Prometheus text.
        stuck: names of the loops that stopped moving.
        changed: called when something else is wanted than before.
        tell_gate: hands the gate its tasks; None where there is no gate.
    """

    async def healthz(_: web.Request) -> web.Response:
        names = stuck()
        return web.Response(status=503 if names else 200, text=f"stuck: {', '.join(names)}\n" if names else "ok\n")

    async def metrics_text(_: web.Request) -> web.Response:
        # The agent's own first: Prometheus takes it to be of the moment when it asked, however long others take.
        own = metrics.text()
        return web.Response(body=own + await passed_on(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def inventory(_: web.Request) -> web.Response:
        body = catalogue.inventory().model_dump_json(by_alias=True)
        return web.Response(text=body, content_type="application/json")

    async def put_wanted(request: web.Request) -> web.Response:
        try:
            wanted = Wanted.model_validate_json(await request.read())
        except ValidationError as error:
            return _malformed('send {"tasks": {TASK: [number, ...]}}', error)
        tasks = {task: tuple(numbers) for task, numbers in wanted.tasks.items()}
        if tasks != catalogue.wanted:
            catalogue.wanted = tasks
            changed()
        return web.Response(status=204)

    async def put_reflex(request: web.Request) -> web.Response:
        try:
            reflex = Reflex.model_validate_json(await request.read())
        except ValidationError as error:
            return _malformed('send {"tasks": {TASK: {"sloSeconds": ..., "serviceSeconds": {NUMBER: ...}}}}', error)
        if tell_gate is not None:
            await tell_gate(reflex)
        elif reflex.tasks:
            return web.json_response({"error": "there is no gate here: set reflex.enabled in the chart"}, status=404)
        return web.Response(status=204)

    app = web.Application(client_max_size=LARGEST_REQUEST_BYTES)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics_text)
    app.router.add_get("/v1/inventory", inventory)
    app.router.add_put("/v1/wanted", put_wanted)
    app.router.add_put("/v1/reflex", put_reflex)
    return app


def _malformed(hint: str, error: ValidationError) -> web.Response:
    faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
    return web.json_response({"error": f"{hint}: {'; '.join(faults)}"}, status=400)
