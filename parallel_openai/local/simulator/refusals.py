"""Error responses of the API: statuses, bodies and `retry-after`."""

from __future__ import annotations

import math
import time
from email.utils import formatdate
from typing import Any

import orjson

from parallel_openai.local.simulator.limits.account import Lack, duration

HELP = "https://platform.openai.com/account/rate-limits"


class Refusal(Exception):
    """An error response of the API.

    >>> Refusal(400, "No messages.", code="empty_array", param="messages").body()
    b'{"error":{"message":"No messages.","type":"invalid_request_error","param":"messages","code":"empty_array"}}'
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        dimension: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.code, self.param = status, message, type, code, param
        self.headers = headers or {}
        self.dimension = dimension

    def error(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        return orjson.dumps({"error": self.error()})


def rate_limited(lack: Lack, *, model: str, style: str, retry_after: str | float) -> Refusal:
    """The 429 for an exhausted limit."""
    headers = {} if lack.seconds is None else retry_after_headers(lack.seconds, retry_after)
    if style == "azure":
        # Azure's code is the status, and its message mentions quota although no credit is involved.
        wait = f"Please retry after {math.ceil(lack.seconds or 0)} seconds. " if lack.seconds is not None else ""
        message = (
            f"Requests to the ChatCompletions_Create Operation have exceeded the call rate limit of your current "
            f"pricing tier. {wait}Please go here: https://aka.ms/oai/quotaincrease if you would like to further "
            f"increase the default rate limit by a quota increase."
        )
        return Refusal(429, message, type=lack.dimension, code="429", headers=headers, dimension=lack.dimension)
    name = f"{lack.dimension} per {lack.span} ({lack.dimension[0].upper()}P{lack.span[0].upper()})"
    numbers = f"Limit {lack.limit:.0f}, "
    if lack.seconds is None:
        message = (
            f"Request too large for {model} in organization org-simulated on {name}: {numbers}"
            f"Requested {lack.requested:.0f}. The input or output tokens must be reduced in order to run successfully. "
            f"Visit {HELP} to learn more."
        )
    else:
        message = (
            f"Rate limit reached for {model} in organization org-simulated on {name}: {numbers}Used {lack.used:.0f}, "
            f"Requested {lack.requested:.0f}. Please try again in {duration(lack.seconds)}. Visit {HELP} to learn more."
        )
    return Refusal(
        429, message, type=lack.dimension, code="rate_limit_exceeded", headers=headers, dimension=lack.dimension
    )


def retry_after_headers(seconds: float, style: str | float) -> dict[str, str]:
    """The headers that say when to retry, in one of the `RETRY_AFTER` styles or with a fixed value.

    >>> retry_after_headers(1.25, "seconds"), retry_after_headers(1.25, "exact"), retry_after_headers(1.25, 60)
    ({'retry-after': '2'}, {'retry-after': '1.25'}, {'retry-after': '60'})
    >>> retry_after_headers(1.25, "ms")
    {'retry-after': '2', 'retry-after-ms': '1250'}
    """
    whole = str(math.ceil(seconds - 1e-6))
    if style == "none":
        return {}
    if style == "seconds":
        return {"retry-after": whole}
    if style == "exact":
        return {"retry-after": f"{math.ceil(seconds * 1000 - 1e-6) / 1000:g}"}
    if style == "ms":
        return {"retry-after": whole, "retry-after-ms": str(math.ceil(seconds * 1000 - 1e-6))}
    if style == "date":
        return {"retry-after": formatdate(math.ceil(time.time() + seconds), usegmt=True)}
    return {"retry-after": f"{style:g}" if isinstance(style, (int, float)) else style}


def slow_down() -> Refusal:
    return Refusal(
        429,
        "Too many requests in a short time. Slow down, and grow your request rate step by step.",
        type="requests",
        code="slow_down",
    )


def resource_unavailable() -> Refusal:
    message = "Resource Unavailable. The flex tier has no capacity for this request at the moment; try again later."
    return Refusal(429, message, type="server_error", code="resource_unavailable")


def insufficient_quota() -> Refusal:
    return Refusal(
        429,
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        type="insufficient_quota",
        code="insufficient_quota",
    )


def invalid_api_key(key: str) -> Refusal:
    if not key:
        return Refusal(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    return Refusal(
        401,
        f"Incorrect API key provided: {masked(key)}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


def masked(key: str) -> str:
    """The key with all but its ends masked, as the API prints it.

    >>> masked("sk-0123456789abcdef"), masked("sk-short")
    ('sk-0***********cdef', '********')
    """
    return f"{key[:4]}{'*' * (len(key) - 8)}{key[-4:]}" if len(key) >= 16 else "*" * len(key)


def by_status(status: int, code: str | None = None) -> Refusal:
    """The API's usual error for a status, optionally with another code.

    >>> by_status(503).code, by_status(500).type
    ('server_is_overloaded', 'server_error')
    """
    messages: dict[int, tuple[str, str, str | None]] = {
        400: ("The request is not valid.", "invalid_request_error", None),
        401: ("Incorrect API key provided: ****.", "invalid_request_error", "invalid_api_key"),
        403: (
            "Country, region, or territory not supported",
            "request_forbidden",
            "unsupported_country_region_territory",
        ),
        404: ("The model does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"),
        408: ("The request timed out.", "server_error", None),
        409: ("The resource was changed by another request.", "invalid_request_error", None),
        413: ("The request is too large.", "invalid_request_error", None),
        422: ("The request could not be processed.", "invalid_request_error", None),
        429: (f"Rate limit reached for requests. Visit {HELP} to learn more.", "requests", "rate_limit_exceeded"),
        500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
        502: ("Bad gateway.", "server_error", None),
        503: ("The server is currently overloaded. Please try again later.", "server_error", "server_is_overloaded"),
        504: ("Gateway timeout.", "server_error", None),
    }
    message, type, default_code = messages.get(status, (f"Simulated HTTP {status}.", "server_error", None))
    return Refusal(status, message, type=code if code == "insufficient_quota" else type, code=code or default_code)
