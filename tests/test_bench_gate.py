"""Calibration of the gate: areas under ROC curves, limits, bad molecules, rows. The SCFs themselves are a command."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from network_helpers import SAP, TABLE, random_model

from pyscf_tracegrad.checkpoint import Checkpoint
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.gate import Gate
from pyscf_tracegrad.pretrained import PretrainedModel
from training.bench import gate
from training.bench.molecules import Molecule
from training.bench.roc import (
    Outcome,
    Row,
    auc,
    beyond,
    extreme,
    read_rows,
    rejects,
    roc_curve,
    score,
    suggest,
    summary,
    usable,
    write_rows,
)

GOOD = {"gap": 0.3, "charge": 0.5, "distance": 0.2, "step": 1e-3, "traces": 0.4, "overshoot": 0.2}
DONE = Outcome(10, True, -76.0)
ROW = Row("structures", "water", 3, 0, GOOD, replace(DONE, cycles=6), replace(DONE, cycles=8), DONE)

METHANOL = Molecule(
    "methanol",
    (6, 8, 1, 1, 1, 1),
    np.array(
        [
            [0.66, -0.02, 0.0],
            [-0.75, 0.12, 0.0],
            [1.03, -0.54, -0.89],
            [1.03, -0.54, 0.89],
            [1.09, 0.98, 0.0],
            [-1.13, -0.76, 0.0],
        ]
    ),
)
WATER = Molecule("water", (8, 1, 1), np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]]))
FORMALDEHYDE = Molecule(
    "formaldehyde", (6, 8, 1, 1), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [0.0, 0.94, -0.59], [0.0, -0.94, -0.59]])
)
ORDINARY = [METHANOL, WATER, FORMALDEHYDE]


def distance(m: Molecule, i: int, j: int) -> float:
    return float(np.linalg.norm(m.positions[i] - m.positions[j]))


def test_area_with_ties() -> None:
    # of the six pairs (bad, good) three are in order, one is not, and two are ties
    scores, bad = [3.0, 1.0, 2.0, 1.0, 1.0], [True, True, False, False, False]
    assert auc(scores, bad) == pytest.approx((3 + 0.5 + 0.5) / 6)
    assert auc([1.0, math.inf], [False, True]) == 1.0
    assert math.isnan(auc([1.0, 2.0], [True, True]))


def test_curve_has_the_same_area() -> None:
    rng = np.random.default_rng(0)
    scores, bad = rng.integers(0, 6, 50).tolist(), (rng.random(50) < 0.3).tolist()
    false, caught = roc_curve(scores, bad)
    assert (false[0], caught[0], false[-1], caught[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.sum(np.diff(false) * (caught[1:] + caught[:-1]) / 2) == pytest.approx(auc(scores, bad))


def test_what_is_worse() -> None:
    assert not DONE.worse(DONE)
    assert replace(DONE, cycles=11).worse(DONE)
    assert not replace(DONE, cycles=11).worse(DONE, margin=1)
    assert replace(DONE, energy=-75.99).worse(DONE)
    assert not replace(DONE, energy=-76.01).worse(DONE)
    assert replace(DONE, converged=False).worse(DONE)
    assert not replace(DONE, converged=False).worse(replace(DONE, converged=False))


def test_limits_are_on_the_bad_side() -> None:
    assert score("gap", 0.1) > score("gap", 0.2)
    assert score("step", 0.2) > score("step", 0.1)
    assert score("gap", math.nan) == math.inf
    small, large = (replace(ROW, signals=GOOD | {"gap": g, "step": s}) for g, s in ((0.1, 1e-3), (0.3, 2e-3)))
    assert extreme([small, large], "gap", 2.0) == pytest.approx(0.05)
    assert extreme([small, large], "step", 2.0) == pytest.approx(4e-3)
    assert extreme([replace(ROW, signals=GOOD | {"gap": -0.1})], "gap", 2.0) == pytest.approx(-0.2)
    assert beyond("gap", 0.2)(small)
    assert not beyond("gap", 0.2)(large)
    assert not beyond("gap", 0.1)(small)


def test_suggestion_keeps_ordinary_molecules_that_are_not_slower() -> None:
    slower = replace(ROW, signals=GOOD | {"gap": 0.01}, network=replace(DONE, cycles=20))
    stretched = replace(ROW, group="stretched", signals=GOOD | {"step": 1.0})
    found = suggest([ROW, slower, stretched], 1.5)
    assert found == Gate(gap=0.2, charge=0.75, distance=0.3, step=1.5e-3, traces=0.6, overshoot=0.3)
    assert not rejects(found)(ROW)
    assert rejects(found)(slower)
    assert rejects(found)(stretched)


def test_rows_are_written_and_read(tmp_path: Path) -> None:
    broken = Row("charge", "water -2", 3, -2, {}, Outcome(), Outcome(), DONE, error="ValueError: no")
    write_rows(tmp_path / "gate.csv", [ROW])
    write_rows(tmp_path / "gate.csv", [broken])
    first, second = read_rows(tmp_path / "gate.csv")
    assert first == ROW
    assert (second.key, second.signals, second.minao, second.error) == (broken.key, {}, DONE, "ValueError: no")
    assert read_rows(tmp_path / "none.csv") == []
    (tmp_path / "old.csv").write_text("group,name,signal_gap\n")
    with pytest.raises(ValueError, match="another version"):
        write_rows(tmp_path / "old.csv", [ROW])
    lost = replace(ROW, minao=replace(DONE, converged=False))
    assert usable([first, second, lost]) == [ROW]
    text = summary([first, second, lost])
    assert "minao does not converge (1)" in text
    assert "errors (1)" in text


def test_bonds_and_rings() -> None:
    assert gate.bonds(METHANOL) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)]
    assert gate.chain_bonds(METHANOL) == gate.bonds(METHANOL)
    assert gate.chain_bonds(METHANOL, 8) == [(0, 1), (1, 5)]
    assert gate.fragments(METHANOL, (0, 1)).tolist() == [0, 1, 0, 0, 0, 1]
    ring = gate.polygon("N6", 7, 6, 1.32)
    assert len(gate.bonds(ring)) == 6
    assert gate.chain_bonds(ring) == []


@pytest.mark.parametrize("factor", [0.5, 1.5, 3.0])
def test_one_bond_changes_and_both_sides_stay(factor: float) -> None:
    found = gate.scale_bond(METHANOL, (0, 1), factor)
    assert found.numbers == METHANOL.numbers
    assert distance(found, 0, 1) == pytest.approx(factor * distance(METHANOL, 0, 1))
    for i, j in [(1, 5), (0, 2), (2, 4)]:
        assert distance(found, i, j) == pytest.approx(distance(METHANOL, i, j))


def test_molecules_are_pushed_as_near_as_asked() -> None:
    found = gate.push(METHANOL, WATER, 1.25, np.random.default_rng(0))
    assert found.numbers == METHANOL.numbers + WATER.numbers
    between = np.linalg.norm(found.positions[:6, None] - found.positions[None, 6:], axis=2)
    assert between.min() == pytest.approx(1.25, abs=0.01)
    assert distance(found, 6, 7) == pytest.approx(distance(WATER, 0, 1))


def test_hydrogen_comes_and_goes_in_pairs() -> None:
    rng = np.random.default_rng(0)
    fewer, more = gate.remove_hydrogens(METHANOL, rng), gate.add_hydrogens(METHANOL, rng)
    assert sorted(fewer.numbers) == [1, 1, 6, 8]
    assert sorted(more.numbers) == [1] * 6 + [6, 8]
    np.testing.assert_array_equal(more.positions[:6], METHANOL.positions)
    assert min(distance(more, 6, k) for k in range(6)) >= 0.7


def test_chains() -> None:
    assert gate.polyyne(8).n_atoms == 10
    octane = gate.alkane(8)
    assert (octane.numbers.count(6), octane.numbers.count(1)) == (8, 18)
    lengths = [distance(octane, i, j) for i, j in gate.bonds(octane)]
    assert len(lengths) == 25
    assert set(np.round(lengths, 6)) == {1.53, 1.09}


def test_bad_molecules_are_closed_shells_and_the_same_each_time() -> None:
    cases = gate.bad_cases(ORDINARY, seed=1)
    again, other = gate.bad_cases(ORDINARY, seed=1), gate.bad_cases(ORDINARY, seed=2)
    assert {c.group for c in cases} >= {"stretched", "clash", "pushed", "valence", "diatomic", "charge", "chain"}
    assert len({(c.group, c.molecule.name) for c in cases}) == len(cases)
    for a, b in zip(cases, again, strict=True):
        np.testing.assert_array_equal(a.molecule.positions, b.molecule.positions)
        assert a.molecule.name == b.molecule.name
        assert (sum(a.molecule.numbers) - a.molecule.charge) % 2 == 0
    assert [c.molecule.name for c in cases] != [c.molecule.name for c in other]
    assert len(gate.bad_cases(ORDINARY, seed=1, long=True)) == len(cases) + 2


def test_cases_of_a_molecule_run_together() -> None:
    cases = [gate.Case("structures", m) for m in ORDINARY] + gate.noise_cases(ORDINARY, 2)
    tasks = gate.make_tasks(cases)
    n = len(gate.NOISES)
    assert [len(t) for t in tasks] == [1 + n, 1 + n, 1]
    assert [c.group for c in tasks[0]][:5] == ["structures", "noise 1%", "noise 3%", "noise 10%", "noise 30%"]
    assert len({c.seed for t in tasks for c in t if c.noise}) == 2 * n


def test_noise_is_relative_and_on_a_copy() -> None:
    config = ModelConfig(reference=SAP, channels=8, layers=1, invariants=8, trace_hidden=8, radial=8)
    model = PretrainedModel(Checkpoint(random_model(config), TABLE, "b3lyp", "def2-svp", serve_ions=False))
    noisy, again, same = (gate.with_noise(model, level, 3) for level in (0.1, 0.1, 0.0))
    assert noisy.checkpoint.serve_ions
    before, after = ([p.detach() for p in m.checkpoint.model.parameters()] for m in (model, noisy))
    change = [((b - a).square().mean() / a.square().mean()).sqrt() for a, b in zip(before, after, strict=True)]
    large = [float(c) for a, c in zip(before, change, strict=True) if a.numel() > 300]
    assert large == pytest.approx([0.1] * len(large), rel=0.2)
    for a, b in ((noisy, again), (model, same)):
        pairs = zip(a.checkpoint.model.parameters(), b.checkpoint.model.parameters(), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
