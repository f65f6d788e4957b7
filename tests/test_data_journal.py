"""The journal: nothing lost, nothing twice, whatever ends the run."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import hydrogen, row_of

from data.errors import JournalError, MoleculeError
from data.journal import Counts, Failure, Journal

ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.journal"


def test_what_is_entered_is_found_again(path: Path) -> None:
    with Journal(path, "hf") as journal:
        journal.add_seeds([("a", "r"), ("b", "r"), ("c", "r")])
        journal.prepared("a", [hydrogen("a_eq0"), hydrogen("a_md1", 1.5)])
        journal.prepared("b", [hydrogen("b_eq0", 1.6)])
        journal.labelled(row_of(hydrogen("a_md1", 1.5)))
        journal.failed(Failure("structure", "b_eq0", "no convergence"))
    with Journal(path, "hf") as journal:
        assert journal.counts() == Counts(labelled=1, failed=1, todo=1, unprepared=1, failed_seeds=0)
        assert journal.unprepared() == ["c"]
        assert journal.unlabelled() == [("a_eq0", "a")]
        assert [s.name for s in journal.structures("a")] == ["a_eq0", "a_md1"]
        assert journal.failures(("a", "b")) == [Failure("structure", "b_eq0", "no convergence")]
        assert journal.failures(("a",)) == []
        assert journal.label("a_eq0") is None
        found, expected = journal.label("a_md1"), row_of(hydrogen("a_md1", 1.5))
    assert found is not None
    np.testing.assert_array_equal(found.fock, expected.fock)
    np.testing.assert_array_equal(found.structure.positions, expected.structure.positions)
    assert (found.energy, found.gradient_norm, found.cycles_minao, found.seconds) == (-1.1, 1e-6, 7, 0.5)
    assert found.structure.name == "a_md1"


def test_entering_twice_changes_nothing(path: Path) -> None:
    with Journal(path, "hf") as journal:
        for _ in range(2):
            journal.add_seeds([("a", "r")])
            journal.prepared("a", [hydrogen("a_eq0")])
            journal.labelled(row_of(hydrogen("a_eq0")))
        journal.failed(Failure("structure", "a_eq0", "too late"))
        assert journal.counts() == Counts(1, 0, 0, 0, 0)


def test_failures_are_tried_again_when_asked_for(path: Path) -> None:
    with Journal(path, "hf") as journal:
        journal.add_seeds([("a", "r"), ("b", "r")])
        journal.prepared("a", [hydrogen("a_eq0")])
        journal.failed(Failure("structure", "a_eq0", "timeout"))
        journal.failed(Failure("seed", "b", "no embedding"))
        assert journal.counts() == Counts(0, 1, 0, 0, 1)
        journal.retry_failed()
        assert journal.counts() == Counts(0, 0, 1, 1, 0)
        assert journal.failures(("a", "b")) == []


def test_a_second_run_is_kept_out(path: Path) -> None:
    with Journal(path, "hf"), pytest.raises(JournalError, match="another run is writing it"):
        Journal(path, "hf")
    Journal(path, "hf").__exit__()


def test_another_level_of_theory_is_refused(path: Path) -> None:
    with Journal(path, "hf"):
        pass
    with pytest.raises(JournalError, match=r"another theory \(hf; now pbe\); choose another -o"):
        Journal(path, "pbe")


def test_a_changed_molecule_is_refused_and_a_new_one_welcome(path: Path) -> None:
    with Journal(path, "hf") as journal:
        journal.add_seeds([("a", "r")])
        journal.add_seeds([("a", "r"), ("b", "r")])
        with pytest.raises(JournalError, match=r"a .*made from another source or with other settings"):
            journal.add_seeds([("a", "other")])
        assert journal.unprepared() == ["a", "b"]


def test_two_molecules_with_a_structure_of_one_name(path: Path) -> None:
    with Journal(path, "hf") as journal:
        journal.add_seeds([("a", "r"), ("b", "r")])
        journal.prepared("a", [hydrogen("x")])
        with pytest.raises(MoleculeError, match="b: another molecule has a structure of the same name"):
            journal.prepared("b", [hydrogen("y"), hydrogen("x")])
        assert journal.structures("b") == []
        assert journal.unprepared() == ["b"]


def test_a_file_that_is_no_journal(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to look at" * 40)
    with pytest.raises(JournalError, match="not a journal, or damaged"):
        Journal(path, "hf")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(path.parent, "hf")


def enter(journal: Journal, numbers: range, told: list[int]) -> None:
    """Structures and labels of molecules, one after the other; told: those that were entered."""
    for k in numbers:
        journal.prepared(f"a{k}", [hydrogen(f"a{k}_eq0")])
        journal.labelled(row_of(hydrogen(f"a{k}_eq0")))
        told.append(k)


def test_a_full_disk_loses_nothing(path: Path) -> None:
    with Journal(path, "hf") as journal:
        journal.add_seeds([(f"a{k}", "r") for k in range(200)])
        journal._db.execute("PRAGMA max_page_count = 40")  # SQLite's own stand-in for a disk of that size
        told: list[int] = []
        message = r"full.*those before are safe\. Make room and run the same command again"
        with pytest.raises(JournalError, match=message):
            enter(journal, range(200), told)
        kept = len(told)
    assert 3 < kept < 199
    with Journal(path, "hf") as journal:
        counts = journal.counts()
        assert counts.labelled == kept
        assert counts.unprepared in (200 - kept, 199 - kept)
        enter(journal, range(kept, 200), told)
        assert journal.counts() == Counts(200, 0, 0, 0, 0)


WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from data.journal import Journal
from data_helpers import hydrogen, row_of
with Journal(Path({path!r}), "hf") as journal:
    journal.add_seeds([(f"a{{k}}", "r") for k in range(400)])
    print("ready", flush=True)
    for name, _ in journal.unlabelled():
        journal.labelled(row_of(journal.structure(name)))
        print(name, flush=True)
    for name in journal.unprepared():
        structure = hydrogen(name + "_eq0")
        journal.prepared(name, [structure])
        journal.labelled(row_of(structure))
        print(structure.name, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_had_entered(path: Path) -> None:
    code = WRITER.format(root=str(ROOT), tests=str(ROOT / "tests"), path=str(path))
    rng = np.random.default_rng(0)
    told: list[str] = []
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        told += [line.strip() for line in process.stdout.readlines() if line.endswith("\n")]
        process.stdout.close()
        process.wait()
        if len(told) >= 400:
            break
    assert len(told) == len(set(told)), "a label was made twice"
    with Journal(path, "hf") as journal:
        for name in told:
            row = journal.label(name)
            assert row is not None
            np.testing.assert_array_equal(row.fock, row_of(hydrogen(name)).fock)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
