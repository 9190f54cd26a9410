"""Fixtures that several test directories share."""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from hack.testbed import chart
from hack.testbed.controlplane import ControlPlane, open_control_plane
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod
from tests.support.cluster import FakeNode
from tests.support.processes import Command, await_leadership, controller

if TYPE_CHECKING:
    from collections.abc import Iterator

# On a busy machine, or under coverage, an example may take any time: no test fails for that.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# What nobody changed has to pass again: a test tries the same examples each time, and others where one asks for that.
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
# `make fuzz` keeps what it finds, so that the next run begins with it.
settings.register_profile(
    "fuzz", settings.get_profile("explore"), max_examples=10_000, database=DirectoryBasedExampleDatabase("build/fuzz")
)
settings.load_profile("same")

MARKERS_OF_FIXTURES = {"control_plane": "cluster", "lab_node": "guest", "tools": "tools"}
"""A test that uses one of these fixtures, be it through another, is given this marker."""


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use, so that `make test-quick` runs none that needs more than Python."""
    for item in items:
        for fixture in MARKERS_OF_FIXTURES.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(MARKERS_OF_FIXTURES[fixture])


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A control plane with KubeVirt's CRDs, for all tests of a process."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        # The first build takes minutes, so its progress must be visible.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            opened = stack.enter_context(open_control_plane())
            opened.install_kubevirt_crds()
        yield opened


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new namespace for one test, which is deleted after it."""
    manifest = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}}'
    created = control_plane.kubectl("create", "--filename=-", "--output=name", stdin=manifest).strip()
    name = created.removeprefix("namespace/")
    if control_plane.has_controllers:
        control_plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}")
    yield name
    control_plane.kubectl("delete", "--wait=false", created)


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane, pytestconfig: pytest.Config) -> ControlPlane:
    """The control plane with kubeballoon's CRDs, accounts and admission, as the chart has them."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    # The first build of helm takes a minute, so its progress must be visible.
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        chart.install(control_plane)
    return control_plane


@pytest.fixture(scope="module")
def leader(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A controller that leads, for all tests of a module."""
    with controller(installed, tmp_path_factory.mktemp("controller") / "log", "--cool-down=1s") as command:
        await_leadership(command)
        yield command
        assert command.process.poll() is None
        assert "Traceback" not in command.output()


@pytest.fixture
def node(installed: ControlPlane, namespace: str) -> Iterator[FakeNode]:
    """A fake node with 1200 MiB for VMs and four processors; all policies are deleted after the test."""
    made = FakeNode(installed, f"node-{namespace}", namespace)
    yield made
    installed.kubectl("delete", "mempol,cpupol,nodepol", "--all")
    made.remove()


@pytest.fixture(scope="session")
def lab_node(pytestconfig: pytest.Config) -> Iterator[LabNode]:
    """A lab node of 1 GiB, for all tests of a process."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        # The guests' image may have to be built, so its progress must be visible.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            node = stack.enter_context(LabNode("lab-node", 1024 * MIB))
        yield node


@pytest.fixture(scope="session")
def lab_guest(lab_node: LabNode) -> LauncherPod:
    """A guest for all tests of a process; each test ends its load.

    It does not report free pages, so the host gets memory back from it by the balloon only.
    """
    spec = GuestSpec(name=_of_this_run("shared"), stats_period=1, free_page_reporting=False)
    (pod,) = lab_node.boot([spec])
    return pod


@pytest.fixture(scope="session")
def wide_guest(lab_node: LabNode) -> LauncherPod:
    """A guest with four processors, for all tests of a process; each test gives it all of them back."""
    (pod,) = lab_node.boot([GuestSpec(name=_of_this_run("wide"), vcpus=4)])
    return pod


def _of_this_run(name: str) -> str:
    """Return a guest's name that is unique to this process: agents find a QEMU by its guest's name."""
    return f"{name}-{os.getpid()}"
