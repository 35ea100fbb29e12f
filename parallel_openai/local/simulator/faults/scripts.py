"""Scripted answers, for tests that need a given answer at a given time."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from parallel_openai.local.simulator.faults.faults import FAILED, FLAWS, REFUSED
from parallel_openai.local.simulator.refusals import Refusal, by_status

KEYS = ("status", "headers", "body", "code", "message", "fault", "latency")
OTHER_FAULTS = frozenset(
    {"reset", "hang", "truncated", "malformed", "error_in_200", "wrong_type", "close_keepalive", "gzip_bomb"}
    | {"endless", "redirect"}
)
FAULTS = FLAWS | REFUSED | FAILED | OTHER_FAULTS


@dataclass(frozen=True)
class Scripted:
    """One scripted answer. Without `body`, a 200 is the ordinary answer and any other status the ordinary error."""

    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    code: str | None = None
    message: str | None = None
    fault: str | None = None
    latency: float | None = None

    @property
    def is_ordinary(self) -> bool:
        """Whether the request is handled as usual, limits included."""
        return self.status == 200 and self.body is None

    def refusal(self) -> Refusal:
        refusal = by_status(self.status, self.code)
        refusal.message = self.message or refusal.message
        return refusal


class Scripts:
    """Queues of scripted answers; those for matching bodies take precedence.

    >>> scripts = Scripts()
    >>> scripts.add([429, 500])
    >>> scripts.add([503], matching="Paris")
    >>> scripts.next(b'{"prompt": "In Paris"}').status, scripts.next(b"{}").status, scripts.next(b"{}").status
    (503, 429, 500)
    >>> scripts.next(b"{}")
    """

    def __init__(self) -> None:
        self._any: deque[Scripted] = deque()
        self._matching: list[tuple[bytes, deque[Scripted]]] = []

    def add(self, answers: Iterable[Any], matching: str | None = None) -> None:
        script = deque(map(scripted, answers))
        if matching is None:
            self._any.extend(script)
        else:
            self._matching.append((orjson.dumps(matching)[1:-1], script))

    def next(self, raw: bytes) -> Scripted | None:
        if self._matching:
            text = _normalized(raw)
            for matching, script in self._matching:
                if script and matching in text:
                    return script.popleft()
        return self._any.popleft() if self._any else None


def scripted(answer: Any) -> Scripted:
    """The record of a script's entry, which is a status or a mapping.

    >>> scripted({"status": 429, "code": "slow_down"}).refusal().code
    'slow_down'
    >>> scripted({"stauts": 429})
    Traceback (most recent call last):
    ValueError: A scripted answer has no 'stauts'; it takes status, headers, body, code, message, fault, latency.
    """
    if isinstance(answer, int):
        return Scripted(status=answer)
    for name in answer.keys() - {*KEYS, "body_base64"}:
        raise ValueError(f"A scripted answer has no {name!r}; it takes {', '.join(KEYS)}.")
    if answer.get("fault") not in {None, *FAULTS}:
        raise ValueError(f"There is no fault {answer['fault']!r}; there are {', '.join(sorted(FAULTS))}.")
    given = dict(answer)
    if (packed := given.pop("body_base64", None)) is not None:
        given["body"] = base64.b64decode(packed)
    if isinstance(body := given.get("body"), str):
        given["body"] = body.encode()
    elif body is not None and not isinstance(body, bytes):
        given["body"] = orjson.dumps(body)
    return Scripted(**given)


def as_json(answer: Any) -> Any:
    if isinstance(answer, Mapping) and isinstance(body := answer.get("body"), bytes):
        rest = {name: value for name, value in answer.items() if name != "body"}
        return {**rest, "body_base64": base64.b64encode(body).decode()}
    return answer


def _normalized(raw: bytes) -> bytes:
    """JSON as orjson writes it, so that escapes do not prevent a match."""
    try:
        return orjson.dumps(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return raw
