"""What the commands of `training` and `data` have in common: help, errors in one line, what Ctrl-C does.

A command module has `options()`, its parser, and `main(arguments=None)`, decorated by `command`, which gives the exit
status; it ends with `sys.exit(main())`. What loads torch or matplotlib is imported where it is used, so that help does
not wait for it.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

ERROR = 2  # exit status for what cannot be done as asked; argparse's own
INTERRUPTED = 128 + signal.SIGINT
GOES_ON = "what was done is kept, run the same command again"


class _Help(argparse.HelpFormatter):
    """Defaults where there is one to tell: not None, nothing, or a switch that is off."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default in (None, False, argparse.SUPPRESS, "", []) or "default" in text or not action.option_strings:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else "%(default)s"
        return f"{text} (default: {shown.replace('%', '%%') if shown != '%(default)s' else shown})"


def make_parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """Parser of `python -m module`, told by the first sentence of the module's docstring."""
    first = (doc or "").strip().splitlines()[0]
    about = first.partition(": `python")[0].rstrip(".:")
    return argparse.ArgumentParser(prog=f"python -m {module}", description=f"{about}.", formatter_class=_Help)


def positive(text: str) -> int:
    """Type of an option: a whole number above 0. Raises what argparse tells."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def tell(error: BaseException) -> None:
    """An exception as one line on stderr."""
    text = " ".join(str(error).split())
    print(f"error: {text or type(error).__name__}", file=sys.stderr)


def command(stopped: str = GOES_ON) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Decorator of a `main`: its exit status is what it returns, 2 after an error and 130 after Ctrl-C, each told in
    one line.

    stopped: what an interruption leaves and how to go on. Errors are ValueError, which all of this
    project's are, OSError and RuntimeError; others are faults of the program and keep their traceback, as all do with
    `python -X dev`.
    """

    def decorate(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(arguments: Sequence[str] | None = None) -> int:
            try:
                return main(arguments) or 0
            except KeyboardInterrupt:
                print(f"\nstopped; {stopped}", file=sys.stderr)
                return INTERRUPTED
            except (ValueError, OSError, RuntimeError) as error:
                if sys.flags.dev_mode:
                    raise
                tell(error)
                return ERROR

        return run

    return decorate


@contextmanager
def worker_pool(
    workers: int, context: Any = None, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block; at once, and without a word, where an exception ends it."""
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(initializer, initargs))
    before = set(multiprocessing.active_children())
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    pool.shutdown()


def _start(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the command ends its workers
    if initializer is not None:
        initializer(*initargs)
