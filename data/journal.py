"""Results of a run as they come, in one SQLite file beside the label file: what makes a run resume.

One row per molecule of the set (`seed`) and one per structure made of it, each with its status and, when done, its
result; a failure keeps its reason. Every result is one transaction, on the disk before the next: SQLite's rollback
journal survives a kill at any moment and a full disk, and its primary keys let nothing in twice. A lock keeps a second
run out.
"""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import JournalError, MoleculeError
from data.structure import LabelRow, Structure
from training.files import read_arrays

if TYPE_CHECKING:
    from typing_extensions import Self

VERSION = 1
_OTHER = (
    "no such",
    "has no column",
    "columns but",
    "decode",
    "may not be",
    "already a",
    "cannot modify",
    "views",
)  # SQLite's words
_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seed (
    name TEXT PRIMARY KEY, recipe TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'todo', reason TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS structure (
    name TEXT PRIMARY KEY, seed TEXT NOT NULL REFERENCES seed (name), place INTEGER NOT NULL, geometry BLOB NOT NULL,
    status TEXT NOT NULL DEFAULT 'todo', reason TEXT NOT NULL DEFAULT '', label BLOB);
CREATE INDEX IF NOT EXISTS of_seed ON structure (seed, place);
"""


@dataclass(frozen=True)
class Failure:
    """A molecule (kind `seed`) or a structure that could not be done, and why."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class Counts:
    """How many structures are labelled, failed and still to do, and how many molecules are not prepared or failed."""

    labelled: int
    failed: int
    todo: int
    unprepared: int
    failed_seeds: int


class Journal:
    """An open journal; use as a context manager.

    path: the SQLite file, made if missing. theory: text that tells the level of theory and the threshold apart.

    Raises JournalError for another run's lock, another level of theory, a file that is no journal, a full disk.
    """

    def __init__(self, path: Path, theory: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        except sqlite3.Error as error:
            raise JournalError(f"{path}: cannot be opened ({error})") from None
        try:
            with self._errors():
                self._open(theory)
        except BaseException:
            self._db.close()
            raise

    def _open(self, theory: str) -> None:
        # kept until the file is closed, also by a kill: a second run on the same file is refused
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA trusted_schema = OFF")  # triggers and views of a journal from elsewhere
        with self._transaction():
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            about = {"version": str(VERSION), "theory": theory}
            self._db.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())
            found = dict(self._db.execute("SELECT key, value FROM about").fetchall())
        for key, value in about.items():
            if found[key] != value:
                raise JournalError(
                    f"{self.path}: holds labels of another {key} ({found[key]}; now {value}); choose another -o, or "
                    "remove it if they are not needed"
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError(f"{self.path}: another run is writing it; wait for it or stop it") from None
            if any(words in str(error) for words in _OTHER):
                raise JournalError(
                    f"{self.path}: not a journal, or damaged ({error}); remove it to start anew"
                ) from None
            raise JournalError(
                f"{self.path}: a result could not be written ({error}); those before are safe. Make room and run the "
                "same command again"
            ) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise JournalError(f"{self.path}: not a journal, or damaged ({error}); remove it to start anew") from None

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise JournalError(
                f"{self.path}: what it has of {name} is damaged ({reason}); copy it again, or remove it to start anew"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled back by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add_seeds(self, recipes: Sequence[tuple[str, str]]) -> None:
        """Enter molecules, by name and the text of how they are made; those that are known already stay as they are.

        Raises JournalError where a known one was made in another way.
        """
        with self._errors(), self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO seed (name, recipe) VALUES (?, ?)", recipes)
            known = dict(self._db.execute("SELECT name, recipe FROM seed").fetchall())
        changed = [name for name, recipe in recipes if known.get(name) != recipe]
        if changed:
            raise JournalError(
                f"{self.path}: {changed[0]} (and {len(changed) - 1} others) were made from another source or with "
                "other settings; choose another -o, or give changed molecules another name (those without names are "
                "numbered: new ones go to the end)"
            )

    def retry_failed(self) -> None:
        """Forget failures, so that they are tried again."""
        with self._errors(), self._transaction():
            for table in ("seed", "structure"):
                self._db.execute(f"UPDATE {table} SET status = 'todo', reason = '' WHERE status = 'failed'")  # noqa: S608

    def unprepared(self) -> list[str]:
        """Names of the molecules of which no structures were made yet."""
        return [name for (name,) in self._rows("SELECT name FROM seed WHERE status = 'todo' ORDER BY rowid")]

    def unlabelled(self) -> list[tuple[str, str]]:
        """Structures without a label: their names, and those of their molecules."""
        return self._rows("SELECT name, seed FROM structure WHERE status = 'todo' ORDER BY rowid")

    def structure(self, name: str) -> Structure:
        """One structure."""
        with self._damage(name):
            ((blob,),) = self._rows("SELECT geometry FROM structure WHERE name = ?", name)
            return _structure(blob)

    def structures(self, seed: str) -> list[Structure]:
        """All structures of a molecule, in the order in which they were made, labelled or not."""
        query = "SELECT geometry FROM structure WHERE seed = ? ORDER BY place"
        with self._damage(seed):
            return [_structure(blob) for (blob,) in self._rows(query, seed)]

    def label(self, name: str) -> LabelRow | None:
        """The label of a structure, None where there is none."""
        with self._damage(name):
            ((geometry, label),) = self._rows("SELECT geometry, label FROM structure WHERE name = ?", name)
            return None if label is None else _label(_structure(geometry), label)

    def prepared(self, seed: str, structures: Sequence[Structure]) -> None:
        """Enter the structures made of a molecule; entering them again changes nothing.

        Raises MoleculeError, and enters nothing, where another molecule has a structure of the same name.
        """
        rows = [(s.name, seed, place, _geometry_blob(s)) for place, s in enumerate(structures)]
        insert = "INSERT OR IGNORE INTO structure (name, seed, place, geometry) VALUES (?, ?, ?, ?)"
        with self._errors(), self._transaction():
            self._db.executemany(insert, rows)
            if len(self._rows("SELECT 1 FROM structure WHERE seed = ?", seed)) != len(rows):
                raise MoleculeError(f"{seed}: another molecule has a structure of the same name; rename one")
            self._db.execute("UPDATE seed SET status = 'done', reason = '' WHERE name = ?", (seed,))

    def labelled(self, row: LabelRow) -> None:
        """Enter a label; the first one of a structure stays."""
        with self._errors(), self._transaction():
            self._db.execute(
                "UPDATE structure SET status = 'done', reason = '', label = ? WHERE name = ? AND label IS NULL",
                (_label_blob(row), row.structure.name),
            )

    def failed(self, failure: Failure) -> None:
        """Enter a failure; it is not tried again unless asked for."""
        table = {"seed": "seed", "structure": "structure"}[failure.kind]
        query = f"UPDATE {table} SET status = 'failed', reason = ? WHERE name = ? AND status = 'todo'"  # noqa: S608
        with self._errors(), self._transaction():
            self._db.execute(query, (failure.reason, failure.name))

    def size(self) -> int:
        """Bytes of all labels and geometries, compressed as they are kept."""
        query = "SELECT COALESCE(SUM(LENGTH(label) + LENGTH(geometry)), 0) FROM structure WHERE label IS NOT NULL"
        return int(self._rows(query)[0][0])

    def failures(self, seeds: Container[str]) -> list[Failure]:
        """Failures with their reasons, of these molecules."""
        query = "SELECT name, 'seed', name, reason FROM seed WHERE status = 'failed'"
        query += " UNION ALL SELECT seed, 'structure', name, reason FROM structure WHERE status = 'failed'"
        return [Failure(*row) for seed, *row in self._rows(query) if seed in seeds]

    def counts(self) -> Counts:
        """How far the run is."""
        found = dict(self._rows("SELECT status, COUNT(*) FROM structure GROUP BY status"))
        seeds = dict(self._rows("SELECT status, COUNT(*) FROM seed GROUP BY status"))
        return Counts(
            found.get("done", 0),
            found.get("failed", 0),
            found.get("todo", 0),
            seeds.get("todo", 0),
            seeds.get("failed", 0),
        )

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._errors():
            return self._db.execute(query, values).fetchall()


def _pack(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _geometry_blob(s: Structure) -> bytes:
    rest = {k: v for k, v in asdict(s).items() if k not in ("atomic_numbers", "positions")}
    return _pack(atomic_numbers=s.atomic_numbers, positions=s.positions, rest=json.dumps(rest))


def _structure(blob: Any) -> Structure:
    """Raises ValueError, KeyError or TypeError for what is none."""
    data = read_arrays(bytes(memoryview(blob)))
    rest = json.loads(str(data["rest"]))
    kinds = {f.name: str(f.type) for f in fields(Structure) if f.name not in ("atomic_numbers", "positions")}
    if {name: type(value).__name__ for name, value in rest.items()} != kinds:
        raise ValueError(f"{', '.join(map(str, rest))} are not the facts of a structure")
    if data["atomic_numbers"].dtype.kind not in "iu" or data["positions"].dtype.kind != "f":
        raise ValueError("atoms and positions are not numbers")
    return Structure(atomic_numbers=data["atomic_numbers"], positions=data["positions"], **rest)


def _label_blob(row: LabelRow) -> bytes:
    numbers = (row.energy, row.gradient_norm, float(row.cycles_minao), row.seconds)
    return _pack(fock=row.fock, numbers=np.array(numbers))


def _label(structure: Structure, blob: Any) -> LabelRow:
    """Raises as `_structure`."""
    data = read_arrays(bytes(memoryview(blob)))
    energy, gradient, cycles, seconds = data["numbers"].tolist()
    if data["fock"].dtype != np.float32:
        raise ValueError(f"a Fock matrix of {data['fock'].dtype}")
    return LabelRow(structure, data["fock"], float(energy), float(gradient), int(cycles), float(seconds))
