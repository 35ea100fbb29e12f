"""The simulator in a separate process, and as a command."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from parallel_openai.local import simulator
from parallel_openai.local.simulator import __main__ as command

ROOT = Path(__file__).parents[2]


def ask(base_url: str) -> dict[str, object]:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi."}]}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{base_url}/chat/completions", body), timeout=10) as response:
        answer: dict[str, object] = json.load(response)
        return answer


def test_a_separate_process_takes_the_same_settings() -> None:
    settings = {"answer_tokens": (5, 5), "window": "sliding", "headers": "none", "models": None, "retry_after": "none"}
    with simulator.serve(separate_process=True, **settings) as server:
        ask(server.base_url)
        told = server.stats()
    assert told["settings"]["answer_tokens"] == [5, 5]
    assert (told["settings"]["headers"], told["settings"]["retry_after"]) == ("none", "none")
    assert told["completion_tokens"] == 5


def test_a_process_that_cannot_start_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with simulator.serve() as taken:
        port = int(taken.base_url.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(OSError, match="did not start on port"):
            simulator.serve(separate_process=True, port=port)
    assert "use" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_the_command_runs_until_it_is_interrupted_and_prints_statistics() -> None:
    arguments = [sys.executable, "-m", "parallel_openai.local.simulator", "--max-requests-per-minute", "60"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        ask(process.stdout.readline().strip())
        process.send_signal(signal.SIGINT)
        told = process.stdout.read()
    assert process.returncode == 0
    assert "export OPENAI_BASE_URL=http://127.0.0.1:" in told
    assert "1 requests received, 1 accepted, 1 answered" in told
    assert "of the requests that the limit allowed" in told


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_the_command_restores_the_handler_of_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while signal.getsignal(signal.SIGINT) is before:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    assert command.main(["--max_requests_per_minute", "none"]) == 0
    interrupting.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert "0 requests received" in capsys.readouterr().out


def test_the_command_explains_an_invalid_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--burst_seconds", "0"]) == 2
    assert capsys.readouterr().err == "burst_seconds is 0; give a number above 0.\n"
    assert command.main(["--port", "99999999"]) == 2
    assert "port must be 0-65535" in capsys.readouterr().err


def test_every_setting_is_explained_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    told = capsys.readouterr().out
    assert all(f"--{name}" in told for name, _, _ in command.options())


def test_a_switch_needs_no_value() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.parse_args(["--charge_refused", "--max-tokens-per-minute", "none"]).charge_refused is True


def test_the_summary_lists_refusals_and_faults() -> None:
    with simulator.serve(max_requests_per_minute=60) as server:
        server.script([{"fault": "empty"}])
        ask(server.base_url)
    assert "Faults: empty 1" in command.summary(server.stats())
