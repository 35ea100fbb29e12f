"""What is taken for a secret, and what is not."""

from __future__ import annotations

import pytest

from parallel_openai.engine.secrets import Secrets

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
