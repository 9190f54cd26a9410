"""One client for all requests: JSON in, JSON out, a deadline on each, and errors that fit on one line."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from kubeballoon.cluster.client_library import ConfigException, client, config

Object = dict[str, Any]

DEADLINE = 10.0
"""Seconds a request may take before it counts as failed."""

SILENCE = 70.0
"""Seconds without a word after which a watch is over: an API server sends at least a bookmark each minute."""

JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """A request failed; the text is one line for a person."""


class UnreachableError(ApiError):
    """The API server did not answer, or not in time: try again later."""


class BusyError(UnreachableError):
    """The API server asks to be asked again in a moment, as for a kind whose CRD has just been installed."""


class NotFoundError(ApiError):
    """There is no such object, or no such kind."""


class ConflictError(ApiError):
    """The object is not the one that was meant, or has changed since it was read."""


class ForbiddenError(ApiError):
    """A privilege is missing; the text names it."""


class ExpiredError(ApiError):
    """A watch cannot go on from where it was: list again."""


_ERRORS: Mapping[int, type[ApiError]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
    429: BusyError,
    500: UnreachableError,
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
}


class ApiClient:
    """A connection to one cluster. Close it, or use it as an async context manager."""

    def __init__(self, configuration: client.Configuration, field_manager: str, namespace: str = "default") -> None:
        """Wrap a loaded configuration.

        Args:
            configuration: where the API server is, and as whom to speak to it.
            field_manager: the name behind every write.
            namespace: what the configuration says is meant where none is named.
        """
        self._api = client.ApiClient(configuration)
        self._api.user_agent = field_manager
        self._field_manager = field_manager
        self.namespace = namespace

    @classmethod
    async def connect(cls, field_manager: str, kubeconfig: Path | None = None, context: str | None = None) -> Self:
        """Load a kubeconfig, the one named or the user's; without either, the pod's own service account.

        Raises:
            ClusterError: there is no usable configuration.
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
            elif "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                where = config.KUBE_CONFIG_DEFAULT_LOCATION
                raise ApiError(f"no access to a cluster: there is no kubeconfig {where}, and this is no pod")
        except (ConfigException, OSError) as error:
            raise ApiError(f"no access to a cluster: {_one_line(error)}") from error
        except (
            yaml.YAMLError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # it is not looked into first
            raise ApiError(f"no access to a cluster: the kubeconfig cannot be read: {_one_line(error)}") from error
        return cls(configuration, field_manager, namespace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self._api.close()

    async def get(self, path: str, **query: str) -> Object:
        """Read an object or a list."""
        return await self._request("GET", path, query=query)

    async def names(self, path: str) -> set[str]:
        """The names of a collection's objects, without their contents."""
        return {metadata["name"] for metadata in await self.metadata(path)}

    async def metadata(self, path: str) -> list[Object]:
        """The metadata of a collection's objects, without their contents."""
        answer = await self._request("GET", path, query={}, accept=METADATA_ONLY)
        return [item["metadata"] for item in answer["items"] or ()]  # null where there are none

    async def create(self, path: str, body: Object) -> Object:
        """Create an object in the collection at ``path``."""
        return await self._request("POST", path, body=body, query={"fieldManager": self._field_manager})

    async def replace(self, path: str, body: Object) -> Object:
        """Replace an object; its resourceVersion must still be current."""
        return await self._request("PUT", path, body=body, query={"fieldManager": self._field_manager})

    async def merge(self, path: str, body: Object) -> Object:
        """Merge-patch an object; a ``metadata.uid`` in the body is a precondition."""
        query = {"fieldManager": self._field_manager}
        return await self._request("PATCH", path, body=body, query=query, content_type=MERGE_PATCH)

    async def apply(self, path: str, body: Object) -> Object:
        """Server-side apply: create the object or take over the fields in ``body``."""
        query = {"fieldManager": self._field_manager, "force": "true"}
        return await self._request("PATCH", path, body=body, query=query, content_type=APPLY_PATCH)

    @asynccontextmanager
    async def watch(self, path: str, idle: float, **query: str) -> AsyncIterator[AsyncIterator[Object]]:
        """Watch a collection: yields the iterator of its events until the server ends it, or is not heard any more.

        Args:
            path: the collection.
            idle: seconds after which the server is asked to end the watch.
            query: selectors and the resourceVersion to start from.

        Raises:
            ExpiredError: the resourceVersion is too old.
            ClusterError: anything else that ends a watch early.
        """
        options = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(int(idle))}
        limits = aiohttp.ClientTimeout(total=idle + DEADLINE, connect=DEADLINE, sock_read=SILENCE)
        async with _in_time(f"GET {path}"):
            response = await self._open("GET", path, query=options, limits=limits)
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
        body: Object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Object:
        async with _in_time(f"{method} {path}"):
            response = await self._open(method, path, query=query, body=body, content_type=content_type, accept=accept)
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
        body: Object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type}
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        limits = limits or aiohttp.ClientTimeout(total=DEADLINE, connect=DEADLINE)
        answer = await self._api.call_api(*request, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        if response.status >= 400:  # noqa: PLR2004 - HTTP
            raise await _error(response, method, path)
        return response


@asynccontextmanager
async def _in_time(what: str) -> AsyncIterator[None]:
    """Hold a request to its deadline, and say in one line what became of it."""
    try:
        async with asyncio.timeout(DEADLINE):
            yield
    except TimeoutError as error:
        raise UnreachableError(f"the API server did not answer {what} within {DEADLINE:.0f}s") from error
    except aiohttp.ClientPayloadError as error:
        raise UnreachableError(f"the API server broke off {what}: {_one_line(error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnreachableError(f"the API server cannot be reached: {_one_line(error)}") from error


async def _error(response: aiohttp.ClientResponse, method: str, path: str) -> ApiError:
    text = await response.text()
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        unknown = response.status == 404  # noqa: PLR2004 - HTTP; of an object that is missing it tells in JSON
        message = "there is no such kind: is its CRD installed?" if unknown else text[:200] or response.reason
    kind = _ERRORS.get(response.status, ApiError)
    return kind(f"{method} {path}: {_one_line(message)}")


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: aiohttp refuses those over 128 KiB, and an object with its annotations may be longer."""
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
                kind = _ERRORS.get(event["object"].get("code", 0), ApiError)
                raise kind(f"watch {path}: {_one_line(event['object'].get('message', 'failed'))}")
            yield event
    except TimeoutError:
        return  # whether the server is still there shows when the watch goes on
    except (aiohttp.ClientError, ValueError) as error:
        raise UnreachableError(f"the watch of {path} broke off: {_one_line(error)}") from error


def contexts(kubeconfig: Path | None = None) -> list[str]:
    """The contexts of a kubeconfig, the one named or the user's."""
    known, _ = config.list_kube_config_contexts(None if kubeconfig is None else str(kubeconfig))
    return sorted(context["name"] for context in known)


def _has_kubeconfig() -> bool:
    return any(Path(path).expanduser().exists() for path in config.KUBE_CONFIG_DEFAULT_LOCATION.split(":"))


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
