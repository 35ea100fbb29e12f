"""The command, run as a process against the simulator."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import parallel_openai as po
from parallel_openai import cli
from parallel_openai._files import run_command
from parallel_openai._files.pipes import piped
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.terminals import Terminal, posix_only

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "parallel_openai"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with po.local.simulator.serve(max_requests_per_minute=None) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-simulated")
        yield server


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100"}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], env=environment(), capture_output=True, encoding="utf-8", timeout=60, check=False
    )


def write_requests(count: int, **more: object) -> Path:
    path = Path("requests.jsonl")
    lines = [
        {"model": "gpt-5-mini", "messages": [{"role": "user", "content": f"Say {n}."}], "metadata": {"row": n}, **more}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results(path: str = "requests_results.jsonl") -> list[list[object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.usefixtures("server")
def test_run_writes_a_line_for_each_request() -> None:
    write_requests(5)
    done = command("run", "--requests_filepath", "requests.jsonl", "--save-filepath", "out.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "Done: 5 succeeded, 0 failed. Results: out.jsonl"
    assert sorted(line[2]["row"] for line in results("out.jsonl")) == [0, 1, 2, 3, 4]  # type: ignore[index]


def test_run_resumes_where_it_stopped(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    write_requests(3)
    assert cli.main(["run", "--requests-filepath=requests.jsonl"]) == 0
    write_requests(5)
    assert cli.main(["run", "--requests-filepath=requests.jsonl"]) == 0
    assert "3 known already" in capsys.readouterr().err
    assert server.stats()["received"] == len(results()) == 5


@pytest.mark.usefixtures("server")
def test_requests_may_be_read_from_stdin_and_results_written_to_stdout() -> None:
    requests = write_requests(3).read_bytes()
    lines = []
    for words in ([], ["--save_filepath", "-"]):
        ended = subprocess.run(
            [*COMMAND, "run", "--requests_filepath", "-", *words],
            input=requests,
            env=environment(),
            capture_output=True,
        )
        assert ended.returncode == 0, ended.stderr
        lines.append([json.loads(line) for line in ended.stdout.splitlines()])
    assert len(lines[0]) == 3
    assert lines[0] == lines[1]  # known already, so that nothing was asked twice
    assert b"3 known already" in ended.stderr
    assert {path.suffix for path in Path(".parallel_openai").iterdir()} <= {"", ".jsonl", ".lock", ".origins"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_requests_may_come_through_a_named_pipe(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    requests = write_requests(2).read_bytes()
    os.mkfifo("pipe")
    for more in ([], ["--save_filepath", "out.jsonl"]):
        feeding = threading.Thread(target=Path("pipe").write_bytes, args=[requests])
        feeding.start()
        assert cli.main(["run", "--requests_filepath", "pipe", *more]) == 0
        feeding.join()
        assert "2 succeeded" in capfd.readouterr().err
    assert len(results("out.jsonl")) == 2
    with pytest.raises(InvalidInputError, match="pipe is a pipe, but requests are read more than once"):
        po.process_api_requests_from_file("pipe", "out.jsonl", progress=False)
    assert server.stats()["received"] == 4


def test_results_of_a_requests_file_may_be_written_to_stdout(
    server: Server, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    write_requests(2)
    assert cli.main(["run", "--requests_filepath", "requests.jsonl", "--save_filepath", "-"]) == 0
    assert capfdbinary.readouterr().out == Path("requests_results.jsonl").read_bytes()


@pytest.mark.usefixtures("server")
def test_run_with_failed_rows_counts_them_and_exits_with_0() -> None:
    write_requests(2, temperature="warm")
    done = command("run", "--requests_filepath", "requests.jsonl")
    assert done.returncode == 0
    assert done.stderr.count("WARNING Line 2 of requests.jsonl failed (") == 1
    assert "0 succeeded, 2 failed" in done.stderr
    assert all(isinstance(line[1], list) for line in results())


@posix_only
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_with_closed_standard_streams_succeeds(closed: str) -> None:
    write_requests(2)
    run = f"{shlex.join(COMMAND)} run --requests_filepath requests.jsonl {closed}"
    assert subprocess.run(run, shell=True, env=environment(), timeout=60, check=False).returncode == 0
    assert len(results()) == 2


@posix_only
def test_in_a_terminal_each_failed_request_is_logged_once_above_the_bar(server: Server) -> None:
    server.set(latency=0.5)
    write_requests(2, temperature="warm")
    terminal = Terminal(300)
    subprocess.run(
        [*COMMAND, "run", "--requests_filepath", "requests.jsonl"],
        env=environment(),
        stderr=terminal.slave,
        timeout=60,
        check=True,
    )
    terminal.close()
    *told, bar, _ = terminal.lines()
    assert sorted(line.partition(" of")[0] for line in told) == ["WARNING Line 1", "WARNING Line 2"]
    assert "| 2/2 [0:0" in bar


@pytest.mark.usefixtures("server")
def test_a_high_logging_level_silences_the_log() -> None:
    write_requests(2, temperature="warm")
    done = command("run", "--requests_filepath", "requests.jsonl", "--logging_level", "50")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--requests_filepath", "nothing.jsonl"], "parallel-openai: There is no requests file nothing.jsonl"),
        (["--save_filepath", "x"], "the following arguments are required: --requests_filepath"),
        (["--requests_filepath", "x", "--max_requests_per_minute", "many"], "'many' is neither a number nor none"),
        (["--requests_filepath", "x", "--logging_level", "loud"], "'loud' is not a level; give 10, 20, 30, 40 or 50"),
        (["--requests_filepath", "x", "--max-attempt", "3"], "no option --max-attempt. Did you mean --max-attempts?"),
        (["--requests_filepath", "x", "--zzz"], "there is no option --zzz."),
        (["--requests_filepath", "requests.jsonl", "--max_attempts", "0"], "max_attempts must be a number above 0"),
        (["--requests_filepath", "requests.jsonl", "--token_encoding_name", "x"], "'x'"),
    ],
    ids=["no-file", "no-option", "no-number", "no-level", "near-miss", "far-miss", "out-of-range", "no-encoding"],
)
def test_invalid_input_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_requests(1)
    with pytest.raises(SystemExit) as end:
        sys.exit(cli.main(["run", *words]))
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_mistyped_option_does_not_echo_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--requests_filepath", "x", "--apikey=sk-secret", "sk-secret"])
    told = capsys.readouterr().err
    assert "Did you mean --api_key?" in told
    assert "secret" not in told


def test_a_stray_argument_is_not_echoed_and_the_verbs_help_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--requests_filepath", "x", "sk-secret"])
    assert capsys.readouterr().err == (
        "parallel-openai run: a value was given without an option before it; write --option VALUE.\n"
        "See parallel-openai run --help.\n"
    )


def test_a_wrong_key_is_exit_code_3_and_not_shown() -> None:
    write_requests(3)
    with po.local.simulator.serve(required_api_key="sk-right") as server:
        url = f"{server.base_url}/chat/completions"
        done = command("run", "--requests_filepath=requests.jsonl", f"--request_url={url}", "--api_key=sk-wrong-secret")
    assert done.returncode == 3
    assert "Check the API key" in done.stderr.splitlines()[-1]
    assert "sk-wrong-secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_results_that_cannot_be_written_are_exit_code_1(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    write_requests(1)
    assert cli.main(["run", "--requests_filepath=requests.jsonl", "--save_filepath=requests.jsonl/out.jsonl"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert server.stats()["received"] == 0


@pytest.mark.parametrize("verb", [("run",), ("batch", "submit")], ids=" ".join)
def test_a_file_without_a_valid_line_is_code_2(server: Server, verb: tuple[str, ...]) -> None:
    Path("requests.jsonl").write_text('no JSON\n["no request"]\n')
    assert cli.main([*verb, "--requests_filepath=requests.jsonl"]) == 2
    with open("requests.jsonl", "a") as file:
        file.write(json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}) + "\n")
    assert cli.main([*verb, "--requests_filepath=requests.jsonl"]) == 0
    Path("requests.jsonl").write_text("")
    assert cli.main([*verb, "--requests_filepath=requests.jsonl"]) == 0


def test_a_used_up_budget_is_exit_code_4_and_says_how_to_resume(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    write_requests(9, max_completion_tokens=16)
    assert cli.main(["run", "--requests_filepath=requests.jsonl", "--budget-tokens=100"]) == 4
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("What is left of the budget of 100 tokens is too small for the next request. The same call")
    assert 0 < server.stats()["received"] < 9
    assert cli.main(["run", "--requests_filepath=requests.jsonl", "--budget_usd=1", "--deadline=60"]) == 0
    assert len(results()) == 9


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_is_exit_code_130_and_says_how_to_resume(server: Server) -> None:
    server.set(latency=2)
    write_requests(3)
    server.script([{"latency": 0}], matching="Say 1.")
    process = subprocess.Popen(
        [*COMMAND, "run", "--requests_filepath", "requests.jsonl"], env=environment(), stderr=subprocess.PIPE, text=True
    )
    while not Path("requests_results.jsonl").exists() or b"choices" not in Path("requests_results.jsonl").read_bytes():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told.splitlines()[-1] == "Run the same command again to resume; finished results are kept."
    assert "Traceback" not in told
    assert len(results()) == 3  # what was on its way is taken in


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("verb", ["simulate"])
def test_a_server_exits_cleanly_at_ctrl_c(verb: str) -> None:
    process = subprocess.Popen([*COMMAND, verb], env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=30)
    assert (process.returncode, told.splitlines()[-1].split(" accepted")[0]) == (0, "0 requests received, 0")


def test_an_interrupted_server_does_not_promise_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "stand", cli.Verb("stands", "", lambda parser: None, interrupted))
    assert cli.main(["stand"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_simulator_takes_its_settings_from_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "--burst-seconds", "0"]) == 2
    assert capsys.readouterr().err == "burst_seconds is 0; give a number above 0.\n"


def test_a_model_takes_its_settings_from_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--threads", "0", "--model_path", "none.gguf"]) == 2
    assert "threads must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["simulate", "--help"], ["serve", "--help"]])
def test_each_verb_has_help_that_names_every_option_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 0
    assert "--max-" not in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"parallel-openai {po.__version__}\n"


def test_logging_levels_may_be_numbers_or_names() -> None:
    assert [run_command._logging_level(text) for text in ("10", "warning", "ERROR")] == [
        10,
        logging.WARNING,
        logging.ERROR,
    ]


def test_limits_may_be_none_to_read_them_from_the_server() -> None:
    assert [run_command._limit(text) for text in ("none", "1500", "1.5")] == [None, 1500.0, 1.5]


def test_an_interrupt_while_reading_stdin_leaves_no_partial_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = iter([b'{"model": "m"}'])

    def read(count: int) -> bytes:
        for piece in pieces:
            return piece
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(read=read)))
    with pytest.raises(KeyboardInterrupt), piped("-", None):
        pass
    assert [path.name for path in Path(".parallel_openai").iterdir()] == [".gitignore"]
