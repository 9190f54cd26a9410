"""kopf reaches the API server without the cluster's DNS, and needs no name of the user that it runs as."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Collection

import kopf
import pytest

from kubeballoon.controller import replica
from kubeballoon.controller.kopf_handlers import login


@pytest.fixture
def in_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pod: there is an account, and no kubeconfig."""
    account = kopf.ConnectionInfo(server="https://kubernetes.default.svc", token="t")  # noqa: S106 - not a secret
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: None)
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: account)


@pytest.mark.usefixtures("in_pod")
@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
async def test_a_pod_connects_to_the_address_that_the_kubelet_gives_it(
    monkeypatch: pytest.MonkeyPatch, host: str, server: str
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    connection = await login()
    assert connection is not None
    assert (connection.server, connection.token) == (server, "t")


@pytest.mark.usefixtures("in_pod")
async def test_without_that_address_the_account_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    connection = await login()
    assert connection is not None
    assert connection.server == "https://kubernetes.default.svc"


async def test_kopf_starts_as_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[asyncio.Task[object]] = []

    def no_name() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    async def end_at_once(tasks: Collection[asyncio.Task[object]], **_: object) -> None:
        started.extend(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    monkeypatch.delenv("POD_ID", raising=False)
    monkeypatch.setattr(getpass, "getuser", no_name)
    monkeypatch.setattr(kopf, "run_tasks", end_at_once)
    await replica._run_kopf(kopf.OperatorRegistry(), asyncio.Event(), asyncio.Event(), "controller_1")  # noqa: SLF001 - as in the pod
    assert started
