"""A refusal that concerns every request stops the run; one that concerns a row fails the row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import (
    AuthenticationError,
    PermissionDeniedError,
    RequestRefusedError,
    ServerUnreachableError,
)
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from tests.files.asking import chat, results, run, write
from tests.servers.recorder import Asked, recorder

ROWS = 60
FRAME = pd.DataFrame({"text": [f"row {number};" for number in range(ROWS)]})
MODEL = "gpt-4o-mni"
OPTIONS: dict[str, Any] = {"model": MODEL, "progress": False}


@pytest.fixture
def strict() -> Iterator[Server]:
    with simulator.serve(max_requests_per_minute=None, models=["gpt-4o-mini", "text-embedding-3-small"]) as running:
        yield running


CALLS: dict[str, Callable[[po.Client], Any]] = {
    "chat": lambda client: po.process_dataframe(FRAME, "text", client=client, **OPTIONS),
    "responses": lambda client: po.process_dataframe(FRAME, "text", endpoint="responses", client=client, **OPTIONS),
    "completions": lambda client: po.process_dataframe(FRAME, "text", endpoint="completions", client=client, **OPTIONS),
    "samples": lambda client: po.process_dataframe(FRAME, "text", samples=3, client=client, **OPTIONS),
    "labels": lambda client: po.label_dataframe(FRAME, "text", labels=["a", "b"], client=client, **OPTIONS),
    "compare": lambda client: po.compare(
        FRAME, {"1": "{text}", "2": "? {text}"}, labels=["a", "b"], client=client, **OPTIONS
    ),
    "embeddings": lambda client: po.embed_dataframe(FRAME, "text", rows_per_request=1, client=client, **OPTIONS),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_misspelt_model_stops_the_run_and_similar_names_are_suggested(strict: Server, call: str) -> None:
    with po.Client(strict.base_url) as client, pytest.raises(RequestRefusedError) as stopped:
        CALLS[call](client)
    assert 'Check model="gpt-4o-mni"' in str(stopped.value)
    assert "The server lists gpt-4o-mini" in str(stopped.value)
    assert strict.stats(charged=False)["received"] < 20
    assert stopped.value.partial["status"].eq("cancelled").sum() > ROWS / 2


def test_a_refused_pack_counts_as_several_refused_rows(strict: Server) -> None:
    with po.Client(strict.base_url) as client, pytest.raises(RequestRefusedError, match="lists gpt-4o-mini"):
        po.embed_dataframe(FRAME, "text", client=client, **OPTIONS)
    assert strict.stats(charged=False)["received"] <= 2


def test_a_refused_line_with_many_texts_counts_once(strict: Server) -> None:
    lines = [{"model": MODEL, "input": [f"text {number}" for number in range(20)]}] * 2
    write(*lines, {"model": "text-embedding-3-small", "input": ["a", "b"]})
    status = po.process_api_requests_from_file("in.jsonl", "out.jsonl", f"{strict.base_url}/embeddings")
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (1, 2)


def test_a_404_of_a_gateway_without_the_model_is_reported_as_a_missing_model() -> None:
    answer = refused(404, "No endpoints found for gpt-4o-mni.", code=404)
    with recorder(lambda asked: (404, answer)) as server, po.Client(f"{server.url}/v1") as client:
        with pytest.raises(RequestRefusedError, match=r'No endpoints found.*Check model="gpt-4o-mni"'):
            po.process_dataframe(FRAME, "text", client=client, **OPTIONS)
        assert len(server.asked) < 20


def test_after_a_correction_the_remaining_rows_are_sent(strict: Server) -> None:
    with po.Client(strict.base_url) as client:
        with pytest.raises(RequestRefusedError):
            po.process_dataframe(FRAME, "text", save_to="a.jsonl", client=client, **OPTIONS)
        strict.set(models=None)
        out = po.process_dataframe(FRAME, "text", save_to="a.jsonl", client=client, **OPTIONS)
    assert out["status"].eq("succeeded").all()


def test_a_file_run_stops_too_and_reports_its_counts(strict: Server) -> None:
    write(*({**chat(f"row {number}"), "model": MODEL} for number in range(ROWS)))
    with pytest.raises(RequestRefusedError, match="The server lists gpt-4o-mini") as stopped:
        run(strict)
    assert 5 <= stopped.value.partial.num_tasks_failed < 20
    assert all(isinstance(line[1], list) for line in results())


def test_rows_of_another_model_that_is_answered_keep_the_run_going(strict: Server) -> None:
    write(*({**chat(f"row {n}"), "model": "gpt-4o-mini" if n % 4 == 0 else MODEL} for n in range(ROWS)))
    status = run(strict)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (15, 45)


def refused(status: int, message: str, **error: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", **error}}).encode()


#: What servers say of a parameter, by their make.
PARAMETERS = {
    "OpenAI": (400, refused(400, "Unknown parameter: 'max_tokns'.", param="max_tokns", code="unknown_parameter")),
    "OpenAI, older": (400, refused(400, "Unrecognized request argument supplied: max_tokns", param=None, code=None)),
    "vLLM": (400, refused(400, "[{'type': 'extra_forbidden', 'loc': ('body', 'max_tokns'), 'msg': 'Extra'}]")),
    "FastAPI": (422, json.dumps({"detail": [{"loc": ["body", "max_tokns"], "msg": "Extra"}]}).encode()),
}


@pytest.mark.parametrize("make", PARAMETERS)
def test_an_unknown_parameter_stops_the_run_and_a_similar_one_is_suggested(make: str) -> None:
    with recorder(lambda asked: PARAMETERS[make]) as server, po.Client(f"{server.url}/v1") as client:
        with pytest.raises(RequestRefusedError, match=r"Check max_tokns=5\. Did you mean max_tokens") as stopped:
            po.process_dataframe(FRAME, "text", model="m", extra_body={"max_tokns": 5}, client=client, progress=False)
        assert len(server.asked) < 20
    assert stopped.value.partial["status"].eq("failed").sum() >= 5


def test_a_refused_value_common_to_all_rows_stops_the_run() -> None:
    answer = refused(400, "Unsupported value: 'temperature'.", param="temperature", code="unsupported_value")
    with (
        recorder(lambda asked: (400, answer)) as server,
        po.Client(f"{server.url}/v1") as client,
        pytest.raises(RequestRefusedError, match=r"Check temperature=0\.3"),
    ):
        po.process_dataframe(FRAME, "text", model="m", temperature=0.3, client=client, progress=False)


def number_of(asked: Asked) -> int:
    return int(str(asked.body["messages"][-1]["content"]).split()[1].rstrip(";"))


ROWS_OWN: dict[str, Callable[[Asked], tuple[int, bytes] | None]] = {
    "the prompt's length": lambda asked: (400, refused(400, "too long", code="context_length_exceeded")),
    "the content": lambda asked: (400, refused(400, "Invalid 'messages[0].content'.", param="messages[0].content")),
    "words of the content": lambda asked: (400, refused(400, "The content is empty.")),
    "words that differ": lambda asked: (400, refused(400, f"Bad thing {number_of(asked)}")),
    "a few good answers": lambda asked: (400, refused(400, "Odd.")) if number_of(asked) % 10 else None,
    "a firewall": lambda asked: (403, refused(403, "Blocked by rule 942100.")) if number_of(asked) % 10 == 9 else None,
    "the body's size": lambda asked: (413, b"") if number_of(asked) < 30 else None,
    "a firewall that wants a key": lambda asked: (401, b"") if number_of(asked) % 10 == 9 else None,
    "a moderator": lambda asked: (403, refused(403, "Your input was flagged")),
}


@pytest.mark.parametrize("kind", ROWS_OWN)
def test_errors_that_may_be_a_rows_own_fault_do_not_stop_the_run(kind: str) -> None:
    with recorder(ROWS_OWN[kind]) as server, po.Client(f"{server.url}/v1", max_attempts=3) as client:
        out = po.process_dataframe(FRAME, "text", model="m", client=client, progress=False)
        assert len({number_of(asked) for asked in server.asked}) == ROWS
        assert len(server.asked) == out["attempts"].sum()
    assert out["status"].isin(["failed", "succeeded"]).all()


def test_rows_that_failed_among_answered_ones_do_not_stop_the_next_run(server: Server, client: po.Client) -> None:
    """Beside rows whose answers are known, the server is not to blame."""
    bad = [f"row {number};" for number in range(50, ROWS)]
    for row in bad:
        server.script([{"status": 400, "message": "Odd."}] * 2, matching=row)
    for _ in range(2):
        out = po.process_dataframe(FRAME, "text", model="m", client=client, progress=False)
        assert out["status"].eq("failed").sum() == len(bad)


def test_web_pages_instead_of_answers_stop_the_run() -> None:
    page = b"<html><head><title>Log in</title></head></html>"
    with recorder(lambda asked: (200, page)) as server, po.Client(f"{server.url}/v1", max_attempts=1) as client:
        with pytest.raises(RequestRefusedError, match="a web page and not the API: a proxy's or a login's"):
            po.process_dataframe(FRAME, "text", model="m", client=client, progress=False)
        assert len(server.asked) < 20


NO_MODEL = json.dumps({"error": {"message": "No model `m`.", "code": "model_not_found"}}).encode()
GONE: dict[str, tuple[int, bytes, str]] = {
    "a model": (404, NO_MODEL, "No model"),
    "a login": (200, b"<html><head><title>Log in</title></head></html>", "a proxy's or a login's"),
}
BY_FACE: dict[str, Callable[[po.Client], Any]] = {
    "frame": lambda client: po.process_dataframe(FRAME, "text", model="m", client=client, progress=False),
    "file": lambda client: po.process_api_requests_from_file("in.jsonl", "out.jsonl", client=client, progress=False),
}


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("face", BY_FACE)
def test_a_model_or_a_login_that_ends_in_mid_run_leaves_the_other_rows_to_the_next_run(gone: str, face: str) -> None:
    status, body, words = GONE[gone]
    write(*(chat(text, model="m") for text in FRAME["text"]))

    def answer(asked: Asked) -> tuple[int, bytes] | None:
        return (status, body) if number_of(asked) > 9 else None

    with (
        recorder(answer) as server,
        po.Client(f"{server.url}/v1", max_concurrent_requests=2, max_attempts=1) as client,
        pytest.raises(RequestRefusedError, match=f"Since the last answer 20 requests were refused alike: .*{words}"),
    ):
        BY_FACE[face](client)
    assert len(server.asked) < 35


def test_a_model_that_never_answered_does_not_stop_the_run_once_others_have() -> None:
    write(*(chat(text, model="m" if 10 <= row < 50 else "n") for row, text in enumerate(FRAME["text"])))

    def answer(asked: Asked) -> tuple[int, bytes] | None:
        return (404, NO_MODEL) if asked.body["model"] == "m" else None

    with recorder(answer) as server, po.Client(f"{server.url}/v1", max_concurrent_requests=2) as client:
        status = BY_FACE["file"](client)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (20, 40)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_loses_its_permission_stops_the_run(status: int) -> None:
    def answer(asked: Asked) -> tuple[int, bytes] | None:
        return (status, refused(status, "The project is archived.")) if number_of(asked) > 4 else None

    with recorder(answer) as server, po.Client(f"{server.url}/v1", max_concurrent_requests=2) as client:
        with pytest.raises((AuthenticationError, PermissionDeniedError), match="archived"):
            po.process_dataframe(FRAME, "text", model="m", client=client, progress=False)
        assert len({number_of(each) for each in server.asked}) < 30


def test_a_good_key_that_is_sometimes_rejected_is_used_again(server: Server, client: po.Client) -> None:
    for row in ("row 20;", "row 40;"):
        server.script([401], matching=row)
    out = po.process_dataframe(FRAME, "text", model="m", client=client, progress=False)
    assert out["status"].eq("succeeded").all()
    assert out["attempts"].sum() == ROWS + 2


@pytest.mark.parametrize("status", [202, 204, 205])
def test_a_status_without_an_answer_for_every_row_stops_the_run(status: int) -> None:
    with recorder(lambda asked: (status, b"")) as server, po.Client(f"{server.url}/v1") as client:
        with pytest.raises(RequestRefusedError, match=f"refused alike: HTTP {status}"):
            po.process_dataframe(FRAME, "text", model="m", client=client, progress=False)
        assert len(server.asked) < 20


def test_a_404_for_every_row_quotes_the_servers_message() -> None:
    answer = refused(404, "No route for this tenant.")
    with (
        recorder(lambda asked: (404, answer)) as server,
        po.Client(f"{server.url}/v1") as client,
        pytest.raises(
            ServerUnreachableError, match=r"There is nothing at .* The server says: No route for this tenant"
        ),
    ):
        po.process_dataframe(FRAME, "text", model="m", client=client, progress=False)
