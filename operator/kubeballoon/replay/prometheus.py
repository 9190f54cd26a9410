"""This module reads the history of metrics from a Prometheus, or what answers like one (Thanos, Mimir, OpenShift's)."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import numpy.typing as npt

from kubeballoon.cluster.errors import unbroken
from kubeballoon.core.formatting import printable

_MAX_POINTS = 10_000  # in one answer: Prometheus refuses more than 11 000 per series
_MAX_CHUNK = 86_400.0  # seconds: the answer for a thousand VMs and a day at five minutes has some 8 MB
_MAX_ANSWER = 512 << 20  # bytes
_HTTP_CODES = {
    401: "asks for a token: give one with --bearer-token-file",
    403: "forbids the query: the token's account may not read metrics",
    404: "has no /api/v1/query_range: the URL is not that of a Prometheus, or lacks a path",
}


class PrometheusError(Exception):
    """Prometheus cannot be used, or has not what is needed; the message is one line."""


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """A PrometheusAccess is how to reach a Prometheus.

    Attributes:
        url: where it is, without ``/api/v1``.
        token_file: a file with a bearer token.
        ca_file: certificates of the authorities that are trusted; None for the system's.
        insecure: whether its certificate is left unchecked.
        deadline: seconds within which a query is answered.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    insecure: bool = False
    deadline: float = 60.0


class TimeRange(NamedTuple):
    """A TimeRange is the instants ``start``, ``start + step``, … up to ``end``, Unix seconds."""

    start: float
    end: float
    step: float

    @property
    def instants(self) -> int:
        """How many instants the range has, its start included."""
        return math.floor((self.end - self.start) / self.step) + 1

    def chunks(self) -> Iterator[TimeRange]:
        """Divide the range into parts that one query may ask for."""
        count = max(1, min(_MAX_POINTS, int(_MAX_CHUNK // self.step)))
        for first in range(0, self.instants, count):
            last = min(first + count, self.instants) - 1
            yield TimeRange(self.start + first * self.step, self.start + last * self.step, self.step)


Labels = tuple[tuple[str, str], ...]
"""A series' labels, sorted by their names."""

Values = npt.NDArray[np.float64]

Series = dict[Labels, Values]
"""Series by their labels: a value for each instant of a range, NaN where there is none."""


class PrometheusClient:
    """A PrometheusClient asks a Prometheus; it is used as an asynchronous context manager."""

    def __init__(self, access: PrometheusAccess) -> None:
        """Prepare to ask; nothing is sent yet.

        Raises:
            PrometheusError: the URL, or a file that ``access`` names, cannot be used.
        """
        if urlsplit(access.url).scheme not in ("http", "https") or not urlsplit(access.url).hostname:
            raise PrometheusError(
                f"{access.url!r} is not the URL of a Prometheus, such as https://prometheus.example:9090"
            )
        self._access = access
        self._url = f"{access.url.rstrip('/')}/api/v1/query_range"
        self._headers = (
            {} if access.token_file is None else {"Authorization": f"Bearer {_read_token(access.token_file)}"}
        )
        self._tls = _tls(access)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=self._access.deadline),
            trust_env=True,  # proxies, as other clients have them
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def query_range(self, query: str, times: TimeRange) -> Series:
        """Ask for the values of an expression at each instant of a range.

        Raises:
            PrometheusError: Prometheus cannot be reached, is too slow, or refuses.
        """
        series: Series = {}
        for chunk in times.chunks():
            form = {"query": query, "start": f"{chunk.start:.3f}", "end": f"{chunk.end:.3f}", "step": f"{chunk.step:g}"}
            for labels, values in _parse(await self._post({**form, "timeout": f"{self._access.deadline:g}s"})):
                known = series.setdefault(labels, np.full(times.instants, np.nan))
                for time, value in values:
                    index = round((time - times.start) / times.step)
                    if math.isfinite(value) and 0 <= index < times.instants:
                        known[index] = value
        return {labels: values for labels, values in series.items() if not np.isnan(values).all()}

    async def _post(self, form: Mapping[str, str]) -> Any:
        """Send one query, and return its ``data``."""
        try:
            # A redirect is not followed: it is a login page, and the token is not for it.
            async with self._session.post(self._url, data=form, allow_redirects=False) as response:
                body = await _read(response)
        except TimeoutError:
            raise PrometheusError(
                f"{self._access.url} did not answer within {self._access.deadline:g}s: give it longer with "
                "--query-timeout, or ask for less with --range or a longer --step"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusError(f"{self._access.url} cannot be reached: {unbroken(error) or repr(error)}") from None
        return self._data(response.status, body)

    def _data(self, status: int, body: bytes) -> Any:
        """Return what an answer holds.

        Raises:
            PrometheusError: it is no answer of a Prometheus, or an error.
        """
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and answer.get("status") == "success" and "data" in answer:
            return answer["data"]
        if isinstance(answer, dict) and isinstance(answer.get("error"), str):
            raise PrometheusError(f"{self._access.url} refuses the query: {printable(unbroken(answer['error']))}")
        if status in _HTTP_CODES:
            raise PrometheusError(f"{self._access.url} {_HTTP_CODES[status]}")
        raise PrometheusError(f"{self._access.url} answers with HTTP status {status}, and not as a Prometheus does")


def _parse(data: Any) -> Iterator[tuple[Labels, list[tuple[float, float]]]]:
    """Read the series of an answer.

    Raises:
        PrometheusError: they are not what Prometheus answers a query of a range with.
    """
    try:
        if data["resultType"] != "matrix":
            raise PrometheusError(
                f"Prometheus answers with a {printable(str(data['resultType']))}, and not with series"
            )
        for each in data["result"]:
            labels = tuple(sorted((str(name), str(value)) for name, value in each["metric"].items()))
            yield labels, [(float(time), float(value)) for time, value in each["values"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PrometheusError(
            f"Prometheus answers with what is not series: {printable(unbroken(error)) or repr(error)}"
        ) from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body.

    Raises:
        PrometheusError: it is larger than can be sensible.
    """
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER:
            raise PrometheusError(f"an answer exceeds {_MAX_ANSWER >> 20} MiB: ask for less with a longer --step")
    return b"".join(parts)


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise PrometheusError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise PrometheusError(f"{path}: does not hold a bearer token")
    return token


def _tls(access: PrometheusAccess) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise PrometheusError(f"{access.ca_file}: {getattr(error, 'strerror', None) or unbroken(error)}") from None
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def ask(access: PrometheusAccess, queries: Mapping[str, str], times: TimeRange) -> dict[str, Series]:
    """Ask several queries one after another, so that Prometheus keeps room for others; the names are the caller's.

    Raises:
        PrometheusError: Prometheus cannot be used.
    """
    async with PrometheusClient(access) as prometheus:
        return {name: await prometheus.query_range(query, times) for name, query in queries.items()}


def ask_now(access: PrometheusAccess, queries: Mapping[str, str], times: TimeRange) -> dict[str, Series]:
    """Ask several queries, and wait for the answers.

    Raises:
        PrometheusError: Prometheus cannot be used.
    """
    return asyncio.run(ask(access, queries, times))
