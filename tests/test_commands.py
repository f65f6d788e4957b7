"""What all commands of this checkout have in common: help without torch, errors in one line, Ctrl-C."""

from __future__ import annotations

import errno
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest
from label_helpers import write_label_file
from pyscf import gto

from pyscf_tracegrad.checkpoint import load_checkpoint, save_checkpoint
from pyscf_tracegrad.pretrained import SHIPPED
from training import curves, evaluate, export, report, train
from training.command import command, make_parser, worker_pool

ROOT = Path(__file__).parents[1]
GUARD = '\nif __name__ == "__main__":\n'
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("training", "data")
    for path in (ROOT / folder).rglob("*.py")
    if GUARD in path.read_text()
)
HEAVY = (
    *("torch", "e3nn", "torch_geometric", "matplotlib", "scipy.stats"),
    *("rdkit", "dask", "distributed", "ase", "tblite"),
)
# each command's help, and the heavy modules that are loaded by then; its options without a word of help
LOOK = f"""
import contextlib, importlib, io, json, sys
found = {{}}
for name in sys.argv[1:]:
    module, text = importlib.import_module(name), io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            module.main(["--help"])
        except SystemExit as stop:
            status = stop.code
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    silent = [action.dest for action in module.options()._actions if not action.help]
    found[name] = [status, text.getvalue(), loaded, silent]
print(json.dumps(found))
"""
EXAMPLES = ["02-finetune.py", "03-optimisation.py", "04-conformers.py", "05-dynamics.py"]
LOOK_AT_EXAMPLES = """
import runpy, sys
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    sys.path.insert(0, path.rpartition("/")[0])
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        assert not stop.code
"""


def python(*words: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "namespace")]), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr, which is an error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_every_command_helps_without_loading_torch() -> None:
    assert len(MODULES) > 20
    for name, (status, text, loaded, silent) in json.loads(python(LOOK, *MODULES)).items():
        assert status == 0
        usage = f"usage: python -m {name.removesuffix('.__main__')} "
        assert text.startswith(usage)
        assert not loaded, (name, loaded)
        assert not silent, (name, silent)
        assert "default: None" not in text
        assert "default: False" not in text


def test_defaults_are_shown_where_there_is_one_to_tell() -> None:
    parser = make_parser("training.nothing", "Nothing at all: `python -m training.nothing`.\n\nMore.")
    parser.add_argument("--steps", type=int, default=500, help="how many")
    parser.add_argument("--routes", nargs="+", default=["a", "b"], help="which")
    parser.add_argument("--fast", action="store_true", help="hurry")
    parser.add_argument("--out", help="where; default: here")
    text = parser.format_help()
    assert "Nothing at all.\n" in text
    assert "how many (default: 500)" in text
    assert "which (default: a b)" in text
    assert text.count("(default") == 2


def test_an_error_is_one_line_and_a_fault_of_the_program_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    raised: list[BaseException] = []

    @command("rows are kept")
    def main(arguments: list[str]) -> int | None:
        if raised:
            raise raised.pop()
        return len(arguments) or None

    def fail(error: BaseException) -> int:
        raised.append(error)
        return main([])

    errors = (ValueError("no\n  such thing"), OSError(errno.ENOSPC, "No space"), RuntimeError("memory"), ValueError())
    for error in errors:
        assert fail(error) == 2
        assert one_line(capsys) == (" ".join(str(error).split()) or "ValueError")
    assert fail(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\nstopped; rows are kept\n"
    assert main([]) == 0
    assert main(["x"]) == 1
    with pytest.raises(TypeError):
        fail(TypeError())


def interrupted() -> None:
    """What Ctrl-C does to a command whose worker is busy."""
    with worker_pool(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(time.sleep, 0).result()
        pool.submit(time.sleep, 600)
        raise KeyboardInterrupt


def test_workers_end_at_once_with_ctrl_c() -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for process in multiprocessing.active_children():
        process.join(60)
    assert not multiprocessing.active_children()
    assert time.monotonic() - begin < 300


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    mols = {"water": gto.M(atom="O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2", basis="def2-svp", verbose=0)}
    focks = [mol.intor("int1e_kin") + mol.intor("int1e_nuc") for mol in mols.values()]
    return write_label_file(tmp_path / "labels.h5", mols, focks, ["val"], "b3lyp", "def2-svp")


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "noise":
        path.write_bytes(bytes(255 - byte for byte in whole))
    else:
        with h5py.File(path, "a") as file:
            if how == "charge":
                file["charge"][0] = 1
            elif how == "nan":
                file["fock"][3] = float("nan")
            else:
                file["split"][0] = "train"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "not a readable HDF5 file"),
        ("empty", "not a readable HDF5 file"),
        ("truncated", "not a readable HDF5 file"),
        ("noise", "not a readable HDF5 file"),
        ("charge", "molecule water: .*[Ee]lectron"),
        ("nan", "molecule water: .*NaN"),
        ("split", "no molecule of split 'val' in .*; splits there: train"),
    ],
)
def test_evaluate_tells_what_is_wrong_with_a_label_file(
    how: str, message: str, labels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(labels, how)
    monkeypatch.setattr(evaluate, "worker_pool", ThreadPoolExecutor)
    monkeypatch.setattr(evaluate, "tqdm", lambda found, **_: found)
    status = evaluate.main(["--labels", str(labels), "--scf", "none", "--routes", "reference"])
    assert status == 2
    line = one_line(capsys)
    assert re.search(message, line)
    assert str(labels) in line


def test_evaluate_takes_the_test_split(
    labels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(labels, "a") as file:
        file["split"][0] = "test"
    monkeypatch.setattr(evaluate, "worker_pool", ThreadPoolExecutor)
    words = ["--labels", str(labels), "--split", "test", "--scf", "none", "--routes", "reference"]
    assert evaluate.main(words) == 0
    assert "| neutral | reference | 1 |" in capsys.readouterr().out


def test_a_missing_run_or_file_is_one_line(tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "nope")
    for main, words in (
        (export.main, [nowhere, "-o", str(tmp_path / "out" / "x.pt")]),
        (report.main, [nowhere, "--labels", str(labels)]),
        (curves.main, [nowhere]),
        (train.main, [nowhere, "--labels", str(labels), "--out", str(tmp_path / "run")]),
    ):
        assert main(words) == 2
        assert "nope" in one_line(capsys)
    assert not (tmp_path / "out").exists()
    run = tmp_path / "run"
    run.mkdir()
    for name in (SHIPPED.name, f"{SHIPPED.name}.sha256"):
        shutil.copy(SHIPPED.with_name(name), run / name.replace(SHIPPED.name, "model.pt"))
    assert export.main([str(run), "-o", str(tmp_path / "x.pt"), "--results", nowhere]) == 2
    assert "give CSV files of training.evaluate" in one_line(capsys)


def test_a_full_disk_leaves_no_part_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(SHIPPED)

    def full(path: Path, content: bytes | memoryview) -> int:
        with path.open("wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path / "model.pt", checkpoint)
    assert not list(tmp_path.iterdir())


def test_every_example_helps() -> None:
    text = python(LOOK_AT_EXAMPLES, *(str(ROOT / "examples" / name) for name in EXAMPLES))
    for name in EXAMPLES:
        assert f"usage: python examples/{name} " in text
    assert "FS" in text


def test_the_table_of_the_example_is_whole_where_it_is_not_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the progress stands in it; what it costs is told before."""
    spec = importlib.util.spec_from_file_location("cycles", ROOT / "examples" / "01-cycles.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert len(example.MOLECULES) == 3
    hydrogen = tmp_path / "hydrogen.xyz"
    hydrogen.write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    example.MOLECULES = [hydrogen]
    example.main()
    out, err = capsys.readouterr()
    assert not err
    first, _, *table = out.splitlines()
    assert "about two minutes" in first
    assert [line.count("|") for line in table[:4]] == [6] * 4
    assert re.match(r"\| hydrogen \(2 atoms, 10 AOs\) \|( \d+, \d+, \d+\.\d \|){4}$", table[2])
    assert any(line.startswith("One guess, 2 atoms, in units of one SCF cycle") for line in table)
