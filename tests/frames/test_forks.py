"""A process that forks in the middle of a run: neither it nor its child hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from parallel_openai.local.simulator import Server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")

BEGIN = """
    import faulthandler, os, sys, threading, time
    import pandas as pd
    import parallel_openai as po

    url, kind = sys.argv[1:]

    def ask(client, name, count=1):
        df = pd.DataFrame({"text": [f"{name} {n}" for n in range(count)]})
        options = {"client": client, "progress": False, "save_to": f"{name}.jsonl"}
        out = po.process_dataframe(df, "text", model="gpt-4o-mini", **options)
        assert out["status"].eq("succeeded").all()

    account = po.Client(url, max_concurrent_requests=2, shared="forks" if kind == "shared" else None)
    if kind == "pool":
        account = po.Client.pool([account])
    pd.DataFrame({"text": ["a"]}).copy().to_csv()  # what pandas does at its first use may hang as well
    asking = threading.Thread(target=ask, args=(account, "parent", 8))
    asking.start()

    def child(client):
        faulthandler.dump_traceback_later(60, exit=True)
        with client:
            ask(client, f"child{os.getpid()}")
"""


def run(server: Server, kind: str, script: str) -> None:
    code = textwrap.dedent(BEGIN) + textwrap.dedent(script)
    command = [sys.executable, "-W", "ignore", "-c", code, server.base_url, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("start", range(2))
def test_a_process_forked_at_any_moment_of_a_run_can_run_and_exit(server: Server, start: int) -> None:
    server.set(latency=0.1)
    script = f"""
    children = []
    for n in range(3):
        time.sleep(0.02 + 0.025 * {start})
        children.append(os.fork())
        if not children[-1]:
            child(po.Client(url))
            sys.exit()
    assert not any(os.waitpid(pid, 0)[1] for pid in children)
    asking.join()
    """
    run(server, "own", script)


@pytest.mark.parametrize("kind", ["client", "pool", "shared"])
def test_a_forked_process_does_not_wait_for_its_parents_requests_in_flight(server: Server, kind: str) -> None:
    server.set(latency=1.0)
    script = """
    time.sleep(2.0)
    pid = os.fork()
    if not pid:
        child(account)
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0
    asking.join()
    """
    run(server, kind, script)
