"""If all rows of a batch are refused for the same reason, that is reported once and not submitted again."""

from __future__ import annotations

import json
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai.errors import BatchError, RequestRefusedError
from tests.batch.conftest import Verb, counts, lane, texts
from tests.batch.scripted import Asked, Scripted

UNKNOWN = {"message": "Unknown parameter: 'max_tokns'.", "param": "max_tokns", "code": "unknown_parameter"}
NO_MODEL = {"message": "The model `gpt-4o-mni` does not exist.", "param": None, "code": "model_not_found"}


def refuse_rows(scripted: Scripted, status: int, error: dict[str, Any], but: int = 0) -> None:
    """Of each batch, all rows are refused but the last ones."""

    def end(batch: dict[str, Any], asked: Asked) -> None:
        bad, good = asked[: len(asked) - but], asked[len(asked) - but :]
        body = {"status_code": status, "request_id": "req", "body": {"error": error}}
        lines = [json.dumps({"custom_id": each["custom_id"], "response": body, "error": None}) for each in bad]
        batch["error_file_id"] = scripted.file("".join(f"{line}\n" for line in lines).encode())
        batch["output_file_id"] = scripted.file(b"".join(map(scripted.line, good))) if good else None
        scripted.end(batch, len(good), len(bad))

    scripted.on_end = end


def refuse_first_line(scripted: Scripted, error: dict[str, Any]) -> None:
    """Validation ends at the first line that is wrong."""

    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.end(batch, 0, 0, "failed")
        batch["errors"] = {"data": [{**error, "line": 1}]}

    scripted.on_end = end


@pytest.mark.parametrize("rows_each", [50_000, 4], ids=["one batch", "several"])
def test_a_parameter_that_no_row_may_have_is_named_when_all_have_failed(
    scripted: Scripted, submit: Verb, rows_each: int
) -> None:
    refuse_rows(scripted, 400, UNKNOWN)
    with pytest.raises(RequestRefusedError, match=r"Check max_tokns=5\. Did you mean max_tokens\?") as stopped:
        submit(texts(12), extra_body={"max_tokns": 5}, lane=lane(max_requests=rows_each))
    assert counts(stopped.value.partial) == {"failed": 12}


def test_an_unknown_model_is_named_with_similar_ones(scripted: Scripted, submit: Verb) -> None:
    refuse_rows(scripted, 404, NO_MODEL)
    models = {"data": [{"id": "gpt-4o-mini"}, {"id": "whisper-1"}]}
    scripted.on_call = lambda method, path: (200, models) if path == "/v1/models" else None
    with pytest.raises(RequestRefusedError, match=r'Check model="gpt-4o-mni".*The server lists gpt-4o-mini\.'):
        submit(texts(12), model="gpt-4o-mni")


def test_refused_rows_beside_answered_ones_do_not_stop_the_run(scripted: Scripted, submit: Verb) -> None:
    refuse_rows(scripted, 400, UNKNOWN, but=1)
    assert counts(submit(texts(12))) == {"failed": 11, "succeeded": 1}
    refuse_rows(scripted, 400, UNKNOWN)
    assert counts(submit(texts(12))) == {"failed": 11, "succeeded": 1}


@pytest.mark.parametrize(
    "error", [{**NO_MODEL, "param": "body.model"}, {**UNKNOWN, "param": "body.max_tokns"}], ids=["model", "parameter"]
)
def test_a_validation_error_that_recurs_at_the_first_line_ends_the_run(
    scripted: Scripted, submit: Verb, error: dict[str, Any]
) -> None:
    refuse_first_line(scripted, error)
    with pytest.raises((BatchError, RequestRefusedError), match="Check m") as stopped:
        submit(texts(60), model="gpt-4o-mni", extra_body={"max_tokns": 5})
    assert len(scripted.batches) <= 6
    partial: Any = stopped.value.partial
    assert counts(partial)["cancelled"] >= 55
    scripted.on_end = scripted.complete
    assert counts(submit(texts(60))) == {"succeeded": 60}
    assert set(scripted.billed.values()) == {1}


def test_a_run_of_a_file_is_refused_with_the_same_advice(scripted: Scripted, submit: Verb, tmp_path: Any) -> None:
    refuse_rows(scripted, 400, UNKNOWN)
    bodies = [
        {"model": "gpt-4o-mini", "max_tokns": 5, "messages": [{"role": "user", "content": f"row {number}"}]}
        for number in range(12)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies))
    with po.Client(scripted.base_url, "sk-none") as client, pytest.raises(RequestRefusedError, match="Did you mean"):
        po.process_api_requests_from_file(tmp_path / "in.jsonl", client=client, lane=lane())
