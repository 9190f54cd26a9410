"""This module sends all requests to the Kubernetes API: JSON in, JSON out, a deadline on each, one line per error."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from multidict import CIMultiDict

from kubeballoon.cluster.errors import (
    ERRORS,
    ApiError,
    BusyError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
    UnreachableError,
    error_of,
    unbroken,
)
from kubeballoon.cluster.impersonation import Impersonation
from kubeballoon.cluster.kubernetes_async import ConfigException, client, config

__all__ = [
    "ApiClient",
    "ApiError",
    "BusyError",
    "ConflictError",
    "ExpiredError",
    "ForbiddenError",
    "InvalidError",
    "NotFoundError",
    "Object",
    "Timeouts",
    "UnreachableError",
]

JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
OBJECT_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_IDLE_SECONDS = 80.0  # for which a connection without requests is kept: an API server closes it after 90


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts say how long the client waits for the API server.

    Attributes:
        request: seconds after which a request has failed.
        watch_silence: seconds without an event after which a watch has ended: an API server sends at least a bookmark
            each minute.
    """

    request: float = 10.0
    watch_silence: float = 70.0


_DEFAULT_TIMEOUTS = Timeouts()
_PAGE_OBJECTS = 100
"""Objects in a page of a list: of NodePressures about a megabyte, whose JSON is read in some hundredths of a second."""
_PAGE_METADATA = 1000
"""Objects in a page of metadata, which are as small as a kilobyte each."""
_EVERYTHING: Mapping[str, str] = {}
_NOBODY = Impersonation()


class _Connections(client.rest.RESTClientObject):
    """_Connections stay open between two heartbeats: a new one costs the API server as much as a heartbeat."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, keepalive_timeout=_IDLE_SECONDS)


class ApiClient:
    """An ApiClient is a connection to one cluster's API server; it is closed, or used as an async context manager.

    Attributes:
        namespace: the kubeconfig's namespace, for objects whose namespace the user leaves out.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        field_manager: str,
        namespace: str = "default",
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        impersonation: Impersonation = _NOBODY,
    ) -> None:
        """Wrap a loaded configuration.

        Args:
            configuration: the API server's address and the client's credentials.
            field_manager: the name under which the API server records every write.
            namespace: the namespace of objects whose namespace the user leaves out.
            timeouts: how long to wait for the API server.
            impersonation: the user as whom requests are made.

        Raises:
            ApiError: attributes of a user are to be impersonated, but no user.
        """
        self._api = client.ApiClient(configuration)
        self._api.rest_client = _Connections(configuration)
        self._api.user_agent = field_manager
        self._field_manager = field_manager
        self._timeouts = timeouts
        self._seconds_for_writes: Callable[[], float] | None = None
        self.namespace = namespace
        try:
            self._impersonation = tuple(impersonation.headers())
        except ValueError as error:
            raise ApiError(f"no access to a cluster: {error}") from error

    @classmethod
    async def connect(
        cls,
        field_manager: str,
        kubeconfig: Path | None = None,
        context: str | None = None,
        impersonation: Impersonation = _NOBODY,
    ) -> Self:
        """Load a kubeconfig, or the pod's service account where there is no kubeconfig.

        Args:
            field_manager: the name under which the API server records every write.
            kubeconfig: the kubeconfig's path; None for the user's own.
            context: the kubeconfig's context; None for its current one.
            impersonation: the user as whom requests are made; what it leaves open, the kubeconfig says.

        Raises:
            ApiError: there is no usable configuration.
        """
        if kubeconfig is not None and not kubeconfig.is_file():  # noqa: ASYNC240 - once, before anything runs
            raise ApiError(f"no access to a cluster: there is no kubeconfig {kubeconfig}")
        configuration = client.Configuration()
        namespace = "default"
        try:
            if kubeconfig is not None or context is not None or _has_kubeconfig():
                path = str(kubeconfig) if kubeconfig is not None else None
                loader = await config.load_kube_config(path, context=context, client_configuration=configuration)
                namespace = loader.current_context["context"].get("namespace") or namespace
                impersonation = _impersonation(loader).merge(impersonation)
            elif "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                where = config.KUBE_CONFIG_DEFAULT_LOCATION
                raise ApiError(f"no access to a cluster: there is no kubeconfig {where}, and this is no pod")
        except (ConfigException, OSError) as error:
            raise ApiError(f"no access to a cluster: {unbroken(error)}") from error
        # The library reads a kubeconfig without checking it first, so a malformed one fails anywhere.
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ApiError(f"no access to a cluster: the kubeconfig cannot be read: {unbroken(error)}") from error
        return cls(configuration, field_manager, namespace, impersonation=impersonation)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    def bound_writes(self, seconds_left: Callable[[], float]) -> None:
        """Break off writes that are under way when ``seconds_left``, which may grow meanwhile, has come to 0."""
        self._seconds_for_writes = seconds_left

    async def get(self, path: str, *, accept: str = JSON, **query: str) -> Object:
        """Read an object or a list, without contents if ``accept`` is OBJECT_METADATA_ONLY or METADATA_ONLY."""
        return await self._request("GET", path, query=query, accept=accept)

    async def pages(
        self, path: str, query: Mapping[str, str] = _EVERYTHING, *, metadata_only: bool = False
    ) -> AsyncIterator[Object]:
        """Read a collection in pages, each of which is a list object; one page has a few hundred objects at most.

        Args:
            path: the collection's path.
            query: selectors.
            metadata_only: whether only the objects' metadata are read.

        Raises:
            ExpiredError: the API server no longer knows what comes after a page; the list has to begin anew.
        """
        following = ""
        while True:
            limit = _PAGE_METADATA if metadata_only else _PAGE_OBJECTS
            page_query = {**query, "limit": str(limit), **({"continue": following} if following else {})}
            accept = METADATA_ONLY if metadata_only else JSON
            page = await self._request("GET", path, query=page_query, accept=accept)
            page["items"] = page["items"] or []  # an empty list comes as null
            yield page
            following = page.get("metadata", {}).get("continue") or ""
            if not following:
                return

    async def names(self, path: str) -> set[str]:
        """Read the names of a collection's objects, without their contents."""
        return {metadata["name"] for metadata in await self.metadata(path)}

    async def metadata(self, path: str) -> list[Object]:
        """Read the metadata of a collection's objects, without their contents."""
        return [item["metadata"] async for page in self.pages(path, metadata_only=True) for item in page["items"]]

    async def create(self, path: str, body: Object, *, strict: bool = False) -> Object:
        """Create an object in the collection at ``path``; with ``strict`` unknown fields are refused, not dropped."""
        query = {"fieldManager": self._field_manager, **({"fieldValidation": "Strict"} if strict else {})}
        return await self._request("POST", path, body=body, query=query)

    async def replace(self, path: str, body: Object) -> Object:
        """Replace an object; its resourceVersion must still be current."""
        return await self._request("PUT", path, body=body, query={"fieldManager": self._field_manager})

    async def delete(self, path: str, uid: str, version: str) -> None:
        """Delete an object, if it still has that uid and resourceVersion.

        Raises:
            ConflictError: it has another one.
        """
        await self._request("DELETE", path, query={}, body={"preconditions": {"uid": uid, "resourceVersion": version}})

    async def merge(self, path: str, body: Object) -> Object:
        """Merge-patch an object; a ``metadata.uid`` in the body is a precondition."""
        query = {"fieldManager": self._field_manager}
        return await self._request("PATCH", path, body=body, query=query, content_type=MERGE_PATCH)

    async def json_patch(self, path: str, operations: list[Object], *, dry_run: bool = False) -> Object:
        """Patch an object by operations in the order given; the first that fails, such as a test, undoes all.

        Raises:
            InvalidError: an operation fails, or what they make of the object is refused.
        """
        query = {"fieldManager": self._field_manager, **({"dryRun": "All"} if dry_run else {})}
        return await self._request("PATCH", path, body=operations, query=query, content_type=JSON_PATCH)

    async def apply(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create an object, or take over the fields in ``body``, by server-side apply; a dry run only checks that."""
        query = {"fieldManager": self._field_manager, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        return await self._request("PATCH", path, body=body, query=query, content_type=APPLY_PATCH)

    @asynccontextmanager
    async def watch(
        self, path: str, idle: float, *, accept: str = JSON, **query: str
    ) -> AsyncIterator[AsyncIterator[Object]]:
        """Watch a collection; the context is an iterator of its events.

        The iterator ends when the API server ends the watch, or has not sent anything for ``Timeouts.watch_silence``.

        Args:
            path: the collection's path.
            idle: seconds after which the API server is asked to end the watch.
            accept: OBJECT_METADATA_ONLY for events without the objects' contents.
            query: selectors and the resourceVersion to start from.

        Raises:
            ExpiredError: the resourceVersion is too old.
            ApiError: the watch was refused or broke off.
        """
        options = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(int(idle))}
        limits = aiohttp.ClientTimeout(
            total=idle + self._timeouts.request,
            connect=self._timeouts.request,
            sock_read=self._timeouts.watch_silence,
        )
        async with self._deadline(f"GET {path}"):
            response = await self._open("GET", path, query=options, limits=limits, accept=accept)
        try:
            yield _events(response, path)
        finally:
            response.close()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Object | list[Object] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Object:
        answering = self._answer(method, path, query=query, body=body, content_type=content_type, accept=accept)
        if method == "GET" or self._seconds_for_writes is None:
            return await answering
        return await _while_left(f"{method} {path}", answering, self._seconds_for_writes)

    async def _answer(self, method: str, path: str, **options: Any) -> Object:
        """Send a request, with the options that ``_open`` has, and return the JSON that answers it."""
        async with self._deadline(f"{method} {path}"):
            response = await self._open(method, path, **options)
            text = await response.read()
        try:
            answer: Object = json.loads(text)
        except ValueError as error:
            raise UnreachableError(f"{method} {path} was not answered with JSON") from error
        return answer

    async def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Object | list[Object] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type}
        _, url, serialized, content, form = await self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        limits = limits or aiohttp.ClientTimeout(total=self._timeouts.request, connect=self._timeouts.request)
        every_header = CIMultiDict([*serialized.items(), *self._impersonation])  # a user's groups have one each
        answer = await self._api.call_api(method, url, every_header, content, form, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        if response.status >= 400:  # noqa: PLR2004 - HTTP
            raise await _error(response, method, path)
        return response

    @asynccontextmanager
    async def _deadline(self, request: str) -> AsyncIterator[None]:
        """Hold a request to its deadline, and turn the errors of HTTP and of the network into one line."""
        seconds = self._timeouts.request
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise UnreachableError(f"the API server did not answer {request} within {seconds:.0f}s") from error
        except aiohttp.ClientPayloadError as error:
            raise UnreachableError(f"the API server broke off {request}: {unbroken(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"the API server cannot be reached: {unbroken(error)}") from error


async def _while_left(
    request: str, answering: Coroutine[Any, Any, Object], seconds_left: Callable[[], float]
) -> Object:
    """Await the answer to a write for as long as there are seconds left for it."""
    answer = asyncio.ensure_future(answering)
    try:
        while not answer.done():
            seconds = seconds_left()
            if seconds <= 0:
                raise UnreachableError(f"{request} was broken off: another replica may lead now")
            await asyncio.wait({answer}, timeout=seconds)
        return answer.result()
    finally:
        answer.cancel()


async def _error(response: aiohttp.ClientResponse, method: str, path: str) -> ApiError:
    error = error_of(response.status, await response.text(), response.reason, f"{method} {path}")
    seconds = response.headers.get("Retry-After", "")
    if isinstance(error, BusyError) and seconds.isdecimal():
        error.retry_after = float(seconds[:6])
    return error


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Split the body into lines of any length; aiohttp's own lines end at 128 KiB, and an object may be longer."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


async def _events(response: aiohttp.ClientResponse, path: str) -> AsyncIterator[Object]:
    try:
        async for line in _lines(response):
            event: Object = json.loads(line)
            if event["type"] == "ERROR":
                error_type = ERRORS.get(event["object"].get("code", 0), ApiError)
                raise error_type(f"watch {path}: {unbroken(event['object'].get('message', 'failed'))}")
            yield event
    except TimeoutError:
        return  # the API server is silent; the next watch shows whether it can still be reached
    except (aiohttp.ClientError, ValueError) as error:
        raise UnreachableError(f"the watch of {path} broke off: {unbroken(error)}") from error


def _impersonation(loader: Any) -> Impersonation:
    """Find as whom a kubeconfig's user acts; the library reads all of the user's entry but this.

    Raises:
        AttributeError, TypeError: the entry is malformed.
    """
    user = loader._user  # noqa: SLF001 - the library has no other name for the user of the context
    return Impersonation() if user is None else Impersonation.from_kubeconfig(user.value)


def _has_kubeconfig() -> bool:
    return any(Path(path).expanduser().exists() for path in config.KUBE_CONFIG_DEFAULT_LOCATION.split(":"))
