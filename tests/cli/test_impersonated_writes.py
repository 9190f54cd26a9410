"""What kubectl-balloon writes, it writes as the user whom the kubeconfig or an option names; the server is a fake."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from kubeballoon.cluster import paths
from tests.cluster.test_reader import Server, send, server
from tests.support.cli import balloon
from tests.support.cluster import Object, memory_policy

__all__ = ["server"]  # a fixture

POLICY = {**memory_policy("all"), "metadata": {"name": "all", "uid": "uid"}}
REFUSAL = {"kind": "Status", "status": "Failure", "code": 403, "message": "this user cannot patch resource"}


def readable(request: BaseHTTPRequestHandler) -> None:
    """Show one policy to everybody, and let nobody write it."""
    if request.command == "PATCH":
        send(request, REFUSAL, 403)
        return
    items = [POLICY] if request.path.startswith(paths.MEMORY_POLICIES) else []
    send(request, {"items": items, "metadata": {}})


def kubeconfig(server: Server, directory: Path, user: Object) -> Path:
    """Write a kubeconfig for the server, with this user."""
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t", **user}}],
        "clusters": [{"name": "c", "cluster": {"server": server.host}}],
    }
    path = directory / "config"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("user", "options", "written_as"),
    [
        ({"as": "alice", "as-groups": ["a"]}, [], ("alice", ["a"])),
        ({}, ["--as=bob", "--as-group=b", "--as-group=c"], ("bob", ["b", "c"])),
        ({"as": "alice"}, ["--as=bob"], ("bob", None)),
    ],
    ids=["the kubeconfig's", "an option's", "an option's before the kubeconfig's"],
)
def test_a_release_is_written_as_the_impersonated_user_and_refused_to_whom_it_is_refused(
    server: Server,
    tmp_path: Path,
    user: Object,
    options: list[str],
    written_as: tuple[str, list[str] | None],
) -> None:
    server.answer = readable
    done = balloon(kubeconfig(server, tmp_path, user), "release", "--all", "--no-wait", *options)
    assert done.returncode == 1
    assert "this user cannot patch resource" in done.stderr
    (headers,) = server.written
    assert (headers["Impersonate-User"], headers.get_all("Impersonate-Group")) == written_as
    assert {each["Impersonate-User"] for each in server.headers} == {written_as[0]}
