"""Benchmarks: what they read, choose, write and sum up. The measurements themselves are commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.bench import levels, robustness, scaling, walltime
from training.bench.cases import CASES
from training.bench.classes import table
from training.bench.common import Job, Level, Result, missing, read_results, run_scf
from training.bench.molecules import Molecule, Seen, choose, read_npz
from training.bench.tables import failures, pairs, wall_ratios
from training.rows import append_rows

ROW = Result("water", "b3lyp", "minao", 0, 3, 24, 0, 0, route="minao", cycles=10, converged=True, builds=12)
ROW = replace(ROW, energy=-76.0, guess_seconds=0.1, seconds=2.0)


def row(start: str, **changes: Any) -> Result:
    return replace(ROW, start=start, **{"route": "network", "cycles": 6, "builds": 8, "seconds": 1.0, **changes})


def molecule(name: str, *numbers: int, stretch: float = 1.0, charge: int = 0, spin: int = 0) -> Molecule:
    """Atoms along a line."""
    positions = np.outer(np.arange(len(numbers)), [0.0, 0.0, stretch])
    return Molecule(name, numbers, positions, charge, spin)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "molecules.npz"
    np.savez(
        path,
        offsets=[0, 2, 4, 5],
        Z=np.array([8, 1, 1, 1, 6], dtype=np.uint8),
        positions=np.arange(15.0).reshape(5, 3),
        name=np.array([b"OH", b"twin", b"twin"]),
        charge=np.array([0, 1, 0], dtype=np.int8),
        uhf=np.array([1, 1, 2], dtype=np.int8),
    )
    return path


def test_ragged_npz_is_read(npz: Path) -> None:
    found = read_npz(npz)
    assert [m.name for m in found] == ["OH", "twin#1", "twin#2"]
    assert [m.numbers for m in found] == [(8, 1), (1, 1), (6,)]
    assert [(m.charge, m.spin) for m in found] == [(0, 1), (1, 1), (0, 2)]
    np.testing.assert_array_equal(found[1].positions, [[6, 7, 8], [9, 10, 11]])
    mol = found[0].mole("sto-3g")
    assert (mol.spin, mol.charge, mol.natm) == (1, 0, 2)


def test_npz_without_names_and_charges(tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", offsets=[0, 1], Z=[2], positions=np.zeros((1, 3)))
    (found,) = read_npz(tmp_path / "bare.npz")
    assert (found.name, found.charge, found.spin) == ("0", 0, 0)


def test_positions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 atoms"):
        Molecule("bad", (1, 1), np.zeros((3, 3)))


def test_structures_are_the_same_whatever_the_order_of_atoms() -> None:
    seen = Seen(0.02, [molecule("CO2", 8, 6, 8)])
    assert replace(molecule("reordered", 8, 8, 6), positions=np.diag([0, 0, 1.0])[[0, 0, 2]]) not in seen
    assert molecule("longer by 0.009", 8, 6, 8, stretch=1.009) in seen
    assert molecule("longer by 0.02", 8, 6, 8, stretch=1.02) not in seen
    assert molecule("ion", 8, 6, 8, charge=1, spin=1) not in seen
    assert molecule("ion", 8, 6, 8, charge=1) in Seen(0.02, [molecule("CO2", 8, 6, 8)], electrons=False)


def test_the_choice_depends_on_the_seed_only() -> None:
    many = [molecule(str(k), 6, 8, stretch=1 + k) for k in range(30)]
    first = [m.name for m in choose(many, 5, lambda _: True, seed=1)]
    assert first == [m.name for m in choose(many, 5, lambda _: True, seed=1)]
    assert first != [m.name for m in choose(many, 5, lambda _: True, seed=2)]
    assert len(choose(many + many, 100, lambda _: True)) == 30


def test_robustness_takes_each_group_and_few_small_molecules() -> None:
    chain = (6, 6, 6, 6)
    many = [molecule(f"neutral {k}", *chain, stretch=1 + k) for k in range(9)]
    many += [molecule(f"small {k}", 6, 8, stretch=1 + k) for k in range(9)]
    many += [molecule(f"ion {k}", *chain, stretch=1 + k, charge=1) for k in range(9)]
    many += [molecule(f"radical {k}", *chain, stretch=1 + k, spin=1) for k in range(9)]
    many += [molecule("sulfur", 16, 16, 16, 16), molecule("trained", 7, 7, 7, 7)]
    counts = {"neutral": 20, "ions": 3, "radicals": 2}
    found = robustness.select(many, counts, max_small=4, trained=[molecule("", 7, 7, 7, 7, stretch=1.01)])
    groups = [robustness.group(m) for m in found]
    assert [groups.count(g) for g in robustness.GROUPS] == [9 + 4, 3, 2]
    assert sum(m.n_atoms < 4 for m in found) == 4
    assert not {"sulfur", "trained"} & {m.name for m in found}


def test_a_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [ROW, row("tracegrad", reason='a "quoted", reason', refined=True, gradient=1e-5)]
    append_rows(tmp_path / "new" / "rows.csv", rows[:1])
    append_rows(tmp_path / "new" / "rows.csv", rows[1:])
    found = read_results(tmp_path / "new" / "rows.csv")
    assert found[1] == rows[1]
    assert repr(found) == repr(rows)  # nan is not equal to itself
    assert read_results(tmp_path / "missing.csv") == []


def test_only_what_is_missing_runs() -> None:
    job = Job(molecule("water", 8, 1, 1), Level("b3lyp"), ("minao", "tracegrad"))
    assert missing([job], []) == [job]
    assert missing([job], [ROW]) == [replace(job, starts=("tracegrad",))]
    assert missing([job], [ROW, row("tracegrad")]) == []
    assert missing([replace(job, repeat=1)], [ROW]) == [replace(job, repeat=1)]


def test_one_run_fills_a_row() -> None:
    hydrogen = molecule("H2", 1, 1, stretch=0.74)
    found = run_scf(lambda: Level("hf", "hf", "sto-3g").make_mf(hydrogen), "minao", "H2", "hf")
    assert found.converged
    assert not found.error
    assert (found.nao, found.builds, found.route) == (2, found.cycles + 2, "minao")
    assert found.energy == pytest.approx(-1.1167, abs=1e-4)
    assert 0 < found.guess_seconds < found.seconds


def test_what_raises_is_a_row() -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("no\nSCF")

    mf = Level("hf", "hf", "sto-3g").make_mf(molecule("H2", 1, 1, stretch=0.74))
    mf.kernel = broken
    found = run_scf(lambda: mf, "minao")
    assert (found.error, found.cycles, found.converged) == ("RuntimeError: no SCF", -1, False)
    assert found.route == "minao"


def test_regimes_keep_the_integrals_or_not() -> None:
    hydrogen = molecule("H2", 1, 1, stretch=0.74)
    for regime, kept in (("incore", True), ("direct", False)):
        mf = Level("", "hf", "sto-3g", regime).make_mf(hydrogen)
        mf.kernel()
        assert (mf._eri is not None) == kept
    assert hasattr(Level("", "hf", "sto-3g", "df").make_mf(hydrogen), "with_df")


def test_failures_are_listed_by_name() -> None:
    assert failures([ROW, row("tracegrad")]) == []
    bad = [
        row("slow", cycles=12),
        row("lost", converged=False),
        row("raised", converged=False, error="ValueError: no"),
        row("other", energy=-76.1),
        row("close", cycles=11),
    ]
    found = failures([ROW, *bad])
    assert len(found) == 4
    for line, word in zip(found, ("12 cycles", "not converged", "ValueError: no", "lower"), strict=True):
        assert word in line
        assert "water" in line


def test_wall_times_of_repeats_are_averaged() -> None:
    rows = [ROW, row("tracegrad"), replace(ROW, repeat=1, seconds=4.0), row("tracegrad", repeat=1, seconds=2.0)]
    assert wall_ratios(pairs(rows, "tracegrad")) == {("b3lyp", "water"): 0.5}


def test_walltime_alternates() -> None:
    jobs = walltime.make_jobs([molecule("H2", 1, 1)], [Level("a")], ("minao", "tracegrad"), repeats=3)
    assert [j.starts[0] for j in jobs] == ["minao", "tracegrad", "minao"]
    assert [j.repeat for j in jobs] == [0, 1, 2]


@pytest.mark.parametrize(
    ("summary", "ratio"), [(robustness.summary, "0.600"), (levels.summary, "0.800"), (walltime.summary, "0.500")]
)
def test_summaries(summary: Any, ratio: str) -> None:
    rows = [ROW, row("tracegrad", transfer="native", refined=True)]
    rows += [replace(r, molecule="ion", charge=1, cycles=20) for r in rows]
    text = summary(rows)
    assert ratio in text
    assert "failures (0)" in text
    failed = [replace(r, converged=False, error="ValueError: no", cycles=-1, energy=np.nan) for r in rows]
    assert "failures (4)" in summary(failed)
    assert "failures (0)" in summary([])


def test_sizes_of_guess_and_cycle_are_measured() -> None:
    water = Molecule("water", (8, 1, 1), np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]]))
    guess, cycle = (scaling.run(scaling.Job(water, part, 1, 4000)) for part in scaling.PARTS)
    assert (guess.error, cycle.error) == ("", "")
    assert (guess.nao, guess.pairs, guess.kept, cycle.kept) == (24, 3, True, True)
    parts = guess.setup + guess.reference + guess.network + guess.gate + guess.diagonalisation
    assert 0.0 < parts < guess.guess
    assert cycle.first > 0.0
    assert min(guess.memory, cycle.memory) > 0.0
    direct = [replace(guess, max_memory=1, kept=False), replace(cycle, max_memory=1, kept=False)]
    (_, _, *lines) = scaling.summary([guess, cycle, *direct, replace(cycle, nao=99, molecule="lost")]).splitlines()
    assert [line.count(" direct |") for line in lines] == [2, 0, 0]
    assert lines[1].endswith(f"| {guess.guess / cycle.cycle:.2f} |")
    assert lines[2].startswith("| lost | 3 | 99 | 1 | - | - |")
    assert lines[2].endswith("| - |")
    failed = scaling.run(scaling.Job(Molecule("clash", (1, 1), np.zeros((2, 3))), "guess", 1, 4000))
    assert failed.error.startswith("BadMolecule")
    assert failed.error in scaling.summary([failed])


def test_transfers_are_for_other_bases() -> None:
    starts = ("minao", "tracegrad-fock")
    assert levels.starts_of(Level("x"), starts) == ("minao",)
    assert levels.starts_of(Level("x", basis="cc-pvdz"), starts) == starts


def test_levels_take_held_out_molecules_first() -> None:
    chain = (6,) * 8
    structures = [molecule(f"s{k}", *chain, stretch=1 + k) for k in range(9)]
    held_out = [molecule("v0", *chain, stretch=0.9), molecule("v1", *chain, stretch=1)]
    assert [m.name[0] for m in levels.neutral_molecules(structures, held_out, 6)] == list("vvssss")
    (cation,) = [held_out[0].cation()]
    assert (cation.charge, cation.spin, cation.name) == (1, 1, "v0+")


def test_cases_have_names_of_their_own() -> None:
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)


def test_table_of_classes() -> None:
    minao = replace(ROW, molecule="RHF", level="class")
    text = table([minao, replace(row("tracegrad", transfer="native"), molecule="RHF", level="class")])
    assert "| class | RHF | network | native |  | 6 | 10 | 0 | 0e+00 |  |" in text
    assert "1 cases, 0 failed" in text
