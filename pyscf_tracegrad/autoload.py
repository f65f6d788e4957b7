"""The key 'tracegrad' in every Python that imports PySCF, by a few lines in the user's PySCF config file.

PySCF executes that file in the middle of its own import, so the lines can import neither PySCF nor this package. They
await `pyscf.scf.hf` and give its SCF class a stub, which imports this package when the key is first used. They are
text, and not a function here, because they must do no harm once this package is uninstalled.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path

BEGIN = "# >>> pyscf_tracegrad autoload >>>\n"
END = "# <<< pyscf_tracegrad autoload <<<\n"

_ABOUT = "# By `python -m pyscf_tracegrad autoload`; `python -m pyscf_tracegrad autoload --remove` takes them out.\n"

# Comments within the lines: what taking them out has to undo, so that the file is then what it was before.
_NEW_FILE = "# This file was made for these lines.\n"
_NO_NEWLINE = "# The line before them had no end.\n"
_DEFAULT = 'scf_hf_SCF_init_guess = "tracegrad"\n'
# The name is known to `scf.register` too.
_MODELS = "tracegrad_models = "

_STUB = '''\
def _tracegrad_autoload():
    """Wait for pyscf.scf.hf, give its SCF class a stub that imports pyscf_tracegrad at the first key 'tracegrad'."""
    import functools
    import sys

    def patch(SCF):
        original = SCF.get_init_guess

        @functools.wraps(original)
        def tracegrad_autoload(self, mol=None, key="minao", **keywords):
            if not isinstance(key, str) or key.lower() != "tracegrad":
                return original(self, mol, key, **keywords)
            try:
                from pyscf_tracegrad.scf import dispatch
            except Exception as error:
                from pyscf.lib import logger

                logger.warn(self, "tracegrad guess: pyscf_tracegrad cannot be imported (%s: %s). "
                            "Using the minao guess instead.", type(error).__name__, error)
                return original(self, mol, "minao")
            return dispatch(original, self, mol, key, keywords)

        class Default(str):  # at its first use pyscf_tracegrad replaces it: it knows which classes it is not for
            def __get__(self, instance, owner):
                SCF.init_guess = "tracegrad"
                try:
                    import pyscf_tracegrad
                except Exception:
                    pass  # the stub says so
                return (owner if instance is None else instance).init_guess

        SCF.get_init_guess = tracegrad_autoload
        if SCF.init_guess == "tracegrad":
            SCF.init_guess = Default("tracegrad")

    class Finder:
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name != "pyscf.scf.hf":
                return None
            specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not cls)
            spec = next((spec for spec in specs if spec is not None), None)
            if spec is None:
                return None
            loader, execute = spec.loader, spec.loader.exec_module

            def exec_module(module):
                del loader.exec_module
                if cls in sys.meta_path:
                    sys.meta_path.remove(cls)
                execute(module)
                patch(module.SCF)

            loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder)


_tracegrad_autoload()
del _tracegrad_autoload
'''


class AutoloadError(Exception):
    """The config file cannot be read, changed or understood; the message says which and why."""


def config_file() -> Path:
    """The user's PySCF config file, whether or not it exists: $PYSCF_CONFIG_FILE, else .pyscf_conf.py in $HOME.

    PySCF also knows .pyscf_conf.py of the current directory, which is of a project, not of the user.
    """
    name = os.environ.get("PYSCF_CONFIG_FILE")
    return Path(name) if name else Path(os.environ.get("HOME", ".")) / ".pyscf_conf.py"


def install(path: Path, default: bool = False, models: Sequence[Path] = ()) -> bool:
    """Write our lines into the config file, in the place of older ones or at its end; False if they are there already.

    default: also make 'tracegrad' the default guess of molecular SCF objects. models: model files that the key uses
    before the shipped one. Raises AutoloadError, for a path where no file is as well.
    """
    for model in models:
        if not model.is_file():
            raise AutoloadError(f"{model}: no such file; give the path of a model file")
    named = [str(model.expanduser().resolve()) for model in models]
    content = _read(path)
    before, old, after = _split(path, content or b"")
    new_file = content is None or _NEW_FILE.encode() in old
    no_newline = _NO_NEWLINE.encode() in old
    if not old and before and not before.endswith(b"\n"):
        before, no_newline = before + b"\n", True
    lines = (
        BEGIN,
        _ABOUT,
        _NEW_FILE if new_file else "",
        _NO_NEWLINE if no_newline else "",
        _DEFAULT if default else "",
        f"{_MODELS}{named!r}\n" if named else "",
        _STUB,
        END,
    )
    return _replace(path, content, before + "".join(lines).encode() + after)


def remove(path: Path) -> bool:
    """Take our lines out of the config file, and the file away if it was made for them; False if there are none.

    Raises AutoloadError.
    """
    content = _read(path)
    before, old, after = _split(path, content or b"")
    if not old:
        return False
    if _NO_NEWLINE.encode() in old and not after:
        before = before.removesuffix(b"\n")
    if _NEW_FILE.encode() in old and not before + after:
        return _replace(path, content, None)
    return _replace(path, content, before + after)


def status(path: Path) -> str:
    """What the config file does: `off`, `on`, or `default`. Raises AutoloadError."""
    _, old, _ = _split(path, _read(path) or b"")
    if not old:
        return "off"
    return "default" if _DEFAULT.encode() in old else "on"


def models(path: Path) -> tuple[str, ...]:
    """Paths of the model files that our lines in the config file name. Raises AutoloadError."""
    _, old, _ = _split(path, _read(path) or b"")
    for line in old.decode(errors="replace").splitlines():
        if line.startswith(_MODELS):
            try:
                return tuple(map(str, ast.literal_eval(line.removeprefix(_MODELS))))
            except (ValueError, SyntaxError):
                raise AutoloadError(f"the line of the models in {path} was changed; run autoload again") from None
    return ()


def _read(path: Path) -> bytes | None:
    """None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AutoloadError(f"cannot read {path}: {error.strerror}") from error


def _split(path: Path, content: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands before our lines, our lines, and what stands after them. All of it before where there are none."""
    # an editor may have changed the ends of lines
    marks = [line.rstrip(b"\r\n") for line in content.splitlines(keepends=True)]
    begin, end = BEGIN.strip().encode(), END.strip().encode()
    if begin not in marks and end not in marks:
        return content, b"", b""
    if marks.count(begin) != 1 or marks.count(end) != 1 or marks.index(begin) > marks.index(end):
        raise AutoloadError(f"the marks of pyscf_tracegrad in {path} do not pair; take its lines out by hand")
    lines = content.splitlines(keepends=True)
    first, last = marks.index(begin), marks.index(end) + 1
    return b"".join(lines[:first]), b"".join(lines[first:last]), b"".join(lines[last:])


def _replace(path: Path, old: bytes | None, new: bytes | None) -> bool:
    """Bring the file from `old` to `new` (None: no file) in one step; False if there is nothing to do."""
    if new == old:
        return False
    target = path.resolve()  # a link stays a link
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        if old is not None and not os.access(target, os.W_OK):  # replacing needs leave of the folder only
            raise PermissionError(13, "Permission denied")
        if new is None:
            target.unlink()
            return True
        try:
            temporary.write_bytes(new)
            if old is not None:
                temporary.chmod(target.stat().st_mode)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise AutoloadError(f"cannot write {path}: {error.strerror}") from error
    return True
