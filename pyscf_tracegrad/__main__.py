"""`python -m pyscf_tracegrad autoload [--default] [--model FILE] | --remove | --status`, or `--version`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pyscf_tracegrad import __version__, autoload

_STATUS = {
    "off": "pyscf_tracegrad is not in it",
    "on": "init_guess='tracegrad' is known without an import",
    "default": "init_guess='tracegrad' is known without an import, and the default",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. arguments: those of the process if not given."""
    parser = argparse.ArgumentParser(prog="python -m pyscf_tracegrad", description=__doc__)
    parser.add_argument("--version", action="version", version=f"pyscf_tracegrad {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "autoload",
        help="make PySCF know init_guess='tracegrad' without an import",
        description="Write, into your PySCF config file, the lines that make PySCF know init_guess='tracegrad' without "
        "an import of pyscf_tracegrad. The file is $PYSCF_CONFIG_FILE, else ~/.pyscf_conf.py.",
    )
    choice = command.add_mutually_exclusive_group()
    choice.add_argument("--default", action="store_true", help="make it the default guess of molecules as well")
    choice.add_argument("--remove", action="store_true", help="take the lines out again")
    choice.add_argument("--status", action="store_true", help="say what is there, change nothing")
    command.add_argument(
        "--model",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a model file that the key uses before the shipped one, where it has the basis and functional of a "
        "calculation; may be given again (default: none)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.model and (chosen.remove or chosen.status):
        command.error("--model goes with neither --remove nor --status")
    path = autoload.config_file()
    try:
        changed = _change(path, chosen)
        text = ", ".join((_STATUS[autoload.status(path)], *(f"model {name}" for name in autoload.models(path))))
    except autoload.AutoloadError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{path}{' (changed)' if changed else ''}: {text}\n")
    local = Path(".pyscf_conf.py").resolve()
    if "PYSCF_CONFIG_FILE" not in os.environ and local.is_file() and local != path.resolve():
        sys.stdout.write(f"In this folder PySCF reads {local} instead.\n")
    return 0


def _change(path: Path, chosen: argparse.Namespace) -> bool:
    """Do what was chosen; whether the file is another one now."""
    if chosen.status:
        return False
    return autoload.remove(path) if chosen.remove else autoload.install(path, chosen.default, chosen.model)


if __name__ == "__main__":
    sys.exit(main())
