"""The key appears nowhere but in its header."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._http.addresses.url_checks import mask_url
from parallel_openai.errors import InvalidInputError
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from tests.conftest import listens_elsewhere
from tests.reliability.worker import write_requests

KEY = "sk-proj-very/secret+0123456789"
SHORT_KEY = "swordfish"

WAYS: dict[str, Any] = {
    "well": [],
    "400": [{"status": 400, "message": f"Bad request with {KEY}."}] * 9,
    "401": [{"status": 401, "message": f"Incorrect API key provided: {KEY}."}] * 9,
    "403": [{"status": 403, "body": f"<p>Bearer {KEY} is not welcome</p>"}] * 9,
    "429": [{"status": 429, "code": "insufficient_quota", "message": f"{KEY} has no credit"}] * 9,
    "500": [{"status": 500, "message": f"Crashed with Authorization: Bearer {KEY}"}] * 9,
    "200": [{"status": 200, "body": {"error": {"message": f"key {KEY}"}}}] * 9,
    "page": [{"status": 200, "body": f"<p>{KEY}</p>"}] * 9,
    "redirect": [{"status": 307, "headers": {"location": f"https://host.invalid/?key={KEY}"}, "body": ""}] * 9,
    "reset": [{"fault": "reset"}] * 9,
}


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger at DEBUG, asyncio's and aiohttp's too."""
    with caplog.at_level(logging.DEBUG):
        for name in ("asyncio", "aiohttp", "aiohttp.client", "parallel_openai"):
            caplog.set_level(logging.DEBUG, logger=name)
        yield caplog


@pytest.mark.parametrize("key", [KEY, SHORT_KEY])
@pytest.mark.parametrize("way", WAYS)
def test_the_key_is_never_shown_however_a_run_ends(
    server: Server, everything_logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], way: str, key: str
) -> None:
    write_requests(Path("requests.jsonl"), 3)
    shown: list[str] = []
    with po.Client(server.base_url, key, max_attempts=2) as client:
        for face in ("frame", "file"):
            server.reset()
            server.script(json.loads(json.dumps(WAYS[way]).replace(KEY, key)))
            try:
                shown.append(_run(face, client))
            except po.errors.ParallelOpenAIError as error:
                shown += [repr(error), *traceback.format_exception(error), repr(error.__dict__)]
        shown += [repr(client), str(client), repr(po.last_run()), str(po.last_run())]
    html = getattr(po.last_run(), "_repr_html_", lambda: "")
    shown += [html(), everything_logged.text, *capfd.readouterr()]
    shown += [path.read_text("utf-8") for path in Path().rglob("*") if path.is_file()]
    secret = key.removeprefix("sk-proj-")
    assert [text for text in shown if secret in text] == []


def _run(face: str, client: po.Client) -> str:
    if face == "file":
        options = {"client": client, "logging_level": logging.DEBUG}
        return repr(po.process_api_requests_from_file("requests.jsonl", "results.jsonl", **options))
    df = pd.DataFrame({"text": ["a", "b", "c"]})
    out = po.process_dataframe(df, "text", model="m", client=client)
    po.to_jsonl(out, "export.jsonl")
    return repr(out.to_dict()) + repr(out.attrs) + po.read_journal(out.attrs["parallel_openai"]["journal"]).to_csv()


def test_the_error_of_an_unreachable_server_shows_no_key() -> None:
    with (
        po.Client(f"http://127.0.0.1:9/v1?key={KEY}", KEY) as client,
        pytest.raises(po.errors.RunStoppedError) as stopped,
    ):
        _run("frame", client)
    assert KEY not in "".join(traceback.format_exception(stopped.value)) + repr(client)


def test_a_redirect_does_not_carry_the_key(server: Server) -> None:
    with simulator.serve(required_api_key="another") as elsewhere, po.Client(server.base_url, KEY) as client:
        server.script([{"status": 307, "headers": {"location": elsewhere.base_url}, "body": ""}] * 9)
        with pytest.raises(po.errors.ServerUnreachableError, match="Keys are not sent on"):
            _run("frame", client)
        assert elsewhere.stats(charged=False)["received"] == 0


@pytest.mark.parametrize("url", [f"https://ann:{KEY}@host/v1/models", f"https://host/v1/models?api_key={KEY}"])
def test_a_url_with_credentials_is_masked(url: str) -> None:
    Path("requests.jsonl").write_text("{}")
    with pytest.raises(InvalidInputError) as refused:
        po.process_api_requests_from_file("requests.jsonl", request_url=url)
    assert KEY not in str(refused.value)
    assert KEY not in mask_url(url)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_results_and_exports_are_for_their_owner_only(client: po.Client) -> None:
    before = os.umask(0)
    try:
        write_requests(Path("requests.jsonl"), 1)
        _run("frame", client)
        _run("file", client)
    finally:
        os.umask(before)
    made = [path for path in Path().rglob("*") if path.is_file() and path.suffix in (".jsonl", ".lock")]
    modes = {str(path): path.stat().st_mode & 0o777 for path in made if path.name != "requests.jsonl"}
    assert len(modes) >= 4
    assert set(modes.values()) == {0o600}


def test_the_simulator_listens_on_this_machine_only(server: Server) -> None:
    assert server.base_url.startswith("http://127.0.0.1:")
    assert listens_elsewhere(server.base_url) == []
