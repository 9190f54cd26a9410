"""This module defines how requests to the Kubernetes API fail: one type for each thing that a caller may do about it.

It imports nothing that takes long, because kubectl-balloon needs it on each call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
"""An object of the Kubernetes API, as JSON."""


class ApiError(Exception):
    """A request failed; the text is one line for a person."""


class UnreachableError(ApiError):
    """The API server did not answer, or not in time; the same request may succeed later."""


class BusyError(UnreachableError):
    """The API server asks its client to retry in a moment, for example while a CRD is being installed.

    Attributes:
        retry_after: seconds after which it asks the client to retry; 0 if it does not say.
    """

    retry_after = 0.0


class NotFoundError(ApiError):
    """The API server has no such object, or no such kind."""


class ConflictError(ApiError):
    """The object has another uid than the request's, or has changed since it was read."""


class InvalidError(ApiError):
    """The API server cannot take the object, or a test in a JSON patch fails; the text does not always say which."""


class ForbiddenError(ApiError):
    """The client lacks a privilege; the text names it."""


class ExpiredError(ApiError):
    """The API server no longer knows the resourceVersion that a watch starts from; the objects must be listed anew."""


ERRORS: Mapping[int, type[ApiError]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
    413: InvalidError,
    422: InvalidError,
    429: BusyError,
    500: UnreachableError,
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
}

_TOO_LARGE = "etcdserver: request is too large", "trying to send message larger than max"
"""What etcd, and the API server's client of it, say of a large object; it comes with the status of a server's error."""


def error_of(status: int, text: str, reason: str | None, request: str) -> ApiError:
    """Make the error of an answer, from its HTTP status, its body and its reason phrase; ``request`` is named in it."""
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        # A missing object is answered with 404 and JSON; 404 without JSON means that the kind is missing.
        unknown_kind = status == 404  # noqa: PLR2004 - HTTP
        message = "there is no such kind: is its CRD installed?" if unknown_kind else text[:200] or reason
    too_large = any(text in str(message) for text in _TOO_LARGE)
    error_type = InvalidError if too_large else ERRORS.get(status, ApiError)
    return error_type(f"{request}: {unbroken(message)}")


def unbroken(text: object) -> str:
    """Write a text as one line. What is not printable stays in it, so another party's text needs more than this."""
    return " ".join(str(text).split())
