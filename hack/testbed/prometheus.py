"""A real Prometheus: it scrapes agent and controller once a second, or has a history that is filled in from a text."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from hack.testbed.controlplane.commands import run
from hack.testbed.controlplane.daemon import Daemon
from hack.testbed.controlplane.errors import ControlPlaneError
from hack.testbed.tools import PROMETHEUS, PROMTOOL

_LOOPBACK = "127.0.0.1"
_START_SECONDS = 60.0
_REQUEST_SECONDS = 30.0
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_FILL_SECONDS = 300.0
_RETENTION = "10y"  # or a history that is filled in would be deleted
_STEP_SECONDS = 1

Series = tuple[Mapping[str, str], Sequence[tuple[float, float]]]
"""The labels of a series, and its values with their times, seconds since 1970."""


def open_metrics(metrics: Mapping[str, Sequence[Series]]) -> str:
    """Write series, by the names of their metrics, in the text format of OpenMetrics, with the times of all values."""
    lines = []
    for name, series in metrics.items():
        lines.append(f"# TYPE {name} unknown")
        for labels, values in series:
            written = ",".join(f'{key}="{value}"' for key, value in labels.items())
            lines += [f"{name}{{{written}}} {value:.17g} {time:.3f}" for time, value in values]
    return "\n".join([*lines, "# EOF", ""])


def free_address() -> str:
    """Return a port that nobody listens on now, as HOST:PORT."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return f"{_LOOPBACK}:{probe.getsockname()[1]}"


class Prometheus:
    """A Prometheus server that runs inside the context and scrapes ``targets``, each a HOST:PORT.

    Its data stays in ``directory``: another server without targets can answer queries about it later.
    """

    def __init__(self, targets: list[str], directory: Path) -> None:
        """Remember the settings; the server starts when the context is entered."""
        self._targets = targets
        self._directory = directory
        self._address = free_address()

    @property
    def url(self) -> str:
        """Where the server answers."""
        return f"http://{self._address}"

    def fill(self, history: str) -> None:
        """Fill in a history, in the text format of OpenMetrics with times; the server must not run yet.

        Raises:
            ControlPlaneError: promtool cannot be built, or refuses the text.
        """
        path = self._directory / "history.om"
        path.write_text(history)
        blocks = ("tsdb", "create-blocks-from", "openmetrics", path, self._directory / "data")
        run([PROMTOOL.path(), *blocks], seconds=_FILL_SECONDS)

    def __enter__(self) -> Self:
        """Start the server.

        Raises:
            ControlPlaneError: Prometheus cannot be built, or is not ready in time.
        """
        scrape = {"job_name": "kubeballoon", "honor_labels": True, "static_configs": [{"targets": self._targets}]}
        times = {"scrape_interval": f"{_STEP_SECONDS}s", "scrape_timeout": f"{_STEP_SECONDS}s"}
        configuration = self._directory / "prometheus.yaml"
        configuration.write_text(yaml.safe_dump({"global": times, "scrape_configs": [scrape]}))
        flags = (
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--storage.tsdb.retention.time={_RETENTION}",
            f"--web.listen-address={self._address}",
            "--log.level=warn",
        )
        self._daemon = Daemon.start(PROMETHEUS.path(), flags, self._directory)
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            self._daemon.check()
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"Prometheus is not ready after {_START_SECONDS:g} s", self._daemon.log)
            time.sleep(_POLL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._daemon.stop(_GRACE_SECONDS)

    def query(self, what: str, **parameters: Any) -> Any:
        """Return what the server answers to ``query`` or ``query_range``.

        Raises:
            ControlPlaneError: Prometheus refuses the query.
        """
        url = f"http://{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_REQUEST_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ControlPlaneError(f"Prometheus refuses {parameters}: {error.read().decode()}") from error

    def _is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=_REQUEST_SECONDS).close()
        except OSError:
            return False
        return True
