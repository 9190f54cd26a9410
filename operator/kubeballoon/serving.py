"""What a kubelet and Prometheus ask over HTTP: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry

from kubeballoon.metrics import expose

Probe = Callable[[], str | None]
"""What is wrong, or None."""


def _handler(probe: Probe) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        wrong = probe()
        return web.Response(text="ok\n") if wrong is None else web.Response(text=f"{wrong}\n", status=503)

    return handle


def _exporter(registry: CollectorRegistry) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        text, content_type = await expose(registry, request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    return handle


@asynccontextmanager
async def serve(
    host: str | None, port: int, *, live: Probe, ready: Probe, metrics: CollectorRegistry
) -> AsyncIterator[None]:
    """Serve /healthz, /readyz and /metrics while the context lasts; port 0 serves nothing.

    Without a host on every address, of IPv4 and, where the machine has it, of IPv6.

    Raises:
        OSError: the address cannot be had.
    """
    if not port:
        yield
        return
    application = web.Application()
    application.router.add_get("/healthz", _handler(live))
    application.router.add_get("/readyz", _handler(ready))
    application.router.add_get("/metrics", _exporter(metrics))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
