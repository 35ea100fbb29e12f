"""A server sends more answers than requests: the surplus is not taken for another row's answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._http import post
from parallel_openai._http.idle_connections import IdleConnections


def answer_to(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = json.dumps({"id": text, "model": "m", "choices": [choice]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@contextmanager
def answering_twice(seconds: float | None) -> Iterator[str]:
    """A server whose every answer comes again after so long; None: in the same piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length"))
                body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
                answer = answer_to(body["messages"][-1]["content"])
                writer.write(answer if seconds is not None else answer + answer)
                if seconds is not None:
                    await asyncio.sleep(seconds)
                    writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def listen() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        server.close()

    port: list[int] = []
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=[listen()])
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{port[0]}/v1"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


@pytest.mark.parametrize("at_once", [1, 4, 40])
@pytest.mark.parametrize("seconds", [None, 0.0, 0.001, 0.02], ids=repr)
def test_each_row_has_its_own_answer_from_a_server_that_answers_twice(
    seconds: float | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seconds:  # the server is a thread beside the client: on a busy machine its second answer is late
        monkeypatch.setattr(post, "IdleConnections", partial(IdleConnections, watched=25 * seconds))
    df = pd.DataFrame({"text": [f"row {number}" for number in range(40)]})
    with answering_twice(seconds) as url, po.Client(url, "none", max_concurrent_requests=at_once) as client:
        out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert out["response"].tolist() == df["text"].tolist()
