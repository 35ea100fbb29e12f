"""Our client through LiteLLM's proxy, which has limits of its own, in front of our simulator. By hand:

    python -m venv .litellm && .litellm/bin/pip install 'litellm[proxy]'
    python -m tests.servers.litellm --command .litellm/bin/litellm [--rows 600] [--rpm 240]

It prints how much of the proxy's limit was used, and fails when an answer was lost or paid for twice.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd

import parallel_openai as po
from parallel_openai.local import simulator
from tests.servers.processes import free_port, running

KEY = "sk-litellm-0123"
CONFIG = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: {base_url}
      api_key: sk-simulated
      {limits}
router_settings:
  num_retries: 0
  disable_cooldowns: true
  {checks}
general_settings:
  master_key: {key}
  {auth}
litellm_settings:
  num_retries: 0
  request_timeout: 60
"""
AUTH = """
from litellm.proxy._types import UserAPIKeyAuth

async def user_api_key_auth(request, api_key):
    return UserAPIKeyAuth(api_key="{key}", **{limits})
"""
#: LiteLLM would ask the network for prices and send its makers figures.
ALONE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_DOCS": "True"}


class Proxy:
    """A LiteLLM that can be killed and started again on its port."""

    def __init__(self, command: str, folder: Path, config: str) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        path = folder / "config.yaml"
        path.write_text(config)
        options = ["--config", str(path), "--host", "127.0.0.1", "--port", str(self._port), "--telemetry", "False"]
        self._command = [command, *options]
        self._running = ExitStack()

    def start(self) -> None:
        """Returns when it listens, after some ten seconds."""
        self._process = self._running.enter_context(
            running(self._command, self._port, log=self._folder / "log", within=120, environment=ALONE)
        )

    def kill(self) -> None:
        """At once, with all that is in flight."""
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        self._running.close()


@contextmanager
def litellm(
    command: str, base_url: str, *, rpm: int | None = None, key: Mapping[str, int] | None = None
) -> Iterator[Proxy]:
    """LiteLLM in front of a server.

    Args:
        rpm: the model's limit, told in the configuration.
        key: limits of whoever asks, as `rpm_limit` and `max_parallel_requests`. LiteLLM's own keys need a database, so
            a function of ours tells them.
    """
    limits = f"rpm: {rpm}" if rpm else "{}"
    checks = 'optional_pre_call_checks: ["enforce_model_rate_limits"]' if rpm else "{}"
    auth = "custom_auth: auth.user_api_key_auth" if key else "{}"
    text = CONFIG.format(base_url=base_url, limits=limits, checks=checks, auth=auth, key=KEY)
    text = "".join(line for line in text.splitlines(keepends=True) if line.strip() != "{}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "auth.py").write_text(AUTH.format(key=KEY, limits=dict(key or {})))
        proxy = Proxy(command, Path(folder), text)
        try:
            proxy.start()
            yield proxy
        finally:
            proxy.stop()


def show_headers(url: str) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"Hello at {time.time_ns()}."}]}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        names = [name for name in answer.headers if "limit" in name.lower() or "retry" in name.lower()]
        print("headers about limits:", {name: answer.headers[name] for name in names})


def run(url: str, server: simulator.Server, rows: int, rpm: int | None, *, told: bool) -> None:
    df = pd.DataFrame({"text": [f"{url} told={told} rpm={rpm}: row {number}." for number in range(rows)]})
    client = po.Client(url, KEY, max_requests_per_minute=rpm if told else None)
    before, began = server.stats()["received"], time.monotonic()
    out = po.process_dataframe(df, "text", model="gpt-4o-mini", client=client, progress=False)
    seconds = time.monotonic() - began
    stats = server.stats()
    report = po.last_run()
    assert report is not None
    allowed = None if rpm is None else rpm * seconds / 60
    print(
        f"limit {'none' if rpm is None else rpm}, {'told' if told else 'not told'}: {rows} rows in {seconds:.1f} s, "
        f"{rows / seconds:.1f}/s, "
        + (f"{rows / allowed:.0%} of the limit, " if allowed else "")
        + f"{report.rate_limit_errors} 429s, limits seen {dict(report.limits)}, errors {dict(report.errors)}"
    )
    assert out["status"].eq("succeeded").all(), out["error"].dropna().head(3).tolist()
    mine = collections.Counter(stats["charged"].values())
    print(f"  the simulator had {stats['received'] - before} requests; paid for more than once: {mine[2] + mine[3]}")
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", default=os.environ.get("LITELLM", "litellm"))
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--rpm", type=int, default=240)
    options = parser.parse_args()
    with simulator.serve(max_requests_per_minute=None, latency=0.05, headers="minute") as server:
        os.chdir(tempfile.mkdtemp())
        with litellm(options.command, server.base_url) as proxy:
            url = proxy.url
            show_headers(url)
            run(url, server, options.rows, None, told=False)
            run(f"{url}/v1", server, options.rows, None, told=False)
            server.set(max_requests_per_minute=options.rpm, burst_seconds=1.0)
            show_headers(url)
            run(f"{url}/v1", server, options.rows, options.rpm, told=False)
            server.set(max_requests_per_minute=None)
        with litellm(options.command, server.base_url, rpm=options.rpm) as proxy:
            url = proxy.url
            show_headers(url)
            run(f"{url}/v1", server, options.rows, options.rpm, told=True)
            run(f"{url}/v1", server, options.rows, options.rpm, told=False)


if __name__ == "__main__":
    main()
