"""Fixtures that tests of several areas share."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

import pytest

from hack.controlplane import ControlPlane, open_control_plane

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A running control plane with KubeVirt's CRDs."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        # The first build takes minutes: its progress must be seen.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            opened = stack.enter_context(open_control_plane())
            opened.install_kubevirt_crds()
        yield opened


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own, deleted after it."""
    manifest = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}}'
    created = control_plane.kubectl("create", "--filename=-", "--output=name", stdin=manifest).strip()
    name = created.removeprefix("namespace/")
    if control_plane.has_controllers:
        control_plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}")
    yield name
    control_plane.kubectl("delete", "--wait=false", created)
