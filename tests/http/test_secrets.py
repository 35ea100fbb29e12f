"""What is masked as a secret, and what is not."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote

import pytest

from parallel_openai._http.credentials.secrets import Secrets
from parallel_openai._json import dumps

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
def test_a_secret_echoed_by_the_server_is_masked(headers: dict[str, str], told: str) -> None:
    body = b'{"error":{"message":"You sent %b."}}' % told.encode()
    assert Secrets(headers).out_of_body(body) == b'{"error":{"message":"You sent ***."}}'


@pytest.mark.parametrize("told", ["a+b/0123456789", "a%2Bb/0123456789", "a%2Bb%2F0123456789"])
def test_a_secret_of_the_urls_query_is_masked(told: str) -> None:
    secrets = Secrets({}, "https://host/v1?api-version=2024-10-21&key=a%2Bb%2F0123456789")
    assert secrets.out_of(f"No such key: {told}, 2024-10-21.") == "No such key: ***, 2024-10-21."


@pytest.mark.parametrize("placeholder", ["lm-studio", "not-needed", "password", "12345678", "EMPTY"])
def test_a_placeholder_key_is_not_masked_in_answers(placeholder: str) -> None:
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
def test_every_kind_of_secret_is_masked_in_errors(
    headers: dict[str, str], url: str, proxy: str | None, told: str
) -> None:
    secrets = Secrets(headers, url, proxy)
    assert told not in secrets.out_of(f"No entry with {told}.")
    assert told.encode() not in secrets.out_of_error(dumps({"error": {"message": f"Not {told}!"}}))
    assert told.encode() not in secrets.out_of_error(f"<p>{told}</p>".encode())


SPELLINGS: dict[str, Callable[[str], str]] = {
    "a URL in small letters": lambda secret: re.sub("%..", lambda escape: escape[0].lower(), quote(secret, safe="")),
    "a URL that escapes every letter": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "a URL within a URL": lambda secret: quote(quote(secret, safe=""), safe=""),
    "JSON of Python": lambda secret: json.dumps(secret)[1:-1],
    "JSON within JSON": lambda secret: json.dumps(json.dumps(secret))[1:-1],
    "JSON that escapes every letter": lambda secret: "".join(f"\\u{ord(letter):04x}" for letter in secret),
    "HTML": html.escape,
    "HTML by numbers": lambda secret: "".join(f"&#{ord(letter)};" for letter in secret),
    "bytes of Python": lambda secret: repr(secret.encode()),
    "hexadecimals": lambda secret: secret.encode().hex(),
}


@pytest.mark.parametrize("secret", ["sk-proj-Ab3/d+Ef=6&hIj", "pässwörd <12345>"])
@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_a_secret_is_masked_in_any_encoding(secret: str, spell: Callable[[str], str]) -> None:
    secrets = Secrets({"X-Api-Key": secret.replace(" ", "_")})
    told = spell(secret.replace(" ", "_"))
    assert told not in secrets.out_of(f"No entry with {told}.")
    assert secrets.out_of_headers({"x-debug": told})["x-debug"] != told
    assert told not in secrets.out_of_error(dumps({"error": told})).decode()


@pytest.mark.parametrize("before", range(3))
def test_a_secret_within_base64_is_masked(before: int) -> None:
    told = b64encode(b"abc"[:before] + b"sk-0123456789" + b" from 10.0.0.1").decode()
    assert told[4:16] not in Secrets({"api-key": "sk-0123456789"}).out_of(told)


def test_a_password_with_non_ascii_letters_is_masked() -> None:
    secrets = Secrets({"Authorization": "Basic " + b64encode("ann:pässwörd-1".encode()).decode()})
    assert secrets.out_of("Not pässwörd-1.") == "Not ***."


@pytest.mark.parametrize("before", ["key%3D", "key%3d", "a\\n", " "])
def test_a_short_secret_behind_an_escape_is_masked(before: str) -> None:
    assert Secrets({"api-key": "hunter2"}).out_of(f"{before}hunter2.") == f"{before}***."


def test_a_secret_as_a_fields_name_is_masked() -> None:
    body = b'{"sk-0123456789":"Not sk-0123456789."}'
    assert Secrets({"api-key": "sk-0123456789"}).out_of_error(body) == b'{"***":"Not ***."}'


def test_a_short_secret_is_masked_only_as_a_whole_word() -> None:
    secrets = Secrets({"api-key": "abcd"})
    assert secrets.out_of("abcd is not abcde.") == "*** is not abcde."


def test_the_names_of_an_errors_fields_are_not_masked() -> None:
    assert Secrets({"api-key": "message"}).out_of_error(b'{"message":"a message"}') == b'{"message":"a ***"}'


def test_a_deeply_nested_error_is_masked_as_text() -> None:
    body = b'{"a":' * 990 + b'"hunter2"' + b"}" * 990
    assert b"hunter2" not in Secrets({"api-key": "hunter2"}).out_of_error(body)
