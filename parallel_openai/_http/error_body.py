"""Reads the error in an answer's JSON, in the many forms that servers and gateways use: its code, reason and wait.

If a gateway or proxy sent a web page instead, its title stands for it.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from itertools import islice
from typing import Any

#: OpenAI's codes for what other servers write in `type` or in the message.
_SAME_CODES = {
    "exceed_context_size_error": "context_length_exceeded",
    "ContextWindowExceededError": "context_length_exceeded",
    "tokens_limit_reached": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
}
#: What servers say of a prompt that is too long, although most of them give it no code of its own.
_TOO_LONG = re.compile(
    r"(?i)too large to process|larger than the max context size|tokens\. However, you requested|prompt is too long|"
    r"(?:prompt|input)(?: token length)? (?:is )?too long\b|longer than the (?:model's context|maximum model) length|"
    r"exceed(?:s|ed)?(?: the)?(?: available context size| maximum allowed length| max length| model token limit)|"
    r"too large for model with|must be less than (?:max_seq_len|the context length)|range of input length|prompt 超长|"
    r"`inputs` tokens \+|tokens in the prompt cannot exceed"
)
_CONTENT = re.compile(
    r"(?i)\bflagged\b|\bmoderation\b|content[ _-](?:management[ _-])?(?:policy|filter)|responsible_?ai_?policy|"
    r"safety[ _](?:system|check)|data_?inspection|content exists risk|content violates|considered high risk|"
    r"violated guardrail|guardrail checks[^.]{0,40} failed|hooks_failed|blocked (?:due to security|input|output)|"
    r"sensitive ?(?:content|information)|敏感(?:内容|信息|词)|"
    r"(?:content|input|output|prompt)\b[^.]{0,30}\b(?:inappropriate|new_sensitive|unsafe)"
)
_MONEY = re.compile(
    r"(?i)insufficient[ _](?:\w+_)?(?:quota|balance|credit|fund)|balance is insufficient|exceeded your current quota|"
    r"not enough balance|credit balance|(?:out of|no|not enough|more|any) credits?\b(?! (?:were|was|will|have|has) )|"
    r"\bbilling\b|payment[ _]required|\bover budget\b|budget has been exceeded|spend(?:ing)?[ _](?:limit|cap)|"
    r"in arrears|\boverdue\b|usage limit exceeded for|(?:package|plan|subscription)\b[^.]{0,20} expired|"
    r"set inference limit|\bfree (?:trial|tier|allocated)\b[^.]{0,40} (?:exhausted|exceeded)|"
    r"exhausted (?:its|the) free trial|"
    r"余额不足|额度不足|额度已用尽|欠费"
)
#: The same in an error of a status that single rows get too. An error may repeat a row, but does not begin with it.
_NO_MONEY_FIRST = re.compile(
    r"(?i)your credit balance is too low|you have reached your specified (?:\w+ )?api usage limits|"
    r"account \S+ is suspended"
)
_DENIED_FIRST = re.compile(r"(?i)(?:this )?organization has been (?:restricted|disabled)")
_NO_KEY_FIRST = re.compile(r"(?i)(?:incorrect|invalid|missing) api[ -]key\b|api key (?:not valid|expired)")
#: Alibaba's limit of tokens a minute, although it comes with the code and the words of an account without money.
_TOKENS_A_MINUTE = re.compile(r"#token-limit\b")
#: A limit per day or longer, in words or in Google's quota names: `requests_per_day`, `RequestsPerDayPerProject`.
_DAY = re.compile(
    r"(?i)(?:\b|_)(?:per|a|each|every)[ _-]day(?:\b|_)|(?-i:PerDay)|/ ?day\b|\b(?:daily|tomorrow|midnight|for today)\b|"
    r"\b(?:rpd|tpd)\b|usage limit|(?:hour|week|month) (?:allocated )?quota|"
    r"(?:requests?|tokens?|calls?) ?(?:per|a|each|every|in|/) ?(?:month|week|24[ -]?h)|"
    r"\b(?:weekly|monthly|24[ -]?h(?:ours?)?) (?:\w+ )?(?:limit|quota|cap|allowance)\b|使用上限"
)
_MINUTE = re.compile(r"(?i)(?:\b|_)per[ _-](?:minute|second|hour)(?:\b|_)|(?-i:Per(?:Minute|Second|Hour))|/ ?min")
_OVERLOAD = re.compile(
    r"(?i)overloaded|server[ _](?:is )?busy|model is (?:(?:currently |still )?loading|not ready)|model has crashed|"
    r"(?:no|insufficient|at) capacity|capacity temporarily exceeded|rate[ _-]limit(?:ed|s)?[ _](?:exceeded|reached)|"
    r"secondary rate limit|\brate-limited\b|too many requests|throttl"
)
#: An error up to where it may begin to quote something; Cloudflare says `AiError: ` before all of its own.
_UNQUOTED = re.compile(r"(?:\w+Error: )?[^'\"`:\u2018\u201c]*")
#: The HTTP status that an error in an answer of status 200 stands for, by its code.
_STATUSES = {"rate_limit_exceeded": 429, "rate_limit_error": 429}
#: The same for MiniMax's own codes.
_MINIMAX = {"1002": 429, "1004": 401, "2013": 400, "2049": 401, "2056": 429}
#: The fields in which some gateways wrap an answer; the last is Ollama's own.
_WRAPPERS = ("data", "result", "response", "message")
#: The fields that hold the words of an error, of which the first counts.
_SAID_IN = ("message", "detail", "errors", "msg", "error_msg", "Message")
_TRY_AGAIN = re.compile(
    r"(?i)(?:(?:try|retry)(?: again)? (?:in|after)|(?:please|must|to) wait(?: for)?|resets? (?:in|after)) "
    r"((?:\d+(?:\.\d+)?\s*(?:ms|[dhms])[a-z]*\s*)+)"
)
_AMOUNT = re.compile(r"(?i)(\d+(?:\.\d+)?)\s*(milli|ms|d|h|m|s)")
#: Names of fields that state a wait, and of those that state when it ends; compared as lower-case letters only.
_WAITS = re.compile(r"retry(?:after|delay|in)(?:s|sec|seconds)?|resets?(?:in|after)(?:s|sec|seconds)?")
_ENDS = re.compile(r"(?:x?ratelimit)?(?:resets?(?:at|time)?)|retryat")
#: Fields that repeat what a row asked, or what the model said to it: words that tell nothing of the server.
_ECHOES = frozenset({"flagged_input", "input", "messages", "prompt", "failed_generation"})
_LONGEST = 400 * 86_400.0
#: Seconds. No wait in words is so long: it is thirty thousand years.
_ENDLESS = 1e12
_SECONDS = {"milli": 0.001, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NO_ERROR = re.compile(r"(?i)\W*(?:0|none|null|nil|ok|success|false|no error)?\W*")
#: Finish reasons of an answer that broke off, such as `network_error` or DeepSeek's `insufficient_system_resource`.
_UNFINISHED = re.compile(r"(?i)error|abort|insufficient|interrupt|cancel|time_?out|fail|overload|^(?:load|unknown)$")
_DEEPEST = 4
#: Fields of an error that are read, and characters at the beginning and at the end of each.
_MOST_FIELDS, _PART = 1000, 2**14
#: A web page within other text. (Text that begins with a tag is taken for a page as a whole.)
_PAGE = re.compile(r"(?is)<(?:!doctype\s+html|html\b|head\b|body\b).*?(?:</html\s*>|$)")
_TITLE = re.compile(r"(?is)<(title|h1)\b[^<>]{0,200}>(.{1,500}?)</\1")
_NO_WORDS = re.compile(r"(?is)<(script|style)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)|<[^<>]*>")
#: Characters of a page searched for its title, and, if it has none, for its words.
_MOST, _WORDS = 2**16, 2**13
_LONGEST_TITLE = 100


def error_of(data: Any, status: int) -> Mapping[str, Any] | None:
    """The error in an answer's JSON, if any, in OpenAI's form: a `message`, and often a `code` and a `type`.

    >>> error_of({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, 200)
    {'message': 'login fail', 'code': 401}
    >>> error_of({"choices": [{"finish_reason": "error", "error": {"message": "Upstream broke."}}]}, 200)["message"]
    'Upstream broke.'
    """
    if isinstance(data, list) and data:  # Google's compatible endpoint wraps its errors in a list.
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = (data.get("error") and _real(data["error"])) or _in_choices(data) or ("output" in data and _in_status(data))
    if isinstance(error, list):
        error = error[0] or error
    if isinstance(error, dict):
        return error
    said = None
    for name in _SAID_IN:  # a loop is faster than a generator, for each row
        if name in data and said is None and _real(data[name]):
            said = data[name]
    if isinstance(said, list) and isinstance(said[0], dict) and said[0].get("message"):
        said = said[0]  # Cloudflare's
    beside = data if status >= 400 else {}
    if error:  # some servers put only a flag here, and the message beside it
        return {**beside, "message": error if isinstance(error, str) else str(said or error)}
    base = data.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        code = base["status_code"]
        return {"message": str(base.get("status_msg") or f"status {code}"), "code": _MINIMAX.get(str(code))}
    if isinstance(said, dict) and beside:
        return error_of({"error": said.get("error") or said}, status)
    return {**beside, "message": said if isinstance(said, str) else str(said)} if said and beside else None


def may_hold_answer(data: Any) -> bool:
    """Whether JSON of another form than the endpoint's has something beside its words that may be an answer.

    >>> may_hold_answer({"code": 0, "msg": "done", "data": {"choices": []}}), may_hold_answer({"code": 1, "data": None})
    (True, False)
    """
    return isinstance(data, dict) and any(data.get(name) and isinstance(data[name], (dict, list)) for name in _WRAPPERS)


def _real(error: Any) -> Any:
    """The error, or None if its fields are empty or report success, as some servers send with every answer."""
    said = error.values() if isinstance(error, dict) else (error,)
    return error if any(each and not (isinstance(each, str) and _NO_ERROR.fullmatch(each)) for each in said) else None


def _in_choices(data: Mapping[str, Any]) -> Any:
    """The error of a choice that broke off."""
    choices = data.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        reason, error = choice.get("finish_reason"), choice.get("error") and _real(choice["error"])
        if error or (isinstance(reason, str) and reason != "stop" and _UNFINISHED.search(reason)):
            broke_off = f"The model's answer broke off (finish_reason {reason!r})."
            return error or {"message": broke_off, "code": "unfinished"}
    return None


def _in_status(data: Mapping[str, Any]) -> Any:
    """The error of a Responses API answer that broke off."""
    if data.get("status") not in ("failed", "cancelled"):
        return None
    return {"message": f"The model's answer broke off (status {data['status']!r}).", "code": "unfinished"}


def code_of(error: Mapping[str, Any]) -> str:
    """The error's code. If it is a number, the type or a known name in the message is used instead.

    >>> code_of({"code": 400, "type": "exceed_context_size_error", "message": "too long"})
    'context_length_exceeded'
    """
    words = [str(error[name]) for name in ("code", "type") if error.get(name) and not isinstance(error[name], bool)]
    named = [word for word in words if not word.lstrip("-").isdigit()]
    message = str(error.get("message") or "")
    if any(map(_TOO_LONG.search, _texts(error))):
        return "context_length_exceeded"
    for name, code in _SAME_CODES.items():
        if name in (named[:1] or [""])[0] or name in message:
            return code
    return named[0] if named else ""


def status_of(error: Mapping[str, Any], status: int) -> int:
    """The HTTP status that an error in an answer of status 200 stands for, if its code says; else the answer's own.

    A bad key is a 401 and a blocked account a 403, even if the server answers 400; a server that is overloaded is a
    503, even if it answers 400 or 403.

    >>> status_of({"code": 400, "message": "API key not valid. Please pass a valid API key."}, 400)
    401
    """
    code = str(next((error[name] for name in ("code", "status", "statusCode") if error.get(name)), ""))
    message = str(error.get("message") or "")
    if status in (200, 400) and (_NO_KEY_FIRST.match(message) or _DENIED_FIRST.match(message)):
        return 401 if _NO_KEY_FIRST.match(message) else 403
    if status in (400, 403) and not error.get("param") and is_overload(error, may_be_rows=True):
        return 503
    if status != 200:
        return status
    if re.fullmatch("[45][0-9]{2}", code):
        return int(code)
    return _STATUSES.get(code_of(error), status)


def is_about_content(error: Mapping[str, Any]) -> bool:
    """Whether the prompt is refused for its content.

    >>> is_about_content({"code": 403, "message": "Input was flagged", "metadata": {"reasons": ["violence"]}})
    True
    """
    metadata = error.get("metadata")
    return (isinstance(metadata, Mapping) and bool(metadata.get("reasons"))) or any(map(_CONTENT.search, _texts(error)))


def is_overload(error: Mapping[str, Any], *, may_be_rows: bool = False) -> bool:
    """Whether the server is overloaded or not ready yet.

    Args:
        may_be_rows: whether a single row may have caused such an error, which may then quote the row's own words.

    >>> is_overload({"message": "Model is loading"}), is_overload({"type": "overloaded_error", "message": "Wait."})
    (True, True)
    >>> is_overload({"message": "Bad input: Is it overloaded?"}, may_be_rows=True)
    False
    """
    texts = (_UNQUOTED.match(text)[0] if may_be_rows else text for text in _texts(error))  # type: ignore[index]
    return any(map(_OVERLOAD.search, texts))


def is_about_day(error: Mapping[str, Any]) -> bool:
    """Whether a daily (or longer) limit is used up.

    >>> is_about_day({"message": "Rate limit exceeded: free-models-per-day"})
    True
    """
    texts = list(_texts(error))
    return any(map(_DAY.search, texts)) and not any(map(_MINUTE.search, texts))


def is_about_money(error: Mapping[str, Any], *, may_be_rows: bool = False) -> bool:
    """Whether the account is out of money or credit.

    Args:
        may_be_rows: whether a single row may have caused such an error, which may then repeat the row's own words.

    >>> is_about_money({"message": "Insufficient balance"}), is_about_money({"message": "See aka.ms/oai/quotaincrease"})
    (True, False)
    """
    if may_be_rows:
        return _NO_MONEY_FIRST.match(str(error.get("message") or "")) is not None
    return any(map(_MONEY.search, _texts(error)))


def is_tokens_a_minute(error: Mapping[str, Any]) -> bool:
    """Whether it is a limit of tokens a minute that is worded as if the account had no money."""
    return any(map(_TOKENS_A_MINUTE.search, _texts(error)))


def wait_in(error: Any, now: float | None = None) -> float | None:
    """Seconds that the error asks to wait, in its fields or its text; None if it does not.

    Args:
        now: the server's time, to which points in time in the error are relative.

    >>> wait_in({"message": "Rate limit reached. Please try again in 1m12s."})
    72.0
    >>> wait_in({"details": [{"@type": "RetryInfo", "retryDelay": "17s"}]}), wait_in({"retry_after_ms": 250})
    (17.0, 0.25)
    >>> wait_in({"reset_at": 1_800_000_005}, 1_800_000_000), wait_in({"resetAt": "1970-01-01T00:02:00Z"}, 30.0)
    (5.0, 90.0)
    """
    for name, value in _fields(error):
        name, seconds = re.sub("[^a-z]", "", name.lower()), None
        if name in ("retryafterms", "retryinms"):
            seconds = _until(value, 0.0, in_ms=True)
        elif _WAITS.fullmatch(name):
            seconds = _seconds(f"{value}")
        elif _ENDS.fullmatch(name):
            seconds = _until(value, time.time() if now is None else now)
        if seconds is not None and seconds < _LONGEST:
            return seconds
    for text in _texts(error):
        if (found := _TRY_AGAIN.search(text)) and (seconds := _seconds(found[1]) or 0.0) < _ENDLESS:
            return seconds
    return None


def _until(moment: Any, now: float, *, in_ms: bool = False) -> float | None:
    """Seconds until a moment given as a date, a Unix time in seconds or milliseconds, or seconds from now."""
    if type(moment) not in (int, float, str):
        return None
    try:
        number = float(moment)
    except (ValueError, OverflowError):
        return _until_date(str(moment), now)
    number = number / 1000 if in_ms or number > 1e11 else number
    return max(0.0, number - now if number > 1e9 else number)


def _until_date(moment: str, now: float) -> float | None:
    try:
        date = datetime.fromisoformat(moment.strip().replace("Z", "+00:00"))
    except ValueError:
        return _seconds(moment)
    return max(0.0, date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp() - now)


def _seconds(text: str) -> float | None:
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    amounts: list[tuple[str, str]] = _AMOUNT.findall(text)
    return sum((float(number) * _SECONDS[unit.lower()] for number, unit in amounts), 0.0) if amounts else None


def _texts(error: Any) -> Iterator[str]:
    """The error's texts, of long ones the beginning and the end: an error may repeat a picture of megabytes."""
    for _, value in islice(_fields(error), _MOST_FIELDS):
        if isinstance(value, str):
            yield value if len(value) <= 2 * _PART else f"{value[:_PART]} {value[-_PART:]}"


def _fields(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The name and value of each field that is neither an object nor a list, nested ones too."""
    items = value.items() if isinstance(value, Mapping) else (("", each) for each in value)
    for name, each in items:
        if name in _ECHOES:
            continue
        if isinstance(each, (Mapping, list)):
            if depth < _DEEPEST:
                yield from _fields(each, depth + 1)
        else:
            yield str(name), each


def without_page(text: str, sender: str = "") -> str:
    """The text with any web page in it replaced by the page's title.

    >>> without_page("<html><head><title>502 Bad Gateway</title></head></html>", "nginx")
    "a web page of nginx and no answer of the API: '502 Bad Gateway'"
    >>> without_page("Say <b>yes</b>.")
    'Say <b>yes</b>.'
    """
    text = text[:_MOST].lstrip("\ufeff \t\r\n")
    found = None if text.startswith("<") else _PAGE.search(text)
    if found is None and not text.startswith("<"):
        return text
    page = text if found is None else found[0]
    summary = f"a web page{f' of {sender}' if sender else ''} and no answer of the API: {_title(page)}"
    return summary if found is None else f"{text[: found.start()]}{summary}{text[found.end() :]}"


def is_page(body: bytes) -> bool:
    """Whether a body is a web page or other XML."""
    return body[:200].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def body_summary(body: bytes, headers: Mapping[str, str]) -> str:
    """A summary of a body that is not JSON: the title if it is a web page, else its first 200 characters."""
    text = body[:_MOST].decode("utf-8", "replace")
    return without_page(text, headers.get("server", "")[:50])[:200].strip()


def _title(page: str) -> str:
    found = _TITLE.search(page)
    words = " ".join(html.unescape(_NO_WORDS.sub(" ", found[2] if found else page[:_WORDS])).split())
    return f"'{words[:_LONGEST_TITLE]}'" if words else "one without a title"
