"""Split an endpoint's full URL, as in the Cookbook's script, into base URL and path."""

from __future__ import annotations

from urllib.parse import urlsplit

from parallel_openai._arguments import a_type
from parallel_openai._http.addresses.url_checks import mask_url
from parallel_openai._requests.endpoints import endpoint_at
from parallel_openai.errors import InvalidInputError


def split_url(request_url: str) -> tuple[str, str]:
    """The base URL and the path of an endpoint's full URL.

    >>> split_url("https://api.openai.com/v1/chat/completions")
    ('https://api.openai.com/v1', 'chat/completions')
    >>> split_url("https://host/openai/deployments/mine/chat/completions?api-version=2024-10-21")
    ('https://host/openai/deployments/mine?api-version=2024-10-21', 'chat/completions')
    """
    if not isinstance(request_url, str):
        raise InvalidInputError(f"request_url must be an endpoint's URL, not {a_type(request_url)}.")
    try:
        parts = urlsplit(request_url)
    except ValueError as error:
        raise InvalidInputError(f"request_url is not a valid URL, {request_url!r:.200}: {error}.") from None
    known = endpoint_at(parts.path)
    if known is not None:
        root = parts.path.rstrip("/").removesuffix("/" + known.path)
        return parts._replace(path=root).geturl(), known.path
    raise InvalidInputError(
        f"request_url must end in an endpoint such as /chat/completions or /embeddings, not {mask_url(request_url)!r}."
    )
