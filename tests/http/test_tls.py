"""A server with a certificate from a private authority, over real TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

import pytest
import trustme

from parallel_openai import APIRequest, Client
from parallel_openai._records import Response
from tests.servers.recorder import Recorder, recorder


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Recorder]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with recorder(tls=context) as running:
        yield running


def ask(server: Recorder, **options: ssl.SSLContext | bool) -> Response:
    with Client(f"{server.url}/v1", **options) as client:  # type: ignore[arg-type]
        return asyncio.run(APIRequest({"model": "m", "messages": []}).call_api(client))


def test_a_private_certificate_authority_is_trusted_if_given(server: Recorder, authority: trustme.CA) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    response = ask(server, ssl=trusting)
    assert (response.status, server.asked[0].path) == (200, "/v1/chat/completions")


def test_a_private_certificate_authority_is_not_trusted_otherwise(server: Recorder) -> None:
    response = ask(server)
    assert (response.status, response.error_code) == (0, "tls_error")
    assert "certificate" in str(response.error)
    assert server.asked == []


def test_with_ssl_false_certificates_are_not_checked(server: Recorder) -> None:
    assert ask(server, ssl=False).status == 200
