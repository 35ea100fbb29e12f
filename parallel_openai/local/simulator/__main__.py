"""`python -m parallel_openai.local.simulator`: a simulator that runs until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from parallel_openai.local.simulator import serving
from parallel_openai.local.simulator.server import Simulator
from parallel_openai.local.simulator.settings import Settings, options


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m parallel_openai.local.simulator",
        description="OpenAI's API on localhost: its wire format, limits and failures. No key, no cost.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting, spelled with underscores or dashes.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["--max-requests-per-minute", "300"]).max_requests_per_minute
    300
    """
    parser.add_argument("--port", type=int, default=0, help="port on localhost; 0 takes any free one")
    parser.add_argument("--until_stdin_closes", action="store_true", help=argparse.SUPPRESS)
    for name, default, about in options():
        printed = "none" if default is None else json.dumps(default)
        parser.add_argument(
            *dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")),
            dest=name,
            type=functools.partial(_value, none="none" if isinstance(default, str) else None),
            default=default,
            # A switch needs no value: --charge_refused
            nargs="?" if isinstance(default, bool) else None,
            const=True if isinstance(default, bool) else None,
            metavar="VALUE",
            help=f"{about} (default: {printed})".replace("%", "%%"),
        )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, then print what happened.

    The first line on stdout is the base URL, for a program that starts this one.
    """
    try:
        settings = Settings(**{name: getattr(args, name) for name, _, _ in options()})
        listening = serving.listen(args.port)
    except (ValueError, OSError, OverflowError) as error:
        print(error, file=sys.stderr)
        return 2
    base_url = serving.base_url(listening)
    simulator = Simulator(settings)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    previous = _on_signals(loop, stop)
    if args.until_stdin_closes:  # pragma: no cover - the same process
        threading.Thread(target=_stop_with_stdin, args=(loop, stop), daemon=True).start()
    print(base_url, flush=True)
    if not args.until_stdin_closes:  # pragma: no branch - the same process
        print(_hint(base_url), flush=True)
    try:
        loop.run_until_complete(serving.run(simulator, listening, stop, threading.Event()))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        loop.close()
    if not args.until_stdin_closes:  # pragma: no branch - the same process
        print(summary(simulator.stats(with_charged=False)))
    return 0


def summary(stats: dict[str, Any]) -> str:
    """The statistics in a few lines.

    >>> print(summary(Simulator(Settings()).stats()))
    0 requests received, 0 accepted, 0 answered, 0 prompt tokens, 0 completion tokens.
    """
    lines = [
        f"{stats['received']} requests received, {stats['accepted']} accepted, {stats['answered']} answered, "
        f"{stats['prompt_tokens']} prompt tokens, {stats['completion_tokens']} completion tokens."
    ]
    for name, title in (("refused", "Refused"), ("faults", "Faults"), ("unknown_paths", "Unknown paths")):
        if stats[name]:
            lines.append(f"{title}: " + ", ".join(f"{what} {times}" for what, times in sorted(stats[name].items())))
    for name, share in stats["utilisation"].items():
        if share is not None:
            lines.append(f"{share:.1%} of the {name} that the limit allowed.")
    return "\n".join(lines)


def _value(text: str, none: str | None) -> Any:
    """A setting from the command line: JSON if it parses, otherwise the string itself."""
    if text.lower() == "none":
        return none
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _hint(base_url: str) -> str:
    root = base_url.removesuffix("/v1")
    return (
        "This is a simulator of OpenAI's API: its answers mean nothing, and nothing is charged. To use it:\n"
        f"  export OPENAI_BASE_URL={base_url} OPENAI_API_KEY=sk-simulated\n"
        f"  curl {root}/stats\n"
        "Ctrl-C ends it."
    )


def _on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> dict[int, Any]:
    """Set `stop` on SIGINT and SIGTERM; returns the previous handlers."""

    def handle(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(stop.set)

    return {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}


def _stop_with_stdin(  # pragma: no cover - runs in a process of its own, which the tests start
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event
) -> None:
    # Unlike sys.stdin.read, os.read holds no lock that the interpreter needs at shutdown.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":  # pragma: no cover - the same process
    sys.exit(main())
