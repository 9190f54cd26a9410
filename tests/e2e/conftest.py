"""The cluster of `make cluster`, with this checkout's kubeballoon in it."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from hack.testbed.chart import NAMESPACE as SYSTEM
from hack.testbed.controlplane import ControlPlane, NamedControlPlane
from hack.testbed.kubevirt import cluster as testbed
from hack.testbed.kubevirt import diagnosis, product
from tests.support.cluster import MIB, controller_annotations
from tests.support.kubevirt import NAMESPACE, VM, migrate
from tests.support.waiting import until

SECONDS = 180.0  # for whatever has to follow from something else, on a busy machine
LEAST = 512 * MIB  # of both VMs together: they are a GiB larger than what their node has for them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here: they need minutes, and a machine for themselves."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which a test earns its place in CI."""
    parser.addoption(
        "--rounds", type=int, default=1, help="how often the tests of each file are run, one after another"
    )


@pytest.fixture(scope="module")
def round_number(request: pytest.FixtureRequest) -> int:
    """How many rounds there were before; tests of one round are run before those of the next."""
    return int(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat every test."""
    rounds = metafunc.config.getoption("--rounds", 1)
    if rounds > 1:
        metafunc.fixturenames.insert(0, "round_number")
        metafunc.parametrize("round_number", range(rounds), indirect=True, scope="module")


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """The cluster's API; kubeballoon is installed, and no policy is left from before."""
    if not testbed.KUBECONFIG.exists():
        pytest.fail("there is no cluster: make cluster", pytrace=False)
    testbed.ensure()
    with NamedControlPlane(testbed.KUBECONFIG) as opened:
        opened.kubectl("delete", "mempol,cpupol,nodepol", "--all")
        opened.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield opened


@pytest.fixture(scope="module")
def vms(plane: ControlPlane) -> Iterator[tuple[VM, VM]]:
    """Two VMs of 2 GiB on one node of 4 GiB, which needs some for itself."""
    made = (VM(plane, "calm"), VM(plane, "busy"))
    with created(*made):
        yield made


@contextmanager
def created(*vms: VM) -> Iterator[None]:
    """Create VMs, and wait until their guests' agents answer; they are deleted in the end."""
    try:
        for vm in vms:
            vm.delete()
            vm.create()
        for vm in vms:
            vm.wait()
        yield
    finally:
        for vm in vms:
            vm.delete()


@pytest.fixture
def policy(plane: ControlPlane) -> Iterator[str]:
    """A policy for all VMs of the tests' namespace, which goes with the test."""
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}
    plane.apply(
        {
            "apiVersion": "kubeballoon.io/v1alpha1",
            "kind": "MemoryPolicy",
            "metadata": {"name": "e2e"},
            "spec": {"selector": selector, "memory": {"min": "25%"}},
        }
    )
    yield "e2e"
    plane.kubectl("delete", "mempol", "e2e", "--ignore-not-found")


@pytest.fixture
def squeezed(vms: tuple[VM, VM], policy: str) -> tuple[VM, VM]:
    """Both VMs on one node, with much of their memory reclaimed, since together they are larger than the node."""
    assert policy
    for vm in vms:
        vm.wait()
    if vms[0].node() != vms[1].node():  # an earlier test failed in between
        migrate(vms[1])
    until(lambda: reclaimed(vms) > LEAST, SECONDS, lambda: reclaimed(vms))
    return vms


@pytest.fixture
def uninstalled(plane: ControlPlane) -> Iterator[None]:
    """The cluster without kubeballoon, which is installed again after the test."""
    product.uninstall(plane)
    try:
        yield
    finally:
        product.install(plane)


def whole(vm: VM) -> bool:
    """Whether a VM has all of its memory, and nothing is asked of it."""
    return vm.actual() == vm.memory and "memory-target" not in controller_annotations(vm.plane, NAMESPACE, vm.name)


def reclaimed(vms: tuple[VM, ...]) -> int:
    """What the balloons of VMs hold together, bytes."""
    return sum(vm.memory - vm.actual() for vm in vms)


def pods(plane: ControlPlane, part: str) -> list[str]:
    """The names of the running pods of one of kubeballoon's parts."""
    selector = f"--selector=app.kubernetes.io/component={part}"
    found = json.loads(plane.kubectl("get", "pod", selector, f"--namespace={SYSTEM}", "--output=json"))["items"]
    return [
        pod["metadata"]["name"]
        for pod in found
        if all(status["ready"] for status in pod["status"].get("containerStatuses", [{"ready": False}]))
        and "deletionTimestamp" not in pod["metadata"]
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows, with a failure, what the cluster says of itself; the test's VMs and policy are still there."""
    report = yield
    plane = getattr(item, "funcargs", {}).get("plane")
    if call.excinfo is not None and report.failed and plane is not None:
        report.sections += diagnosis.sections(plane)
    return report
