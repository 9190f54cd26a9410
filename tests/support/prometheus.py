"""Prometheus for tests: a fake that answers what it is told to, and histories for a real one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs

Form = Mapping[str, str]


@dataclass
class FakePrometheus:
    """A FakePrometheus answers each query with what ``answer`` makes of its form: a status, and a body.

    Attributes:
        queries: the forms of the queries that came.
        tokens: the headers Authorization that came.
        end: set when answers need not be withheld any longer.
    """

    answer: Callable[[Form], tuple[int, str | bytes]]
    url: str = ""
    queries: list[Form] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    end: Event = field(default_factory=Event)


def success(*series: tuple[Mapping[str, str], Sequence[tuple[float, str]]], kind: str = "matrix") -> tuple[int, str]:
    """An answer with series, as Prometheus gives it."""
    result = [{"metric": metric, "values": values} for metric, values in series]
    return 200, json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


@contextmanager
def fake_prometheus(answer: Callable[[Form], tuple[int, str | bytes]]) -> Iterator[FakePrometheus]:
    """A fake Prometheus on a port of its own."""
    fake = FakePrometheus(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            fake.queries.append(form)
            fake.tokens.append(self.headers["Authorization"])
            status, text = fake.answer(form)
            content = text.encode() if isinstance(text, str) else text
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://login.example/")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        fake.end.set()
        server.shutdown()
        thread.join()
        server.server_close()
