"""Notices that a server refuses every request for the same reason, so that the cause is the run and not a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from parallel_openai._http.error_body import error_of, is_page
from parallel_openai._json import dumps
from parallel_openai._records import APIRequest, Response, Verdict
from parallel_openai._requests.endpoints import endpoint_at, mappings
from parallel_openai.errors import RequestRefusedError

#: This many equal refusals without an answer stop the run.
HANDFUL = 5
#: The same once there are answers, and only for a model that answered before and is gone, or for web pages.
MANY = 20
#: Fields that differ from row to row. A refusal that mentions one concerns that row only.
_OF_ROWS = frozenset({"messages", "input", "prompt"})
_ABOUT_A_ROW = re.compile(
    r"(?i)\b(?:content|contexts?|prompts?|inputs?|messages?|images?|tokens?|schema|length|too (?:long|large)|files?)\b"
)
_ROWS_CODES = frozenset({"context_length_exceeded", "content_filter", "response_too_large", "response_unreadable"})
#: Identifiers of a single request, which make otherwise equal messages differ.
_IDS = re.compile(r"[0-9a-fA-F-]{16,}|\breq[-_]\w+")


class EqualRefusals:
    """Counts successive refusals that agree in status, code, message, and the field that they name with its value."""

    def __init__(self) -> None:
        self._same: object = None
        self._count = 0
        self._answered = 0
        self.models: set[str | None] = set()  # those that have answered

    def check(
        self, request: APIRequest, response: Response, verdict: Verdict, *, answered: int, model: str | None = None
    ) -> None:
        """Note a request that failed for good.

        Args:
            answered: how many others of its run have answers. After any, most refusals concern single rows.
            model: the model, by the name in `models`.

        Raises:
            RequestRefusedError: a handful of refusals are equal.
        """
        if answered != self._answered:
            self._same, self._answered = None, answered
        body, is_late = request.request_json, answered > 0
        error = error_of(response.data, response.status) or {}
        field = _named_field(error, verdict, body)
        is_gone = model in self.models and _is_gone(response, verdict, field)
        if is_late and not is_gone and not _is_login(response, verdict):
            return
        if field is None and isinstance(body.get("input"), list):
            return  # the request holds many rows, and one of them may be to blame
        if not _may_be_the_runs(request, response, verdict, error, field):
            self._same, self._count = None, 0
            return
        words = _IDS.sub("", verdict.message or "")
        same = response.status, verdict.code, words, field, dumps(body.get(field)) if field else None
        # Without a field, one row in the request may be to blame.
        rows = request.asks_for if field and not is_late else 1
        self._count = self._count + rows if same == self._same else rows
        self._same = same
        if self._count >= (MANY if is_late else HANDFUL):
            since = "Since the last answer" if is_late else "Nothing was answered, and"
            reason = f"{since} {self._count} requests were refused alike: {verdict.message}"
            reason += "" if reason.endswith((".", "!", "?")) else "."
            refused = RequestRefusedError(f"{reason} {_advice(request, response, field)} No more are sent.")
            refused.model = str(body["model"]) if field == "model" else None
            raise refused


def models_like(model: str, listed: Any) -> list[str]:
    """The models in a server's list whose names are similar to this one, at most three.

    >>> models_like("gpt-5-mni", {"data": [{"id": "gpt-5-mini"}, {"id": "whisper-1"}]})
    ['gpt-5-mini']
    """
    models = mappings(listed.get("data")) if isinstance(listed, dict) else []
    return get_close_matches(model, [str(each.get("id")) for each in models], n=3, cutoff=0.5)


def _named_field(error: Mapping[str, Any], verdict: Verdict, body: Mapping[str, Any]) -> str | None:
    """The field of the body that the refusal is about, if it may be the same in every row."""
    param, said = _param(error), f"{verdict.code} {verdict.message}"
    if param is not None:
        return param if param in body and param not in _OF_ROWS else None
    for name in body:
        if name not in _OF_ROWS | {"model"} and re.search(
            rf"['\"`]{re.escape(name)}['\"`]|: {re.escape(name)}\b", said
        ):
            return name
    names_model = re.search(r"(?i)model|endpoint|deployment", said) and str(body.get("model") or "\0") in said
    return "model" if names_model or "model_not" in said or "DeploymentNotFound" in said else None


def _param(error: Mapping[str, Any]) -> str | None:
    """The top-level parameter that an error names."""
    param = error.get("param")
    return re.split(r"[.\[]", param.removeprefix("body."))[0] if isinstance(param, str) and param else None


def _may_be_the_runs(
    request: APIRequest, response: Response, verdict: Verdict, error: Mapping[str, Any], field: str | None
) -> bool:
    if verdict.code in _ROWS_CODES or response.status == 413:
        return False
    if verdict.code in ("malformed_response", "empty"):  # of each row all attempts, else it was sent again
        return True
    if verdict.kind != "fail" and not (verdict.broke or (response.status == 200 and error)):
        return False
    if field is not None:
        return True
    about_a_row = _param(error) in _OF_ROWS or _ABOUT_A_ROW.search(verdict.message or "")
    return bool(error or response.status not in (0, 200)) and not about_a_row


def _is_gone(response: Response, verdict: Verdict, field: str | None) -> bool:
    """Whether the server has the model no more."""
    return field == "model" and (response.status in (404, 410) or "model_not" in str(verdict.code))


def _is_login(response: Response, verdict: Verdict) -> bool:
    return verdict.code == "malformed_response" and _is_page(response)


def _is_page(response: Response) -> bool:
    return "html" in response.headers.get("content-type", "") or is_page(response.body)


def _advice(request: APIRequest, response: Response, field: str | None) -> str:
    """The advice in the error's message."""
    if field is not None:
        value = dumps(request.request_json[field]).decode()
        return f"Check {field}={value[:100]}.{_did_you_mean(field, request)}"
    if _is_page(response):
        return "That is a web page and not the API: a proxy's or a login's, or base_url is not right."
    if response.status >= 500:
        return "The server breaks at each of them: look into its log, or run the same again later."
    if response.status == 200 and not error_of(response.data, 200):
        return "That is not what this endpoint answers: base_url may not be right."
    return "Correct what all of them have in common."


def _did_you_mean(field: str, request: APIRequest) -> str:
    endpoint = endpoint_at(request.path)
    if endpoint is None or field in endpoint.parameters:
        return ""
    similar = get_close_matches(field, sorted(endpoint.parameters - _OF_ROWS), n=2, cutoff=0.7)
    return f" Did you mean {' or '.join(similar)}?" if similar else ""
