"""Answers that httpx, curl or the OpenAI SDK can read are read, and stored as UTF-8. Over raw sockets."""

from __future__ import annotations

import gzip
import json
import ssl
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import orjson
import pandas as pd
import pytest
import trustme

import parallel_openai as po
from parallel_openai.errors import RequestRefusedError, ServerUnreachableError
from tests.reliability.raw_server import KEY, OK, Asked, RawServer, ask, ask_by_file, completion, http

SAID = json.dumps(completion("Grüße, €, 😀"), ensure_ascii=False)
LATIN = json.dumps(completion("Grüße"), ensure_ascii=False)
ODD_BYTES = {
    "a mark before UTF-8": (b"\xef\xbb\xbf" + SAID.encode(), "application/json", "Grüße, €, 😀"),
    "UTF-16 with a mark": (SAID.encode("utf-16"), "application/json; charset=utf-16", "Grüße, €, 😀"),
    "UTF-16 without one": (SAID.encode("utf-16-le"), "application/json", "Grüße, €, 😀"),
    "UTF-32": (SAID.encode("utf-32"), "application/json; charset=UTF-32", "Grüße, €, 😀"),
    "Latin-1 that says so": (LATIN.encode("latin-1"), 'text/json; charset="ISO-8859-1"', "Grüße"),
    "Latin-1 that says more": (LATIN.encode("latin-1"), "text/json; charset=latin-1; profile=x", "Grüße"),
    "Shift JIS": (
        json.dumps(completion("表示"), ensure_ascii=False).encode("shift_jis"),
        "application/json; charset=Shift_JIS; x=y",
        "表示",
    ),
    "UTF-8 said to be Latin-1": (SAID.encode(), "application/json; charset=iso-8859-1", "Grüße, €, 😀"),
    "an encoding that is none": (b"\xef\xbb\xbf" + SAID.encode(), "application/json; charset=base64", "Grüße, €, 😀"),
    "half a letter": (
        SAID.replace("€", "x").encode().replace(b"x", b"\xe2\x82"),
        "application/json",
        "Grüße, \ufffd, 😀",
    ),
    "half a pair": (json.dumps(completion("a \ud83d b")).encode(), "application/json", "a \ufffd b"),
    "halves and a pair": (
        json.dumps(completion("\ude00\ud83d 😀\\ud83d")).encode(),
        "text/plain",
        "\ufffd\ufffd 😀\\ud83d",
    ),
    "blank lines before and after": (b"\n\n  \r\n" + SAID.encode() + b"\n\n", "application/json", "Grüße, €, 😀"),
}


@pytest.mark.parametrize(("body", "kind", "text"), ODD_BYTES.values(), ids=ODD_BYTES)
def test_an_answer_in_an_unusual_encoding_is_read_and_known_to_the_next_run(body: bytes, kind: str, text: str) -> None:
    with RawServer(http(body, f"Content-Type: {kind}")) as server:
        out = ask(server.base_url, save_to="frame.jsonl")
        assert (out["response"][0], out["prompt_tokens"][0], out["attempts"][0]) == (text, 5, 1)
        assert ask(server.base_url, save_to="frame.jsonl")["response"][0] == text
        assert [ask_by_file(server.base_url).num_tasks_succeeded for _ in range(2)] == [1, 1]
        assert len(server.asked) == 2  # once for the frame and once for the file
    for name in ("frame.jsonl", "out.jsonl"):
        [line] = Path(name).read_bytes().splitlines()
        assert orjson.loads(line)[1]["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 400, "1e400", "NaN"], ids=lambda number: number[:5])
def test_a_number_that_python_or_orjson_refuses_costs_no_answer(number: str) -> None:
    said = json.dumps(completion("Grüße")).removesuffix("}") + f', "created": {number}, "n": [{number}]}}'
    with RawServer(http(said.encode())) as server:
        for _ in range(2):
            out = ask(server.base_url, save_to="frame.jsonl")
            assert out[["response", "attempts", "prompt_tokens"]].iloc[0].tolist() == ["Grüße", 1, 5]
        assert [ask_by_file(server.base_url).num_tasks_succeeded for _ in range(2)] == [1, 1]
        assert [ask_by_file(server.base_url).num_tasks_restored for _ in range(2)] == [1, 1]
    assert len(server.asked) == 2


def test_an_answer_in_json_with_an_endless_number_is_not_lost() -> None:
    said = f'{{"value": {"3" * 5000}, "why": "thirds"}}'
    schema = {"type": "object", "properties": {"value": {"type": "number"}, "why": {"type": "string"}}}
    with RawServer(http(json.dumps(completion(said)).encode())) as server:
        out = ask(server.base_url, response_format=schema)
    assert out[["value", "why", "attempts"]].iloc[0].tolist() == [float("inf"), "thirds", 1]


def test_an_answer_wrapped_in_a_list_is_unwrapped() -> None:
    with RawServer(http(b" [\n" + SAID.encode() + b"]\n")) as server:
        out = ask(server.base_url, 2, save_to="frame.jsonl")
        assert (out["response"][0], out["completion_tokens"].tolist(), len(server.asked)) == ("Grüße, €, 😀", [2, 2], 2)
        assert [ask_by_file(server.base_url, 2).num_tasks_succeeded for _ in range(2)] == [2, 2]
        assert len(server.asked) == 4
    assert orjson.loads(Path("out.jsonl").read_bytes().splitlines()[0])[1] == orjson.loads(SAID)


@pytest.mark.parametrize("body", [f"[{SAID}, {SAID}]", json.dumps(SAID), "[[1]]", "17"], ids=lambda body: body[:3])
def test_json_of_an_unknown_form_is_not_paid_again_and_stops_the_run_if_all_are(body: str) -> None:
    with RawServer(http(body.encode())) as server:
        out = ask(server.base_url, 4)
        assert out["error_code"].eq("malformed_response").all()
        assert len(server.asked) == 4
        with pytest.raises(RequestRefusedError, match=r"5 requests were refused alike: .* base_url may not be right"):
            ask(server.base_url, 40, client_options={"max_concurrent_requests": 1})
        assert len(server.asked) == 9


def test_a_header_in_latin_1_is_accepted() -> None:
    with RawServer(http(SAID.encode(), "X-Request-Id: caf\xe9", "Server: caf\xe9", "Retry-After: \xbd")) as server:
        out = ask(server.base_url, save_to="frame.jsonl")
        assert (out["status"][0], out["request_id"][0]) == ("succeeded", "caf\ufffd")
        assert ask(server.base_url, save_to="frame.jsonl")["request_id"][0] == "caf\ufffd"
    assert len(server.asked) == 1
    orjson.loads(Path("frame.jsonl").read_bytes())


def test_an_answer_with_a_lone_surrogate_can_be_repaired() -> None:
    answers = iter([completion('{"mood": "\ud83d'), completion('{"mood": "good"}')])
    schema = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
    with RawServer(lambda _: http(json.dumps(next(answers)).encode())) as server:
        out = ask(server.base_url, response_format=schema, repair=1)
    assert out["mood"][0] == "good"
    assert b"mood" in server.asked[1].body


def test_a_lone_surrogate_in_a_cell_fails_its_row_and_no_other() -> None:
    index = pd.Index(["a", "\udce9"], dtype=object)
    df = pd.DataFrame({"text": pd.Series(["fine", "bad \ud83d"], dtype=object, index=index)})
    with RawServer(OK) as server, po.Client(server.base_url, api_key=KEY) as client:
        out = po.process_dataframe(df, "text", model="m", client=client, progress=False, save_to="frame.jsonl")
    assert out["status"].tolist() == ["succeeded", "failed"]
    assert [orjson.loads(line) for line in Path("frame.jsonl").read_bytes().splitlines()]
    assert len(server.asked) == 1


BODY = json.dumps(completion()).encode()
WRAPPED = {
    "201": http(BODY, status="201 Created"),
    "203": http(BODY, status="203 Non-Authoritative Information"),
    "226": http(BODY, status="226 IM Used"),
    "206": http(BODY, status="206 Partial Content"),
    "no reason beside the status": http(BODY, status="200"),
    "HTTP/1.0": http(BODY, version="1.0"),
    "HTTP/1.0 up to the end": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "lines without a carriage return": http(BODY).replace(b"\r\n", b"\n"),
    "gzip": http(gzip.compress(BODY), "Content-Encoding: gzip"),
    "x-gzip": http(gzip.compress(BODY), "Content-Encoding: X-GZip"),
    "two pieces of gzip": http(gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), "Content-Encoding: gzip"),
    "gzip twice": http(gzip.compress(gzip.compress(BODY)), "Content-Encoding: gzip, gzip"),
    "gzip that is not said": http(gzip.compress(BODY)),
    "gzip twice, said in two lines": http(
        gzip.compress(gzip.compress(BODY)), "Content-Encoding: gzip", "Content-Encoding: x-gzip"
    ),
    "gzip without its last bytes": http(gzip.compress(BODY)[:-3], "Content-Encoding: gzip"),
    "a transfer of identity": http(BODY, "Transfer-Encoding: identity"),
    "plain that is called gzip": http(BODY, "Content-Encoding: gzip"),
    "plain that is called br": http(BODY, "Content-Encoding: br"),
    "plain that is called something": http(BODY, "Content-Encoding: utf-8"),
    "identity": http(BODY, "Content-Encoding: identity"),
    "deflate": http(zlib.compress(BODY), "Content-Encoding: deflate"),
    "deflate without a head": http(zlib.compress(BODY)[2:-4], "Content-Encoding: deflate"),
    "gzip that is called deflate": http(gzip.compress(BODY), "Content-Encoding: deflate"),
    "a long line": http(BODY, f"X-Policy: {'a' * 65_000}"),
    "500 lines": http(BODY, *(f"Set-Cookie: a{number}=b" for number in range(500))),
    "many long lines": http(BODY, *(f"X-Policy-{number}: {'a' * 60_000}" for number in range(8))),
    "a head and a body of a megabyte": http(BODY + b" " * 2**20, f"X-Policy: {'a' * 65_000}", *["A: b"] * 500),
}


@pytest.mark.parametrize("said", WRAPPED.values(), ids=WRAPPED)
def test_compressed_and_chunked_answers_are_read(said: bytes) -> None:
    with RawServer(said) as server:
        out = ask(server.base_url, 3)
        assert out[["response", "attempts"]].to_numpy().tolist() == [["Hello.", 1]] * 3
        assert ask_by_file(server.base_url).num_tasks_succeeded == 1


ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
LIBRARIES = {"br": "brotli", "zstd": ZSTD}


def is_installed(name: str) -> bool:
    return name in LIBRARIES and find_spec(LIBRARIES[name].partition(".")[0]) is not None


@pytest.mark.parametrize("name", LIBRARIES)
def test_compressions_of_installed_libraries_are_accepted_and_read(name: str) -> None:
    library = pytest.importorskip(LIBRARIES[name], reason="it is not asked for without its library")
    with RawServer(http(library.compress(BODY), f"Content-Encoding: {name}")) as server:
        assert ask(server.base_url)["response"][0] == "Hello."
        assert name in server.asked[0].headers["accept-encoding"].split(", ")
    with RawServer(http(library.compress(b" " * (80 * 2**20)), f"Content-Encoding: {name}")) as server:
        assert ask(server.base_url)["error_code"][0] == "response_too_large"


@pytest.mark.parametrize("name", [name for name in ("br", "zstd", "lzma") if not is_installed(name)])
def test_an_unsupported_compression_fails_its_row_at_once_with_a_message(name: str) -> None:
    with RawServer(http(b"\x0b\x02\x80{}\x03", f"Content-Encoding: {name}")) as server:
        out = ask(server.base_url)
    assert (out["error_code"][0], len(server.asked)) == ("response_unreadable", 1)
    assert repr(name) in out["error"][0]
    assert name not in server.asked[0].headers["accept-encoding"].split(", ")


def test_an_answer_that_decompresses_to_too_many_bytes_is_refused() -> None:
    bomb = gzip.compress(b" " * (80 * 2**20), 9)
    with RawServer(http(bomb, "Content-Encoding: gzip")) as server:
        assert ask(server.base_url)["error_code"][0] == "response_too_large"


def test_a_truncated_compressed_answer_is_requested_again() -> None:
    answers = iter([http(gzip.compress(BODY)[:-20], "Content-Encoding: gzip"), OK])
    with RawServer(lambda _: next(answers)) as server:
        assert ask(server.base_url)[["response", "attempts"]].iloc[0].tolist() == ["Hello.", 2]


def test_a_202_without_an_answer_is_not_sent_again() -> None:
    with RawServer(http(b'{"id": "job_1", "status": "queued"}', status="202 Accepted")) as server:
        out = ask(server.base_url)
    assert (out["status"][0], out["error_code"][0], len(server.asked)) == ("failed", "http_202", 1)


@pytest.mark.parametrize("status", ["307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_on_the_same_server_is_followed_with_body_and_key(status: str) -> None:
    def answer(asked: Asked) -> bytes:
        return OK if asked.path.startswith("/v2") else http(b"", "Location: /v2/chat?a=1", status=status)

    with RawServer(answer) as server:
        assert ask(server.base_url, 2)["response"].tolist() == ["Hello."] * 2
        assert ask_by_file(server.base_url).num_tasks_succeeded == 1
    there = [asked for asked in server.asked if asked.path == "/v2/chat?a=1"]
    assert sorted(asked.body for asked in there) == sorted(asked.body for asked in server.asked if asked not in there)
    assert {asked.headers["authorization"] for asked in there} == {f"Bearer {KEY}"}


def test_a_redirect_to_another_server_is_followed_without_the_key() -> None:
    with RawServer(OK) as other:
        location = f"Location: {other.origin}/there"
        with RawServer(http(b"", location, status="307 Temporary Redirect")) as server:
            assert ask(server.base_url)["response"][0] == "Hello."
    [asked] = other.asked
    assert (asked.path, asked.body) == ("/there", server.asked[0].body)
    assert KEY not in str(asked)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found"])
def test_a_redirect_target_that_needs_the_key_is_suggested_as_base_url(status: str) -> None:
    with RawServer(http(b"{}", status=status)) as other:
        location = f"Location: {other.origin}/v1/chat/completions"
        with (
            RawServer(http(b"", location, status="307 Temporary Redirect")) as server,
            pytest.raises(ServerUnreachableError, match=f"redirects to {other.origin}.*set base_url to it"),
        ):
            ask(server.base_url)
    assert KEY not in str(other.asked)


@pytest.mark.parametrize("location", ["/v1/chat/completions", "", "ftp://host/", "http://ann:pw@host/", "http://[/"])
def test_an_invalid_redirect_stops_the_run(location: str) -> None:
    said = http(b"", f"Location: {location}", status="307 Temporary Redirect")
    with RawServer(said) as server, pytest.raises(ServerUnreachableError, match="redirects to") as stopped:
        ask(server.base_url)
    assert len(server.asked) <= 2
    assert "pw@" not in str(stopped.value)


def test_an_unreachable_redirect_target_is_reported() -> None:
    said = http(b"", "Location: http://127.0.0.1:9/v1", status="307 Temporary Redirect")
    with RawServer(said) as server, pytest.raises(ServerUnreachableError, match=r"No connection to 127\.0\.0\.1:9: "):
        ask(server.base_url)


@pytest.mark.parametrize("status", ["300 Multiple Choices", "304 Not Modified", "305 Use Proxy", "306 Unused"])
def test_a_3xx_status_without_a_location_is_not_called_a_redirect(status: str) -> None:
    with RawServer(http(b"", status=status)) as server:
        out = ask(server.base_url, 2)
        assert (out["error"][0], len(server.asked)) == (f"HTTP {status[:3]} with an empty body.", 2)
        with pytest.raises(RequestRefusedError, match=f"HTTP {status[:3]} with an empty body"):
            ask(server.base_url, 9)


def test_a_redirect_loop_ends() -> None:
    circle = RawServer(lambda asked: http(b"", f"Location: {asked.path}x", status="308 Moved"))
    with circle as server, pytest.raises(ServerUnreachableError, match="redirects to"):
        ask(server.base_url)
    assert len(server.asked) <= 6


def test_a_server_that_closes_every_connection_uses_up_no_attempts() -> None:
    """It neither says so beforehand, nor is a request sent into the end that has come already."""

    with RawServer(OK, closes=True) as server:
        out = ask(server.base_url, 20)
    assert out["response"].eq("Hello.").all()
    assert len(server.asked) < 25


def test_connections_closed_now_and_then_lose_no_row() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with RawServer(lambda asked: closing if len(asked.body) % 2 else OK) as server:
        out = ask(server.base_url, 40)
    assert out[["response", "attempts"]].to_numpy().tolist() == [["Hello.", 1]] * 40


CA = trustme.CA()


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    return context


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def wanting_a_certificate(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = tls()
    context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, version
    CA.configure_trust(context)
    return context


def for_http_2() -> ssl.SSLContext:
    context = tls()
    context.set_alpn_protocols(["h2"])
    return context


#: The settings that a server of HTTP/2 begins with, and its goodbye to whoever speaks otherwise.
HTTP_2 = bytes.fromhex("00000604000000000000030000006400000807000000000000000000 00000001".replace(" ", ""))
NEVER = {
    "a certificate is wanted, TLS 1.2": (OK, wanting_a_certificate(ssl.TLSVersion.TLSv1_2), "https", "certificate"),
    "a certificate is wanted, TLS 1.3": (OK, wanting_a_certificate(ssl.TLSVersion.TLSv1_3), "https", "certificate"),
    "HTTP/2 alone": (HTTP_2, None, "http", "HTTP/2 alone"),
    "HTTP/2 alone, with TLS": (HTTP_2, for_http_2(), "https", "HTTP/2 alone"),
    "TLS, asked without": (OK, tls(), "http", "https"),
    "dead behind a gateway of connections": (
        b"",
        None,
        "http",
        r"Is what stands behind it up.* What was sent may be charged\.",
    ),
    "dead behind a gateway of connections, with TLS": (b"", tls(), "https", "Is what stands behind it up"),
}


@pytest.mark.parametrize(("said", "context", "scheme", "words"), NEVER.values(), ids=NEVER)
def test_a_server_that_does_not_speak_http_stops_the_run_with_a_clear_error(
    said: bytes, context: ssl.SSLContext | None, scheme: str, words: str
) -> None:
    df = pd.DataFrame({"text": [f"Row {number}" for number in range(30)]})
    with RawServer(said, context) as server:
        url = f"{scheme}://{server.base_url.partition('://')[2]}"
        with (
            po.Client(url, api_key=KEY, ssl=trusting(), timeout=5.0) as client,
            pytest.raises(ServerUnreachableError, match=words) as stopped,
        ):
            po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert len(server.asked) < 60
    assert stopped.value.partial["status"].eq("cancelled").all()


def test_a_server_that_stops_answering_after_good_answers_is_waited_for() -> None:
    answers = iter([OK, b"", b"", b"", OK, OK, OK])
    with RawServer(lambda _: next(answers)) as server:
        assert [ask(server.base_url)["status"][0] for _ in range(2)] == ["succeeded"] * 2
