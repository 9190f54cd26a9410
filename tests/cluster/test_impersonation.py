"""The client acts as the user whom a kubeconfig or an option names, as kubectl does, on the real API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.cluster.client import ApiClient, ApiError, ForbiddenError
from kubeballoon.cluster.impersonation import Impersonation
from tests.support.cli import balloon
from tests.support.cluster import Object, get, memory_policy

pytestmark = pytest.mark.cluster

REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
EXTRA = {"example.com/team": ["a", "b"]}


def kubeconfig(plane: ControlPlane, directory: Path, **user: object) -> Path:
    """Write the administrator's kubeconfig with more about the user."""
    view = json.loads(plane.kubectl("config", "view", "--minify", "--flatten", "--raw", "--output=json"))
    view["users"][0]["user"] |= {key.replace("_", "-"): value for key, value in user.items()}
    path = directory / "kubeconfig"
    path.write_text(json.dumps(view))
    return path


async def who(path: Path, impersonation: Impersonation) -> Object:
    """Ask the API server who a client is."""
    async with await ApiClient.connect("test", path, impersonation=impersonation) as cluster:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer: Object = (await cluster.create(REVIEWS, review))["status"]["userInfo"]
        return answer


@pytest.mark.parametrize(
    ("user", "options", "flags"),
    [
        ({}, Impersonation(), []),
        ({"as": "alice"}, Impersonation(), []),
        ({"as": "alice", "as_groups": ["a", "b"], "as_uid": "1", "as_user_extra": EXTRA}, Impersonation(), []),
        ({}, Impersonation("bob", groups=["c", "d"]), ["--as=bob", "--as-group=c", "--as-group=d"]),
        ({"as": "alice", "as_groups": ["a"]}, Impersonation("bob"), ["--as=bob"]),
        ({"as": "alice", "as_groups": ["a"]}, Impersonation(groups=["c"]), ["--as-group=c"]),
        ({"as": "alice"}, Impersonation(uid="7"), ["--as-uid=7"]),
    ],
)
async def test_the_client_is_who_kubectl_is(
    installed: ControlPlane, tmp_path: Path, user: dict[str, Any], options: Impersonation, flags: list[str]
) -> None:
    path = kubeconfig(installed, tmp_path, **user)
    shown = json.loads(installed.kubectl("auth", "whoami", "--output=json", *flags, kubeconfig=path))
    assert await who(path, options) == shown["status"]["userInfo"]


async def test_attributes_of_nobody_are_refused(installed: ControlPlane, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="but no user"):
        await who(kubeconfig(installed, tmp_path), Impersonation(groups=["c"]))


async def test_a_user_whom_nobody_allowed_anything_is_refused(installed: ControlPlane) -> None:
    async with await ApiClient.connect(
        "test", installed.kubeconfig, impersonation=Impersonation("nobody-in-particular")
    ) as cluster:
        with pytest.raises(ForbiddenError, match="nobody-in-particular"):
            await cluster.get("/api/v1/namespaces")


def test_kubectl_balloon_neither_reads_nor_writes_what_the_impersonated_user_may_not(
    installed: ControlPlane, tmp_path: Path
) -> None:
    installed.apply(memory_policy("kept"))
    alice = kubeconfig(installed, tmp_path, **{"as": "alice"})
    try:
        for command in (["status"], ["top", "nodes"], ["release", "--all", "--no-wait"]):
            for access, flags in ((alice, []), (installed.kubeconfig, ["--as=alice"])):
                done = balloon(access, *command, *flags)
                assert done.returncode == 1
                assert 'User "alice" cannot list resource' in done.stderr
        assert "annotations" not in get(installed, "mempol", "kept")["metadata"]
        done = balloon(alice, "status", "--as=carol", "--as-group=system:masters")
        assert done.returncode in (0, 3)
    finally:
        installed.kubectl("delete", "mempol", "kept")
