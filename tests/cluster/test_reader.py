"""The reader of kubectl-balloon, on servers of a few lines."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kubeballoon.cluster import kubeconfig
from kubeballoon.cluster.errors import ApiError, ForbiddenError, NotFoundError, UnreachableError
from kubeballoon.cluster.impersonation import Impersonation
from kubeballoon.cluster.reader import ApiReader

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A Server answers as a test says, and remembers what it was asked; the headers of writes are kept apart."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[Message] = []
        self.written: list[Message] = []
        self.connections = 0
        self.answer: Answer = lambda request: send(request, {"items": [], "metadata": {}})
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                server.connections += 1
                super().setup()

            def do_GET(self) -> None:
                server.paths.append(self.path)
                server.headers.append(self.headers)
                server.answer(self)

            def do_PATCH(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                server.written.append(self.headers)
                server.answer(self)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.host = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()


def send(request: BaseHTTPRequestHandler, document: object, status: int = 200, **headers: str) -> None:
    body = json.dumps(document).encode()
    if headers.get("Content_Encoding") == "gzip":
        body = gzip.compress(body)
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.stop()


def reader(server: Server, deadline: float | None = 10.0, **access: object) -> ApiReader:
    loaded = kubeconfig.Access(host=server.host, api_key={"BearerToken": "Bearer secret"})
    for name, value in access.items():
        setattr(loaded, name, value)
    return ApiReader(loaded, deadline=deadline)


def test_a_list_is_read_in_pages_on_one_connection(server: Server) -> None:
    def page(request: BaseHTTPRequestHandler) -> None:
        start = int(parse_qs(urlsplit(request.path).query).get("continue", ["0"])[0])
        metadata = {"continue": str(start + 2)} if start < 4 else {}
        items = [{"n": start}, {"n": start + 1}]
        send(request, {"items": items, "metadata": metadata})

    server.answer = page
    with reader(server) as api:
        assert [each["n"] for each in api.items("/things", page=2)] == [0, 1, 2, 3, 4, 5]
    assert server.paths == [
        "/things?limit=2",
        "/things?limit=2&continue=2",
        "/things?limit=2&continue=4",
    ]
    assert server.connections == 1
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_nothing_is_read_that_nobody_asks_for(server: Server) -> None:
    server.answer = lambda request: send(request, {"items": [{"n": 1}, {"n": 2}], "metadata": {"continue": "x"}})
    with reader(server) as api:
        assert next(api.items("/things"))["n"] == 1
    assert len(server.paths) == 1


def test_an_answer_may_be_compressed_and_an_empty_list_null(server: Server) -> None:
    server.answer = lambda request: send(request, {"items": None, "metadata": {}}, Content_Encoding="gzip")
    with reader(server) as api:
        assert list(api.items("/things")) == []


@pytest.mark.parametrize(("status", "error"), [(403, ForbiddenError), (404, NotFoundError), (418, ApiError)])
def test_a_refusal_is_one_line(server: Server, status: int, error: type[ApiError]) -> None:
    server.answer = lambda request: send(request, {"message": "no\nway"}, status)
    with reader(server) as api, pytest.raises(error, match=r"^GET /a: no way$"):
        api.get("/a")


def test_a_connection_that_the_server_closed_is_made_anew(server: Server) -> None:
    def once(request: BaseHTTPRequestHandler) -> None:
        send(request, {"n": len(server.paths)})
        request.close_connection = True

    server.answer = once
    with reader(server) as api:
        assert [api.get("/a")["n"], api.get("/a")["n"]] == [1, 2]
    assert server.connections == 2


@pytest.mark.parametrize("trickles", [False, True])
def test_a_server_that_does_not_answer_in_time_is_named(server: Server, trickles: bool) -> None:  # noqa: FBT001 - a parameter
    ended = threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> None:
        if trickles:
            request.send_response(200)
            request.send_header("Content-Length", "1000000")
            request.end_headers()
        while not ended.wait(0.01):
            if trickles:
                request.wfile.write(b" ")

    server.answer = hang
    with (
        reader(server, deadline=0.3) as api,
        pytest.raises(UnreachableError, match=r"answer GET /a within 0\.3s"),
    ):
        api.get("/a")
    ended.set()


def test_a_server_that_is_not_there_is_one_line() -> None:
    api = ApiReader(kubeconfig.Access(host="http://127.0.0.1:1"))
    with pytest.raises(UnreachableError, match=r"^the API server cannot be reached: .*refused"):
        api.get("/a")


def test_what_is_not_json_is_one_line(server: Server) -> None:
    def garbled(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "3")
        request.end_headers()
        request.wfile.write(b"<a>")

    server.answer = garbled
    with reader(server) as api, pytest.raises(UnreachableError, match="was not answered with JSON"):
        api.get("/a")


def test_the_user_is_impersonated(server: Server) -> None:
    access = kubeconfig.Access(host=server.host, impersonation=Impersonation("alice", groups=["a"]))
    with ApiReader(access, Impersonation("bob", groups=["b", "c"])) as api:
        api.get("/a")
    headers = server.headers[0]
    assert (headers["Impersonate-User"], headers.get_all("Impersonate-Group")) == ("bob", ["b", "c"])


def test_credentials_can_be_loaded_again(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "config"

    def write(token: str) -> None:
        clusters = [{"name": "c", "cluster": {"server": server.host}}]
        users = [{"name": "u", "user": {"token": token}}]
        contexts = [{"name": "x", "context": {"cluster": "c", "user": "u"}}]
        config = {"current-context": "x", "contexts": contexts, "users": users, "clusters": clusters}
        path.write_text(json.dumps(config))

    write("old")
    with ApiReader.connect(path) as api:
        api.get("/a")
        write("new")
        api.renew()
        api.get("/a")
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer old", "Bearer new"]


def test_a_proxy_of_an_unknown_kind_is_named(server: Server) -> None:
    with (
        reader(server, proxy="socks5://127.0.0.1:1") as api,
        pytest.raises(UnreachableError, match="not an http:// one"),
    ):
        api.get("/a")


def test_a_kubeconfig_is_read_without_the_client_library(tmp_path: Path) -> None:
    path = tmp_path / "config"
    context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}
    user = {"token": "t", "as": "alice"}
    config = {
        "current-context": "x",
        "contexts": [context],
        "users": [{"name": "u", "user": user}],
        "clusters": [{"name": "c", "cluster": {"server": "https://example.invalid:6443/", "tls-server-name": "api"}}],
    }
    path.write_text(json.dumps(config))
    script = (
        "import sys; from pathlib import Path; from kubeballoon.cluster import kubeconfig;"
        "access = kubeconfig.load(Path(sys.argv[1]));"
        "print(access.host, access.api_key['BearerToken'], access.namespace, access.impersonation.user);"
        "print(access.tls_server_name, kubeconfig.contexts(Path(sys.argv[1])));"
        "print([name for name in sys.modules if name.startswith(('kubernetes', 'aiohttp'))]);"
        "from kubeballoon.cluster.client import ApiClient; print(ApiClient.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines() == [
        "https://example.invalid:6443 Bearer t shop alice",
        "api ['x']",
        "[]",
        "ApiClient",
    ]
