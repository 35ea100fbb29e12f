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
from collections.abc import Iterator
from contextlib import contextmanager
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
litellm_settings:
  num_retries: 0
  request_timeout: 60
"""
#: LiteLLM would ask the network for prices and send its makers figures.
ALONE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_DOCS": "True"}


@contextmanager
def proxy(command: str, base_url: str, *, rpm: int | None) -> Iterator[str]:
    """LiteLLM in front of a server; gives its own base URL."""
    limits = f"rpm: {rpm}" if rpm else "{}"
    checks = 'optional_pre_call_checks: ["enforce_model_rate_limits"]' if rpm else "{}"
    text = CONFIG.format(base_url=base_url, limits=limits, checks=checks, key=KEY).replace("      {}\n", "")
    with tempfile.TemporaryDirectory() as folder:
        config, port = Path(folder) / "config.yaml", free_port()
        config.write_text(text.replace("  {}\n", ""))
        options = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        with running([command, *options], port, log=Path(folder) / "log", within=120, environment=ALONE):
            yield f"http://127.0.0.1:{port}"


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
        with proxy(options.command, server.base_url, rpm=None) as url:
            show_headers(url)
            run(url, server, options.rows, None, told=False)
            run(f"{url}/v1", server, options.rows, None, told=False)
            server.set(max_requests_per_minute=options.rpm, burst_seconds=1.0)
            show_headers(url)
            run(f"{url}/v1", server, options.rows, options.rpm, told=False)
            server.set(max_requests_per_minute=None)
        with proxy(options.command, server.base_url, rpm=options.rpm) as url:
            show_headers(url)
            run(f"{url}/v1", server, options.rows, options.rpm, told=True)
            run(f"{url}/v1", server, options.rows, options.rpm, told=False)


if __name__ == "__main__":
    main()
