"""This module serves the kubelet's probes, and metrics for Prometheus, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry

from kubeballoon.metrics import expose

Probe = Callable[[], str | None]
"""A function that says in one line what is wrong with the process; None if nothing is."""


def _probe_handler(probe: Probe) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        fault = probe()
        return web.Response(text="ok\n") if fault is None else web.Response(text=f"{fault}\n", status=503)

    return handle


def _metrics_handler(registry: CollectorRegistry) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        text, content_type = await expose(registry, request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    return handle


@asynccontextmanager
async def serve(
    host: str | None, port: int, *, live: Probe, ready: Probe, metrics: CollectorRegistry
) -> AsyncIterator[None]:
    """Serve /healthz, /readyz and /metrics while the context lasts.

    Args:
        host: the address to listen on; None for every address of IPv4 and, where the machine has it, of IPv6.
        port: the port to listen on; 0 serves nothing.
        live: what /healthz asks.
        ready: what /readyz asks.
        metrics: what /metrics exports.

    Raises:
        OSError: the address is in use, or is not one of this machine.
    """
    if not port:
        yield
        return
    application = web.Application()
    application.router.add_get("/healthz", _probe_handler(live))
    application.router.add_get("/readyz", _probe_handler(ready))
    application.router.add_get("/metrics", _metrics_handler(metrics))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
