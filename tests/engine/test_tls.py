"""A server whose certificate a private authority has signed, over real TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from parallel_openai import APIRequest, Client
from parallel_openai.records import Response
from tests.servers.recorder import Recorder, recorder


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    extensions = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=digitalSignature,keyCertSign"]
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command = ["openssl", "req", *kind, *extensions, "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> Iterator[Recorder]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with recorder(tls=context) as running:
        yield running


def ask(server: Recorder, **options: ssl.SSLContext | bool) -> Response:
    with Client(f"{server.url}/v1", **options) as client:  # type: ignore[arg-type]
        return asyncio.run(APIRequest({"model": "m", "messages": []}).call_api(client))


def test_a_private_authority_is_trusted_when_it_is_given(server: Recorder, certificate: tuple[Path, Path]) -> None:
    response = ask(server, ssl=ssl.create_default_context(cafile=str(certificate[0])))
    assert (response.status, server.asked[0].path) == (200, "/v1/chat/completions")


def test_a_private_authority_is_not_trusted_otherwise(server: Recorder) -> None:
    response = ask(server)
    assert (response.status, response.error_code) == (0, "tls_error")
    assert "certificate" in str(response.error)
    assert server.asked == []


def test_ssl_false_asks_for_no_certificate(server: Recorder) -> None:
    assert ask(server, ssl=False).status == 200
