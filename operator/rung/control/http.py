"""The operator's own HTTP pages: `/healthz` (liveness), `/readyz`, `/metrics`."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rung.control.supervisor import Supervisor


async def serve_http(listen: str, supervisor: Supervisor) -> web.AppRunner:
    """Serve the pages on `HOST:PORT` until the returned runner is cleaned up. Raises OSError when the port is taken."""

    async def healthz(_: web.Request) -> web.Response:
        silent = supervisor.silent()
        if silent:
            text = "; ".join(f"pool {label}: no pass for {age:.0f} s" for label, age in silent.items())
            return web.Response(status=503, text=text + "\n")
        return web.Response(text="every loop runs\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="watching\n")

    async def metrics(_: web.Request) -> web.Response:
        page = generate_latest(supervisor.metrics.registry)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    await web.TCPSite(runner, host.strip("[]") or "0.0.0.0", int(port)).start()  # noqa: S104 - inside a pod
    return runner
