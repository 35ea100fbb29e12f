"""Keys from a function: called now and then, renewed if the server demands it, and shown nowhere."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import APIRequest, Client
from parallel_openai._http.credentials.keys import KEPT, Key
from parallel_openai.errors import AuthenticationError, InvalidInputError
from parallel_openai.local.simulator import Server

DF = pd.DataFrame({"text": [str(number) for number in range(30)]})


def ask(client: Client) -> pd.DataFrame:
    return po.process_dataframe(DF, "text", model="m", client=client, progress=False)


def test_the_key_function_is_called_once_for_many_requests(server: Server) -> None:
    server.set(required_api_key="token-0123456789")
    asked = []

    def give() -> str:
        asked.append(1)
        return "token-0123456789"

    assert ask(Client(server.base_url, give))["status"].eq("succeeded").all()
    assert len(asked) == 1


def test_the_key_function_may_be_async(server: Server) -> None:
    server.set(required_api_key="token-0123456789")

    async def give() -> str:
        await asyncio.sleep(0)
        return "token-0123456789"

    assert ask(Client(server.base_url, give))["status"].eq("succeeded").all()


def test_an_expired_key_is_renewed_during_a_run(server: Server) -> None:
    keys = iter(["token-one-0123", "token-two-0123"])
    server.set(required_api_key="token-two-0123")
    out = ask(Client(server.base_url, lambda: next(keys)))
    assert out["status"].eq("succeeded").all()
    assert out["attempts"].eq(1).all()


def test_a_wrong_key_of_a_key_function_stops_the_run_and_is_never_shown(server: Server) -> None:
    server.set(required_api_key="right")
    with pytest.raises(AuthenticationError) as error:
        ask(Client(server.base_url, lambda: "token-wrong-0123"))
    written = "".join(path.read_text("utf-8") for path in Path(".parallel_openai").iterdir())
    assert "token-wrong" not in str(error.value) + written
    assert server.stats()["received"] <= 2 * 16


def test_a_key_function_that_raises_stops_the_run_without_showing_its_message(server: Server) -> None:
    def give() -> str:
        try:
            raise KeyError("the vault's token hunter2")
        except KeyError:
            raise OSError("no key for the token hunter2") from None

    with pytest.raises(AuthenticationError, match="api_key= raised OSError") as error:
        ask(Client(server.base_url, give))
    chain = [error.value, error.value.__cause__, error.value.__context__]
    assert "hunter2" not in repr(chain) + "".join(traceback.format_exception(error.value))
    assert error.value.partial["status"].eq("cancelled").all()
    assert server.stats()["received"] == 0


def test_the_key_function_is_called_again_after_a_while() -> None:
    now = [0.0]
    given = iter("abc")
    key = Key(lambda: next(given), "Authorization", clock=lambda: now[0])

    async def after(seconds: float) -> str:
        now[0] += seconds
        return (await key.current())["Authorization"]

    async def course() -> list[str]:
        return [await after(seconds) for seconds in (1.0, KEPT - 1, 2.0)]

    assert asyncio.run(course()) == ["Bearer a", "Bearer a", "Bearer b"]


def test_a_key_must_be_a_string_or_a_function() -> None:
    with pytest.raises(InvalidInputError, match="must be a string or a function that returns one, not an int"):
        asyncio.run(APIRequest({}).call_api(Client("http://127.0.0.1:9/v1", 5)))  # type: ignore[arg-type]
