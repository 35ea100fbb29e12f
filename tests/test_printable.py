"""Control characters from others are shown, not executed, in terminals, logs and exceptions."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError, RunStoppedError
from parallel_openai.local.simulator import Server
from tests.reliability.worker import write_requests

EVIL = "\x1b]0;owned\x07\r\nERROR all is lost\x00\x9b2J\u202egnp.exe\u2028end"
ACTIVE = ["\x1b", "\x07", "\r", "\x00", "\x9b", "\u202e", "\u2028"]


def active_in(text: str) -> list[str]:
    return [repr(sign) for sign in ACTIVE if sign in text] + [
        line for line in text.splitlines() if line.startswith("ERROR all")
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_control_characters_of_a_server_are_escaped_in_frames_reports_logs_and_exceptions(
    server: Server,
    client: po.Client,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    server.script([{"status": status, "code": EVIL, "message": EVIL}] * 9)
    write_requests(Path("requests.jsonl"), 1)
    shown = []
    for ask in (
        lambda: po.process_dataframe(pd.DataFrame({EVIL: [EVIL]}), EVIL, model=EVIL, client=client),
        lambda: po.process_api_requests_from_file("requests.jsonl", client=client, logging_level=logging.DEBUG),
    ):
        try:
            done = ask()
            if isinstance(done, pd.DataFrame):
                shown += done["error"].dropna().tolist()
        except RunStoppedError as stopped:
            shown.append(str(stopped))
    report = po.last_run()
    shown += [str(report), *(record.getMessage() for record in caplog.records), *capfd.readouterr()]
    assert any("all is lost" in text for text in shown)
    assert [active_in(text) for text in shown if active_in(text.replace("\r", ""))] == []


def test_control_characters_of_names_and_cells_are_escaped_in_previews_and_errors(client: po.Client) -> None:
    df = pd.DataFrame({EVIL: ["\x1b[2J text"]})
    preview = po.preview(df, EVIL, model=EVIL, client=client)
    assert active_in(str(preview)) == []
    with pytest.raises(InvalidInputError) as refused:
        po.process_dataframe(df, "{nothing}", model="m", client=client)
    assert active_in(str(refused.value)) == []


def test_control_characters_of_an_answer_are_kept(server: Server, client: po.Client) -> None:
    out = po.process_dataframe(pd.DataFrame({"text": ["\x1b[2J"]}), "text", model="m", client=client, progress=False)
    assert "\x1b[2J" in out["response"][0]


def test_control_characters_of_labels_are_escaped_in_explanations_and_metrics(client: po.Client) -> None:
    df = pd.DataFrame({"text": ["a"]}, index=[EVIL])
    out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    out["response"] = EVIL
    assert active_in(str(po.explain(out, EVIL))) == []
    labelled = pd.Series([EVIL, "b"]), pd.Series([EVIL, EVIL])
    assert active_in(str(po.agreement({EVIL: labelled[0], "other": labelled[1]}))) == []
