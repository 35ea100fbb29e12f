"""The client: its options, its environment, and that its key is never shown."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import APIRequest, Client
from parallel_openai._client.default_client import client_for
from parallel_openai._limits.sharing import SharedAccount
from parallel_openai._loop.background import background_loop
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import Result
from parallel_openai.errors import AuthenticationError, InvalidInputError
from parallel_openai.local.simulator import Server

HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}


def status_of(client: Client) -> int:
    return asyncio.run(APIRequest(HELLO).call_api(client)).status


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_requests_per_minute": 0}, "max_requests_per_minute must be a number above 0 or None, not 0"),
        ({"max_requests_per_minute": -5}, "max_requests_per_minute must be"),
        ({"max_tokens_per_minute": "90k"}, "max_tokens_per_minute must be a number above 0 or None, not '90k'"),
        ({"max_tokens_per_minute": float("nan")}, "max_tokens_per_minute must be"),
        ({"max_tokens_per_minute": True}, "max_tokens_per_minute must be"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests must be"),
        ({"max_concurrent_requests": 1.5}, "max_concurrent_requests must be a whole number, not 1.5"),
        ({"max_attempts": 0}, "max_attempts must be a number above 0, not 0"),
        ({"max_attempts": None}, "max_attempts must be"),
        ({"max_attempts": 2.5}, "max_attempts must be a whole number"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": None}, "timeout must be"),
        ({"burst": -1}, "burst must be"),
        ({"max_wait": 0}, "max_wait must be"),
        ({"loop": "nested"}, "loop must be 'thread' or 'running', not 'nested'"),
        ({"base_url": "localhost:8000"}, "base_url must look like https://host/v1"),
        ({"base_url": "ftp://host/v1"}, "base_url must look like"),
        ({"base_url": "http://"}, "base_url must look like"),
        ({"base_url": "http://api..example/v1"}, "base_url must look like"),
        ({"base_url": "http://ann:secret@host/v1"}, "must not carry a name or password"),
        ({"api_key": "sk- with a space"}, "copy it again"),
        ({"api_key": "sk-ключ"}, "copy it again"),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence) as refused:
        Client(**options)
    assert "secret" not in str(refused.value)


def test_arguments_default_to_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.set(required_api_key="sk-right")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    with Client() as client:
        assert (client.base_url, status_of(client)) == (server.base_url, 200)


def test_arguments_take_precedence_over_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.set(required_api_key="sk-right")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with Client(server.base_url, "sk-right") as client:
        assert status_of(client) == 200


def test_a_key_copied_with_a_line_break_works(server: Server) -> None:
    server.set(required_api_key="sk-right")
    with Client(server.base_url, " sk-right\n") as client:
        assert status_of(client) == 200


def test_a_trailing_slash_in_base_url_is_ignored(server: Server) -> None:
    with Client(server.base_url + "/") as client:
        assert status_of(client) == 200


def test_additional_headers_are_sent(server: Server) -> None:
    server.set(required_api_key="sk-right")
    with Client(server.base_url, headers={"Authorization": "Bearer sk-right"}) as client:
        assert status_of(client) == 200


def test_openai_needs_a_key() -> None:
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        Client().check_key()


def test_another_server_may_need_no_key() -> None:
    Client("http://127.0.0.1:9/v1").check_key()


def test_the_default_client_is_the_same_until_the_environment_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = client_for(None)
    assert client_for(None) is first
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert client_for(None).base_url == "http://127.0.0.1:9/v1"


def test_limits_are_read_from_the_servers_headers(server: Server) -> None:
    server.set(max_requests_per_minute=6000, max_tokens_per_minute=1_000_000, headers="minute")
    with Client(server.base_url) as client:
        assert (client.max_requests_per_minute, client.max_tokens_per_minute) == (None, None)
        status_of(client)
        assert (client.max_requests_per_minute, client.max_tokens_per_minute) == (6000, 1_000_000)


def test_the_key_is_never_shown(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(server.base_url, "sk-secret-key")
    out = po.process_dataframe(pd.DataFrame({"text": ["a"]}), "text", model="m", client=client)
    shown = repr(client) + str(client) + repr(out.to_dict()) + repr(out.attrs) + str(po.last_run())
    written = "".join(path.read_text("utf-8") for path in Path(".parallel_openai").iterdir())
    assert "sk-secret-key" not in shown + written + "".join(capsys.readouterr())


def test_more_requests_than_allowed_are_never_in_flight(server: Server) -> None:
    server.set(latency=0.05)
    client = Client(server.base_url, max_concurrent_requests=3)
    df = pd.DataFrame({"text": [str(n) for n in range(20)]})
    po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert server.stats()["max_in_flight"] == 3


def test_an_answer_that_takes_too_long_is_a_timeout(server: Server) -> None:
    server.set(latency=30)
    client = Client(server.base_url, timeout=0.2, max_attempts=1)
    out = po.process_dataframe(pd.DataFrame({"text": ["a"]}), "text", model="m", client=client, progress=False)
    assert out.loc[0, ["error_code", "error"]].tolist() == [
        "timeout",
        "No complete answer within 0.2 s (the client's timeout).",
    ]


@pytest.mark.parametrize("fault", ["reset", "truncated", "malformed", "error_in_200", "wrong_type", "502", "503"])
def test_a_connection_fault_uses_up_an_attempt_and_loses_no_row(server: Server, fault: str) -> None:
    server.set(**{f"fault_{fault}": 1, "faulty_attempts": 1})
    client = Client(server.base_url)
    df = pd.DataFrame({"text": ["a", "b"]})
    out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert out["status"].eq("succeeded").all()
    assert out["attempts"].tolist() == [2, 2]


def test_a_redirect_on_the_same_server_is_followed(server: Server) -> None:
    server.set(fault_redirect=1)
    with Client(server.base_url) as client:
        assert status_of(client) == 404  # it leads to nothing there
    assert sum(server.stats()["unknown_paths"].values()) == 1


def test_a_request_with_the_same_content_has_the_same_key() -> None:
    assert APIRequest({"a": 1, "b": [2]}).key == APIRequest({"b": [2], "a": 1}, metadata=5).key


@pytest.mark.parametrize("other", [{"path": "embeddings"}, {"sample": 1}], ids=str)
def test_path_and_sample_are_part_of_the_key(other: dict[str, Any]) -> None:
    assert APIRequest({"a": 1}).key != APIRequest({"a": 1}, **other).key


def test_a_request_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        APIRequest({"stop": {"a"}})


def test_errors_can_be_pickled() -> None:
    assert str(pickle.loads(pickle.dumps(InvalidInputError("no")))) == "no"


@pytest.mark.parametrize("shown", ["minute", "none"])
def test_azures_short_rate_limits_are_waited_out(server: Server, shown: str) -> None:
    """Its 429 speaks of a quota increase, and its limit per minute is enforced by the second."""
    server.set(error_style="azure", max_requests_per_minute=1200, burst_seconds=1.0, headers=shown, retry_after="exact")
    df = pd.DataFrame({"text": [str(n) for n in range(60)]})
    with Client(server.base_url) as client:
        out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert out["status"].eq("succeeded").all()
    report = po.last_run()
    assert report is not None
    assert report.seconds < 8
    assert report.rate_limit_errors < 40


def test_concurrent_runs_on_the_callers_loop_keep_each_others_connections_open(server: Server) -> None:
    """The one that ends first would have the other's requests, which are paid for, sent again."""
    server.set(latency=0.2)

    async def both() -> list[pd.DataFrame]:
        with Client(server.base_url, loop="running", max_concurrent_requests=40) as client:
            return await asyncio.gather(
                *(
                    po.aprocess_dataframe(
                        pd.DataFrame({"text": [f"{rows}, {n}" for n in range(rows)]}),
                        "text",
                        model="m",
                        client=client,
                        progress=False,
                        save_to=f"{rows}.jsonl",
                    )
                    for rows in (10, 90)
                )
            )

    for out in asyncio.run(both()):
        assert out["attempts"].eq(1).all()


def test_client_send_obeys_slow_down(server: Server) -> None:
    server.set(slow_down_above=1, max_requests_per_minute=None)
    with Client(server.base_url) as client:
        requests = [APIRequest({**HELLO, "seed": n}) for n in range(12)]

        async def ask() -> None:
            await asyncio.gather(*(request.call_api(client) for request in requests))

        asyncio.run(ask())
        assert client.limiter.of(HELLO["model"]).slowdown.rate(time.monotonic()) < 100.0
        assert client.limiter.of(HELLO["model"]).requests.held_until < time.monotonic() + 5.0


def test_client_send_stays_within_its_share_of_the_limit(server: Server) -> None:
    account = SharedAccount("alone")
    asyncio.run(account.join())
    client = Client(server.base_url, max_requests_per_minute=600, shared="alone")
    try:
        assert status_of(client) == 200
        assert client.limiter.of(HELLO["model"]).requests.share == 0.5
    finally:
        account.leave()
        client.close()


def test_client_send_can_be_cancelled(server: Server) -> None:
    server.set(latency=5.0)

    async def ask() -> float:
        began = time.monotonic()
        with Client(server.base_url) as client, pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(APIRequest(HELLO).call_api(client), 0.1)
        return time.monotonic() - began

    assert asyncio.run(ask()) < 2.0


def test_an_authorization_header_takes_precedence_over_a_key_function() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    async def ask() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        headers = {"authorization": "Bearer sk-mine-0123456789"}
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        with Client(base_url, lambda: "sk-other-0123456789", headers=headers) as client:
            assert (await APIRequest(HELLO).call_api(client)).status == 200
        server.close()

    asyncio.run(ask())
    assert [line for line in heads[0].split(b"\r\n") if b"uthorization" in line] == [
        b"authorization: Bearer sk-mine-0123456789"
    ]


FEW_FILES = """
import resource, sys
import pandas as pd, parallel_openai as po
df = pd.DataFrame({"text": [str(n) for n in range(120)]})
client = po.Client(sys.argv[1], max_requests_per_minute=1e6, max_concurrent_requests=100)
po.process_dataframe(df[:1], "text", model="m", client=client, progress=False)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
out = po.process_dataframe(df, "text", model="m", client=client, progress=False, save_to="few.jsonl")
print(out["status"].value_counts()["succeeded"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_a_process_that_may_open_few_files_answers_all_rows(server: Server) -> None:
    server.set(latency=0.1, max_requests_per_minute=None)
    done = subprocess.run([sys.executable, "-c", FEW_FILES, server.base_url], capture_output=True, text=True)
    assert done.stdout.strip() == "120", done.stderr


def test_a_pool_sends_files_by_its_first_account(server: Server) -> None:
    server.set(batch_speed=1_000_000)
    pool = Client.pool([Client(server.base_url), Client("http://127.0.0.1:9/v1")])
    df = pd.DataFrame({"text": ["a", "b"]})
    out = po.process_dataframe(df, "text", model="gpt-4o-mini", lane="batch", client=pool, progress=False)
    assert out["status"].eq("succeeded").all()


def test_connections_are_closed_on_the_loop_that_opened_them(server: Server) -> None:
    request = APIRequest({"model": "m", "messages": [{"role": "user", "content": "Who closes the door?"}]})
    results: list[Result] = []

    async def ask() -> float:
        with Client(server.base_url) as client:
            await client.process([request], on_result=results.append, status=StatusTracker())
            began = time.monotonic()
        took = time.monotonic() - began
        await asyncio.sleep(0.01)
        return took

    assert asyncio.run(ask()) < 1.0
    assert results[0].status == "succeeded"


def test_a_garbage_collected_client_blocks_nothing(server: Server) -> None:
    """The garbage collector may come by while its thread holds what the engine's loop waits for."""
    gc.collect()
    gc.freeze()  # what earlier tests left takes the collector longer than the loop is held
    client = Client(server.base_url)
    po.process_dataframe(pd.DataFrame({"text": ["a"]}), "text", model="m", client=client, progress=False)
    background_loop().call_soon_threadsafe(time.sleep, 1.0)
    began = time.monotonic()
    del client
    gc.collect()
    seconds = time.monotonic() - began
    gc.unfreeze()
    assert seconds < 0.8
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), background_loop()).result(5)  # closed without a complaint
