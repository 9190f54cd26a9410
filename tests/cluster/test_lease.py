"""Whom a Lease shuts out after an uninstallation, on the real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.api.names import UNINSTALLER_PREFIX
from kubeballoon.cluster.client import ApiClient, ForbiddenError, UnreachableError
from kubeballoon.cluster.lease import Lease
from tests.support.accounts import account_with_leases
from tests.support.cluster import Object

NAME = "kubeballoon-controller"
LONG = 3600.0  # seconds: nobody who has to wait for the end of such a Lease acquires it in this test
ATTEMPTS = 3


class Installation:
    """An installation of which only the controllers' account and Lease matter."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    def lease(self, identity: str) -> Lease:
        """The candidacy of one of its controllers, or of its uninstallation."""
        return Lease(self.client, self.namespace, NAME, identity, sleep=lambda _: asyncio.sleep(0))

    async def leads(self, identity: str) -> bool:
        """Whether a controller acquires the Lease within a few attempts."""
        attempts = 0

        async def sleep(_: float) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == ATTEMPTS:
                raise TimeoutError

        try:
            await Lease(self.client, self.namespace, NAME, identity, sleep=sleep).acquire()
        except TimeoutError:
            return False
        return True


@pytest.fixture
async def installations(
    control_plane: ControlPlane, namespace: str
) -> AsyncIterator[tuple[Installation, Installation]]:
    """An installation and the next one, each with an account of its own."""
    kubeconfigs = [account_with_leases(control_plane, namespace, name) for name in ("old", "new")]
    async with AsyncExitStack() as stack:
        connected = [await ApiClient.connect("test", kubeconfig) for kubeconfig in kubeconfigs]
        clients = [await stack.enter_async_context(client) for client in connected]
        yield Installation(clients[0], namespace), Installation(clients[1], namespace)


async def test_the_next_installation_leads_at_once_and_the_one_that_was_uninstalled_does_not(
    installations: tuple[Installation, Installation],
) -> None:
    old, new = installations
    assert await old.leads("old_1")
    uninstallation = old.lease(f"{UNINSTALLER_PREFIX}1")
    await uninstallation.seize(LONG)
    assert not await old.leads("old_2")
    assert not await new.leads("new_1"), "while memory is being returned nobody leads"
    await uninstallation.shut_out(LONG)
    assert not await old.leads("old_3"), "it may still be started again before it is deleted"
    assert await new.leads("new_2")
    assert not await old.leads("old_4")


async def test_a_lease_that_shuts_an_account_out_does_so_only_for_the_uninstallation(
    installations: tuple[Installation, Installation],
) -> None:
    old, new = installations
    assert await old.leads("old_1")
    await old.lease(f"{UNINSTALLER_PREFIX}1").shut_out(LONG)
    assert await new.leads("new_1")
    await new.lease(f"{UNINSTALLER_PREFIX}2").seize(LONG)
    assert not await old.leads("old_2")
    assert not await new.leads("new_2")


class Held(ApiClient):
    """A fake cluster with a Lease that shuts out an account, in which nobody is told his own."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get(self, path: str, **_: str) -> Object:  # noqa: ARG002 - there is but one
        """Read the Lease."""
        spec = {"holderIdentity": f"{UNINSTALLER_PREFIX}1", "leaseDurationSeconds": LONG}
        return {"metadata": {"annotations": {"kubeballoon.io/shut-out-account": "old"}}, "spec": spec}

    async def create(self, path: str, body: Object, *, strict: bool = False) -> Object:
        """Refuse to say who asks."""
        assert (path.endswith("selfsubjectreviews"), strict) == (True, False), body
        raise self.error


@pytest.mark.parametrize("error", [ForbiddenError("no"), UnreachableError("no")], ids=["forbidden", "unreachable"])
async def test_a_controller_that_does_not_know_its_account_waits(error: Exception) -> None:
    assert not await Installation(Held(error), "kubeballoon-system").leads("any_1")
