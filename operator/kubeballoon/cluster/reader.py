"""This module reads from the Kubernetes API with little more than Python's own HTTP client, for kubectl-balloon.

A command lives for a moment, so what counts is how soon it is ready: requests follow each other on one connection.
"""

from __future__ import annotations

import json
import os
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Self
from urllib.parse import SplitResult, urlencode, urlsplit

from kubeballoon.cluster import kubeconfig
from kubeballoon.cluster.errors import ApiError, BusyError, Object, UnreachableError, error_of, unbroken
from kubeballoon.cluster.impersonation import Impersonation

METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE = 64
"""Objects in a page of a list: a NodePressure has 40 KB with twenty VMs, and half a megabyte with 250."""
DEADLINE = 10.0
"""Seconds within which a request is answered, unless the user says otherwise."""

_ATTEMPTS = 5  # an API server may say for some seconds that it is busy, after a CRD was installed or upgraded
_RETRY_SECONDS = 1.0  # the pause that it asks for
_CHUNK = 1 << 18  # bytes
_GZIP = zlib.MAX_WBITS | 16  # zlib's way to ask for a gzip header


class ApiReader:
    """An ApiReader reads objects and lists; it is closed, or used as a context manager.

    Attributes:
        namespace: the kubeconfig's namespace, for objects whose namespace the user leaves out.
    """

    def __init__(
        self, access: kubeconfig.Access, user: Impersonation | None = None, deadline: float | None = DEADLINE
    ) -> None:
        """Wrap a loaded configuration.

        Args:
            access: how to reach the API server.
            user: as whom to read; what it leaves open, the kubeconfig says.
            deadline: seconds after which a request has failed; None for never.

        Raises:
            ApiError: attributes of a user are to be impersonated, but no user, or a file of the configuration cannot
                be read.
        """
        self.namespace = access.namespace
        self._access = access
        self._deadline = deadline
        self._server = urlsplit(access.host)
        self._connection: HTTPConnection | None = None
        self._load: Callable[[], kubeconfig.Access] | None = None
        try:
            who = access.impersonation if user is None else access.impersonation.merge(user)
            self._impersonation = tuple(who.headers())
            self._tls = _tls(access) if self._server.scheme == "https" else None
        except (ValueError, OSError) as error:
            raise ApiError(f"no access to a cluster: {unbroken(error)}") from error

    @classmethod
    def connect(
        cls,
        path: Path | None = None,
        context: str | None = None,
        user: Impersonation | None = None,
        deadline: float | None = DEADLINE,
    ) -> Self:
        """Load a kubeconfig, or the pod's service account; the arguments are those of ``load`` and of the class.

        Raises:
            ApiError: there is no usable configuration.
        """
        reader = cls(kubeconfig.load(path, context), user, deadline)
        reader._load = lambda: kubeconfig.load(path, context)
        return reader

    def renew(self) -> None:
        """Load the configuration again, if it was loaded: credentials may last for minutes only.

        Raises:
            ApiError: there is no usable configuration any more.
        """
        if self._load is not None:
            self.close()
            self._access = self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the API server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, accept: str = "application/json", **query: str) -> Object:
        """Read an object or a list.

        Raises:
            ApiError: the API server cannot be reached or refuses.
        """
        target = f"{self._server.path}{path}{'?' if query else ''}{urlencode(query)}"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._request(path, target, accept)
            except BusyError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_RETRY_SECONDS)
        raise AssertionError("the loop returns or raises")

    def items(self, path: str, accept: str = "application/json", page: int = PAGE, **query: str) -> Iterator[Object]:
        """Read the objects of a collection, a page at a time.

        Raises:
            ApiError: the API server cannot be reached or refuses.
        """
        query["limit"] = str(page)
        while True:
            answer = self.get(path, accept, **query)
            yield from answer["items"] or ()  # an empty list comes as null
            token = answer["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def metadata(self, path: str, **query: str) -> list[Object]:
        """Read the metadata of a collection's objects, without their contents."""
        return [item["metadata"] for item in self.items(path, METADATA_ONLY, 500, **query)]

    def names(self, path: str, **query: str) -> set[str]:
        """Read the names of a collection's objects, without their contents."""
        return {metadata["name"] for metadata in self.metadata(path, **query)}

    def _request(self, path: str, target: str, accept: str) -> Object:
        end = None if self._deadline is None else time.monotonic() + self._deadline
        try:
            status, reason, body = self._exchange(target, accept, end)
        except TimeoutError as error:
            self.close()
            raise UnreachableError(f"the API server did not answer GET {path} within {self._deadline:g}s") from error
        except (OSError, HTTPException, zlib.error) as error:
            self.close()
            raise UnreachableError(f"the API server cannot be reached: {unbroken(error) or repr(error)}") from error
        if status >= 400:  # noqa: PLR2004 - HTTP
            raise error_of(status, body.decode(errors="replace"), reason, f"GET {path}")
        try:
            answer: Object = json.loads(body)
        except ValueError as error:
            raise UnreachableError(f"GET {path} was not answered with JSON") from error
        return answer

    def _exchange(self, target: str, accept: str, end: float | None) -> tuple[int, str, bytes]:
        """Send a request and read its answer, once more if the server had closed the kept connection meanwhile."""
        kept = self._connection is not None
        try:
            return self._send(target, accept, end)
        except TimeoutError:
            raise
        except (OSError, HTTPException):
            if not kept:
                raise
            self.close()
            return self._send(target, accept, end)

    def _send(self, target: str, accept: str, end: float | None) -> tuple[int, str, bytes]:
        connection = self._connection = self._connection or _connect(self._server, self._access, self._tls)
        connection.timeout = _left(end)
        if connection.sock is not None:
            connection.sock.settimeout(_left(end))
        connection.putrequest("GET", target, skip_accept_encoding=True)
        headers = {"Accept": accept, "Accept-Encoding": "gzip", "User-Agent": "kubectl-balloon"}
        if token := self._access.api_key.get("BearerToken"):
            headers["Authorization"] = token
        for name, value in (*headers.items(), *self._impersonation):
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.reason, _read(response, connection, end)


def _read(response: HTTPResponse, connection: HTTPConnection, end: float | None) -> bytes:
    """Read a body, each part of it within what is left of the deadline."""
    parts = []
    while True:
        if connection.sock is not None:
            connection.sock.settimeout(_left(end))
        part = response.read1(_CHUNK)
        if not part:
            break
        parts.append(part)
    response.close()  # or the connection would take the next request for one too many
    body = b"".join(parts)
    return zlib.decompress(body, _GZIP) if response.headers.get("Content-Encoding") == "gzip" else body


def _left(end: float | None) -> float | None:
    """Compute the seconds that are left of a deadline.

    Raises:
        TimeoutError: none are.
    """
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _NamedTlsConnection(HTTPSConnection):
    """A _NamedTlsConnection checks the server's certificate for another name than the one it is reached by."""

    def __init__(self, host: str, port: int | None, tls: ssl.SSLContext, server_name: str) -> None:
        super().__init__(host, port, context=tls)
        self._tls_context, self._server_name = tls, server_name

    def connect(self) -> None:
        """Connect, through a proxy where there is one, and secure the connection."""
        HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._server_name)


def _connect(server: SplitResult, access: kubeconfig.Access, tls: ssl.SSLContext | None) -> HTTPConnection:
    """Prepare a connection, which is made with its first request.

    Raises:
        OSError: the configuration names no host, or a proxy of a kind that is not supported.
    """
    if not server.hostname:
        raise OSError(f"{access.host!r} is not the URL of an API server")
    host, port = server.hostname, server.port or (443 if tls is not None else 80)
    proxy = _proxy(server, access)
    first, first_port = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
    if tls is None:
        connection: HTTPConnection = HTTPConnection(first, first_port)
    else:
        connection = _NamedTlsConnection(first, first_port, tls, access.tls_server_name or host)
    if proxy is not None:
        connection.set_tunnel(host, port)
    return connection


def _proxy(server: SplitResult, access: kubeconfig.Access) -> SplitResult | None:
    """Find the proxy to use: the kubeconfig's, or the environment's.

    Raises:
        OSError: it is of a kind that is not supported.
    """
    url = access.proxy
    if url is None and any(name.lower().endswith("_proxy") for name in os.environ):
        from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - most users have no proxy

        url = None if proxy_bypass(server.netloc) else getproxies().get(server.scheme)
    if not url:
        return None
    proxy = urlsplit(url)
    if proxy.scheme != "http":
        raise OSError(f"the proxy {url} is not an http:// one, the only kind that kubectl-balloon supports")
    return proxy


def _tls(access: kubeconfig.Access) -> ssl.SSLContext:
    """Prepare TLS.

    Raises:
        OSError: a certificate or key cannot be read.
    """
    context = ssl.create_default_context(cafile=access.ssl_ca_cert)
    # Clusters' own authorities are often older than Python 3.13's strict rules for certificates.
    with suppress(AttributeError):
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not access.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if access.cert_file is not None:
        context.load_cert_chain(access.cert_file, access.key_file)
    return context
