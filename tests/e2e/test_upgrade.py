"""An upgrade from an earlier commit's chart and images harms no guest, and both versions work together for a while."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hack.testbed.chart import NAMESPACE as SYSTEM
from hack.testbed.chart import RELEASE
from hack.testbed.controlplane import ControlPlane
from hack.testbed.kubevirt import cluster as testbed
from hack.testbed.kubevirt import product
from tests.e2e.conftest import LEAST, SECONDS, pods, reclaimed, whole
from tests.support.cluster import Object, get
from tests.support.kubevirt import VM
from tests.support.waiting import throughout, until

pytestmark = pytest.mark.e2e_all

EARLIER = "daf0952"
"""The commit to upgrade from; with each release it becomes the one before."""

_CHECKOUT = Path(__file__).resolve().parents[2]
_BUILD = "from hack.testbed.kubevirt import product; print(product.archive(), product.tag())"
_INSTALL = """
from hack.testbed.controlplane import NamedControlPlane
from hack.testbed.kubevirt import cluster, product
with NamedControlPlane(cluster.KUBECONFIG) as plane:
    product.install(plane)
"""
_SECONDS = 1200


@pytest.fixture(scope="module")
def earlier(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tag of the earlier version's images, which is installed; this checkout's is again after the tests."""
    checkout = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(["git", "-C", _CHECKOUT, "archive", EARLIER], capture_output=True, check=True, timeout=60)
    subprocess.run(["tar", "--extract", "--directory", checkout], input=archive.stdout, check=True, timeout=60)
    images, tag = run_in(checkout, _BUILD).split()
    testbed.import_images(Path(images))
    product.uninstall(plane)
    try:
        run_in(checkout, _INSTALL)
        yield tag
    finally:
        product.install(plane)


def run_in(checkout: Path, script: str) -> str:
    """Run a script with the modules of a checkout; return what it prints."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True, timeout=_SECONDS).stdout


def test_an_upgrade_moves_no_balloon_and_agents_of_both_versions_follow_the_new_controller(
    plane: ControlPlane, earlier: str, squeezed: tuple[VM, VM], policy: str
) -> None:
    assert images(plane) == {product.image("agent", earlier)}
    template = get(plane, "daemonset", f"{RELEASE}-agent", f"--namespace={SYSTEM}")["spec"]["template"]
    with ThreadPoolExecutor(1) as background:
        upgrading = background.submit(product.install, plane)
        while not upgrading.done():
            throughout(lambda: reclaimed(squeezed) > LEAST, 5.0)
        upgrading.result()
    assert images(plane) == {product.image("agent")}

    node = squeezed[0].node()
    go_back(plane, node, template)
    assert images(plane) == {product.image("agent"), product.image("agent", earlier)}
    throughout(lambda: reclaimed(squeezed) > LEAST, 10.0)
    plane.kubectl("delete", "mempol", policy)
    until(lambda: all(map(whole, squeezed)), SECONDS, lambda: reclaimed(squeezed))


def images(plane: ControlPlane) -> set[str]:
    """The images of the agents that are ready."""
    ready = pods(plane, "agent")
    listed = get(plane, "pod", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=agent")["items"]
    return {pod["spec"]["containers"][0]["image"] for pod in listed if pod["metadata"]["name"] in ready}


def go_back(plane: ControlPlane, node: str, template: Object) -> None:
    """Replace one node's agent, and no other, by one of another pod template, as a rollout that stands still has."""
    where = (f"--namespace={SYSTEM}",)
    values = {"updateStrategy": {"type": "OnDelete"}, "template": template}
    patch = json.dumps([{"op": "replace", "path": f"/spec/{key}", "value": value} for key, value in values.items()])
    plane.kubectl("patch", "daemonset", f"{RELEASE}-agent", *where, "--type=json", f"--patch={patch}")
    selector = "--selector=app.kubernetes.io/component=agent"
    plane.kubectl("delete", "pod", selector, f"--field-selector=spec.nodeName={node}", *where)
    image = template["spec"]["containers"][0]["image"]
    until(lambda: image in images(plane) and len(pods(plane, "agent")) == testbed.NODES, SECONDS)
