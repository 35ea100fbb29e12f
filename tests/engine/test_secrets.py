"""What is taken for a secret, and what is not."""

from __future__ import annotations

from base64 import b64encode

import pytest

from parallel_openai.engine.secrets import Secrets
from parallel_openai.jsonl import dumps

TOLD = {
    "Google's header": ({"X-Goog-Api-Key": "AIza0123456789"}, "AIza0123456789"),
    "Azure's gateway": ({"Ocp-Apim-Subscription-Key": "0123456789abcdef"}, "0123456789abcdef"),
    "Helicone": ({"Helicone-Auth": "Bearer sk-hel-0123456"}, "sk-hel-0123456"),
    "Cloudflare": ({"CF-Access-Client-Secret": "0123456789abcdef"}, "0123456789abcdef"),
    "a name and password": ({"Authorization": "Basic YW5uOnNlY3JldDE="}, "YW5uOnNlY3JldDE="),
    "each cookie": ({"Cookie": "first=0123456789abc; second=987654321xyz"}, "0123456789abc"),
    "a long word": ({"api-key": "correcthorsebatterystaple"}, "correcthorsebatterystaple"),
    "a key with a quote": ({"api-key": 'sk-"0123456789'}, 'sk-\\"0123456789'),
}


@pytest.mark.parametrize(("headers", "told"), TOLD.values(), ids=TOLD)
def test_a_secret_that_the_server_tells_is_masked(headers: dict[str, str], told: str) -> None:
    body = b'{"error":{"message":"You sent %b."}}' % told.encode()
    assert Secrets(headers).out_of_body(body) == b'{"error":{"message":"You sent ***."}}'


@pytest.mark.parametrize("told", ["a+b/0123456789", "a%2Bb/0123456789", "a%2Bb%2F0123456789"])
def test_a_secret_of_the_urls_query_is_masked(told: str) -> None:
    secrets = Secrets({}, "https://host/v1?api-version=2024-10-21&key=a%2Bb%2F0123456789")
    assert secrets.out_of(f"No such key: {told}, 2024-10-21.") == "No such key: ***, 2024-10-21."


@pytest.mark.parametrize("placeholder", ["lm-studio", "not-needed", "password", "12345678", "EMPTY"])
def test_a_word_that_stands_for_no_key_may_stand_in_an_answer(placeholder: str) -> None:
    body = b'{"created":1712345678,"content":"Set api_key=%b."}' % placeholder.encode()
    assert Secrets({"Authorization": f"Bearer {placeholder}"}).out_of_body(body) == body


@pytest.mark.parametrize(
    ("headers", "url", "proxy", "told"),
    [
        ({"Authorization": "Bearer hunter2"}, "", None, "hunter2"),
        ({"Authorization": "Bearer swordfish"}, "", None, "swordfish"),
        ({"X-Team-Pass": "opensesame"}, "", None, "opensesame"),
        ({}, "https://host/v1?subscription=blue-whale", None, "blue-whale"),
        ({"Authorization": "Basic YW5uOnNlY3JldA=="}, "", None, "secret"),
        ({}, "", "http://ann:let%20me%20in@proxy:8080", "let me in"),
        ({}, "", "http://ann:let%20me%20in@proxy:8080", "let%20me%20in"),
        ({"Cookie": "session=walrus"}, "", None, "walrus"),
        ({"api-key": "swordfish"}, "", None, b64encode(b"swordfish").decode()),
        ({"api-key": "sword/fish"}, "", None, "sword%2Ffish"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_whatever_was_sent_as_a_secret_is_masked_in_an_error(
    headers: dict[str, str], url: str, proxy: str | None, told: str
) -> None:
    secrets = Secrets(headers, url, proxy)
    assert told not in secrets.out_of(f"No entry with {told}.")
    assert told.encode() not in secrets.out_of_error(dumps({"error": {"message": f"Not {told}!"}}))
    assert told.encode() not in secrets.out_of_error(f"<p>{told}</p>".encode())


def test_a_short_secret_is_masked_as_a_word_only() -> None:
    secrets = Secrets({"api-key": "abcd"})
    assert secrets.out_of("abcd is not abcde.") == "*** is not abcde."


def test_the_names_of_an_errors_fields_stay() -> None:
    assert Secrets({"api-key": "message"}).out_of_error(b'{"message":"a message"}') == b'{"message":"a ***"}'


def test_an_error_that_is_nested_without_end_is_masked_as_text() -> None:
    body = b'{"a":' * 990 + b'"hunter2"' + b"}" * 990
    assert b"hunter2" not in Secrets({"api-key": "hunter2"}).out_of_error(body)
