"""Finds an API's base URL from the caller's arguments and the environment, with Azure's variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from parallel_openai._arguments import a_type, mapping_of
from parallel_openai._http.addresses.url_checks import check_url, mask_url
from parallel_openai._requests.endpoints import endpoint_at
from parallel_openai.errors import InvalidInputError

OPENAI_URL = "https://api.openai.com/v1"
#: Endpoints below a deployment in Azure's dated API. The others are beside the deployments.
_IN_DEPLOYMENTS = frozenset({"chat/completions", "completions", "embeddings"})
_AZURE_HOST = re.compile(r".+\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us|cn)")
Query = list[tuple[str, str]]
_VERSION = re.compile(r"/v\d+(beta|alpha)?(/|$)")


@dataclass(frozen=True, slots=True)
class BaseURL:
    """An API's address, and the path of each request below it.

    >>> BaseURL("https://x.openai.azure.com/openai?api-version=1", True, True).path("chat/completions", "gpt 5")
    'deployments/gpt%205/chat/completions'
    >>> BaseURL("https://api.openai.com/v1").path("chat/completions", "gpt-5-mini")
    'chat/completions'
    """

    base_url: str  # without a trailing slash; a query in it is sent with every call
    is_azure: bool = False  # a key goes into the header `api-key`
    # Chat, completions and embeddings are below a deployment, as in Azure's dated API.
    in_deployments: bool = False
    # The deployment for all requests; None means the one named like the request's model.
    deployment: str | None = None

    @property
    def needs_key(self) -> bool:
        """Whether the server is known to require a key."""
        host = urlsplit(self.base_url).hostname or ""
        return host == "api.openai.com" or bool(_AZURE_HOST.fullmatch(host))

    @property
    def place(self) -> str:
        """What identifies the server in journals, independent of the API version and the key."""
        root = self.base_url.partition("?")[0]
        return root if self.deployment is None else f"{root}/deployments/{self.deployment}"

    def path(self, path: str, model: Any) -> str:
        """The path of a request to an endpoint, relative to the base URL."""
        name = self.deployment or (model if isinstance(model, str) else None)
        if self.in_deployments and path in _IN_DEPLOYMENTS and name:
            return f"deployments/{quote(name, safe='')}/{path}"
        return path

    def about_404(self, path: str, body: bytes) -> str | None:
        """What is probably wrong with the address, after an HTTP 404. None if it is the model that does not exist."""
        said = body.lower()
        if b"deploymentnotfound" in said:
            if self.deployment is None:
                return None
            return f"The Azure resource has no deployment {self.deployment!r} (HTTP 404). A new one takes some minutes."
        if b"model" in said or b"no endpoints" in said:  # the latter is OpenRouter's, if nobody serves the model
            return None
        root, question, query = self.base_url.partition("?")
        sentence = f"There is nothing at {mask_url(f'{root}/{path}{question}{query}')} (HTTP 404)."
        if _VERSION.search(urlsplit(root).path) or self.in_deployments:
            return f"{sentence} Is base_url right?"
        return (
            f"{sentence} Most servers have their API below /v1: base_url={mask_url(f'{root}/v1{question}{query}')!r}."
        )


def find_base_url(
    base_url: str | None,
    *,
    azure_endpoint: str | None = None,
    azure_deployment: str | None = None,
    api_version: str | None = None,
    query: Mapping[str, str] | None = None,
    environment: Mapping[str, str],
) -> BaseURL:
    """The address that the arguments and the environment name.

    >>> find_base_url("http://127.0.0.1:8000/v1/chat/completions/", environment={}).base_url
    'http://127.0.0.1:8000/v1'
    >>> find_base_url("https://x.openai.azure.com", environment={}).base_url
    'https://x.openai.azure.com/openai/v1'
    >>> find_base_url("https://x.openai.azure.com", api_version="2024-10-21", environment={}).base_url
    'https://x.openai.azure.com/openai?api-version=2024-10-21'
    """
    if base_url and azure_endpoint:
        raise InvalidInputError("Give base_url or azure_endpoint, not both.")
    for name, given in (("base_url", base_url), ("azure_endpoint", azure_endpoint)):
        if isinstance(given, str) and not given.strip():  # probably an unset variable: do not send data to OpenAI
            raise InvalidInputError(f"{name} is empty; is the variable set that it comes from? None is the default.")
    wants_azure = bool(azure_endpoint or azure_deployment or api_version)
    url = base_url or azure_endpoint
    if not url:
        url, from_azure = _from_environment(environment, wants_azure)
        wants_azure = wants_azure or from_azure
    if not isinstance(url, str):
        raise InvalidInputError(f"base_url must be a string such as 'https://host/v1', not {a_type(url)}.")
    url = url.strip()  # a value from an .env file may have spaces around it
    check_url(url)
    parts = urlsplit(url)
    path = _without_endpoint(parts.path.rstrip("/"))
    extra = dict(mapping_of(query, "query"))
    if api_version:
        extra["api-version"] = api_version
    query_items = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in extra]
    query_items += extra.items()
    is_azure = wants_azure or "/deployments/" in path or bool(_AZURE_HOST.fullmatch(parts.hostname or ""))
    if is_azure:
        return _azure(parts._replace(path=path), azure_deployment, query_items, environment, is_resource=wants_azure)
    return BaseURL(_joined(parts, path, query_items))


def _from_environment(environment: Mapping[str, str], wants_azure: bool) -> tuple[str, bool]:
    """The URL in the environment, and whether a variable of Azure's names it."""
    openai, azure = environment.get("OPENAI_BASE_URL"), environment.get("AZURE_OPENAI_ENDPOINT")
    if azure and (wants_azure or not (openai or environment.get("OPENAI_API_KEY"))):
        return azure, True
    if wants_azure and not openai:
        raise InvalidInputError(
            "azure_deployment= and api_version= need Azure's address too: AZURE_OPENAI_ENDPOINT or "
            "azure_endpoint='https://<name>.openai.azure.com'."
        )
    if openai == "":  # probably by mistake: do not send data to OpenAI
        raise InvalidInputError(
            "OPENAI_BASE_URL in the environment is empty: set it to your server's address, or unset it for OpenAI's."
        )
    return openai or OPENAI_URL, False


def _azure(
    parts: Any, deployment: str | None, query_items: Query, environment: Mapping[str, str], *, is_resource: bool
) -> BaseURL:
    """An address at Azure: its v1 path, which works like OpenAI's API, or the dated API with its deployments."""
    dated = "api-version" in dict(query_items)
    match = re.fullmatch(r"(.*)/deployments/([^/]+)", parts.path)
    if match is not None:
        root, named = match.groups()
        if deployment not in (None, named):
            raise InvalidInputError(f"azure_deployment is {deployment!r}, but the URL names the deployment {named!r}.")
        return BaseURL(_joined(parts, root, _with_version(query_items, environment)), True, True, named)
    if _VERSION.search(parts.path):
        if deployment is not None:
            raise InvalidInputError(f"Azure's v1 path has no deployments in it: pass model={deployment!r} instead.")
        return BaseURL(_joined(parts, parts.path, query_items), True)
    if parts.path not in ("", "/openai") and not is_resource:
        return BaseURL(_joined(parts, parts.path, query_items), True)
    root = parts.path if parts.path.endswith("/openai") else f"{parts.path}/openai"
    if dated or deployment is not None or environment.get("OPENAI_API_VERSION"):
        return BaseURL(_joined(parts, root, _with_version(query_items, environment)), True, True, deployment)
    return BaseURL(_joined(parts, f"{root}/v1", query_items), True)


def _with_version(query_items: Query, environment: Mapping[str, str]) -> Query:
    if "api-version" in dict(query_items):
        return query_items
    version = environment.get("OPENAI_API_VERSION")
    if not version:
        raise InvalidInputError(
            "Azure's deployments need the API's version: api_version='2024-10-21', or OPENAI_API_VERSION."
        )
    return [*query_items, ("api-version", version)]


def _without_endpoint(path: str) -> str:
    endpoint = endpoint_at(path)
    if endpoint is None or re.search(r"/deployments/[^/]+$", path):
        return path
    return path.removesuffix(f"/{endpoint.path}").rstrip("/")


def _joined(parts: Any, path: str, query_items: Query) -> str:
    text: str = urlunsplit(parts._replace(path=path, query=urlencode(query_items, quote_via=quote), fragment=""))
    return text
