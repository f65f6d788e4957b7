"""Acceleration studies: sets, the instrument, ratios against hand-made rows, resumption, the report."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from pyscf import dft, gto, scf

from pyscf_tracegrad.checkpoint import save_checkpoint
from pyscf_tracegrad.density import diagonalise
from pyscf_tracegrad.pretrained import load_model
from training.acceleration import work
from training.acceleration.__main__ import main
from training.acceleration.instrument import Recorder, mean_error
from training.acceleration.pictures import median_path
from training.acceleration.protocol import Protocol, ProtocolError, own_model, read_protocol, settle
from training.acceleration.ratios import Pair, failures, mean_of, pairs, saving
from training.acceleration.report import colours_of, make_page, present
from training.acceleration.runs import Row, Task, run_task
from training.acceleration.sets import QH9_ACCELERATION, SNAPSHOTS, read_set
from training.acceleration.targets import Targets
from training.acceleration.work import RESULTS, chosen, make_tasks, read_results, without_failures
from training.bench.common import make_start
from training.bench.gate import with_noise
from training.bench.molecules import Molecule
from training.metrics import occupied_virtual_error
from training.rows import append_rows, read_rows

ROOT = Path(__file__).parents[1]
HF = Protocol(xc="hf", basis="sto-3g")
WATER = Molecule("water", (8, 1, 1), np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]]))
OH = Molecule("OH", (8, 1), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]]), spin=1)
XYZ = "3\n{}\n" + "\n".join(
    f"{symbol} {x} {y} {z}" for symbol, (x, y, z) in zip("OHH", WATER.positions.tolist(), strict=True)
)


def row(molecule: str, guess: str, cycles: int, path: str = "", **rest: object) -> Row:
    """A row of a converged SCF."""
    fields: dict = {"served": guess, "converged": True, "builds": cycles + 2, "energy": -1.0, "prediction": 1e-3}
    fields |= {"guess_seconds": 0.5, "scf_seconds": 1.0 * cycles, "guess_cpu": 0.5, "scf_cpu": 2.0 * cycles}
    return Row(molecule, guess, 0, 3, 7, 0, 0, cycles=cycles, errors=path, **(fields | rest))


def test_the_recorder_sees_the_matrices_before_extrapolation() -> None:
    mf = HF.make_mf(WATER)
    seen: list[np.ndarray] = []
    mf.callback = lambda envs: seen.append(np.array(envs["fock"]))  # PySCF has it without DIIS at that point
    recorder = Recorder(mf)
    dm0 = mf.get_init_guess(mf.mol, "minao")
    mf.kernel(dm0=dm0)
    first, *middle, last = recorder.matrices
    np.testing.assert_allclose(first, mf.get_hcore() + scf.hf.get_veff(mf.mol, dm0), atol=1e-10)
    np.testing.assert_allclose(middle, seen, atol=1e-12)
    assert len(middle) == mf.cycles
    plain = HF.make_mf(WATER)
    plain.kernel(dm0=dm0)
    assert (plain.cycles, plain.e_tot) == (mf.cycles, pytest.approx(mf.e_tot, abs=1e-12))
    np.testing.assert_allclose(last, plain.get_fock(), atol=1e-9)
    again = HF.make_mf(WATER)
    with_target = Recorder(again, last)
    again.kernel(dm0=dm0)
    assert not with_target.matrices
    assert with_target.errors() == pytest.approx(recorder.errors(last))
    assert recorder.errors(last)[1] == pytest.approx(np.abs(seen[0] - last).mean())
    with pytest.raises(ValueError, match="needs one to tell errors"):
        recorder.errors()


def test_the_converged_matrix_is_the_floor_and_minao_as_a_model_is_one() -> None:
    rows = run_task(Task(WATER, HF, ("minao", "converged", "1e", "minao+refine"))).rows
    by = {r.guess: r for r in rows}
    assert [r.guess for r in rows if r.error] == []
    assert by["converged"].steps == 0
    assert by["converged"].prediction == 0.0
    assert by["minao+refine"].served.endswith("refined")
    assert by["1e"].prediction == pytest.approx(by["1e"].path[0], rel=1e-5)
    assert by["minao"].path[-1] == 0.0  # the target is its own last matrix
    assert all(r.scf_cpu > 0 and r.guess_seconds > 0 for r in rows)
    floor = saving(rows, "converged", "minao")
    assert (floor.achieved.mean, floor.error_level.n, floor.never) == (0.0, 0, ("water",))
    assert floor.cycles.mean == 1 / by["minao"].cycles
    (model,) = run_task(Task(WATER, HF, ("minao",))).rows
    same = saving([dataclasses.replace(model, guess="model"), *rows], "model", "minao")
    assert (same.achieved.mean, same.cycles.mean, same.builds.mean, same.total_cycles) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("regime", ["incore", "df"])
def test_guesses_that_share_take_the_same_cycles(regime: str) -> None:
    protocol = Protocol(xc="b3lyp", basis="sto-3g", grid_level=1, regime=regime)
    guesses = ("minao", "1e", "minao+refine")
    apart = run_task(Task(WATER, protocol, guesses)).rows
    together = run_task(Task(WATER, dataclasses.replace(protocol, shared=True), guesses)).rows
    assert [r.error for r in together] == ["", "", ""]
    for one, other in zip(together, apart, strict=True):
        assert (one.guess, one.cycles, one.builds) == (other.guess, other.cycles, other.builds)
        assert one.energy == pytest.approx(other.energy, abs=1e-11)
        assert one.path == pytest.approx(other.path, abs=1e-9)
        assert math.isnan(one.seconds)
        assert math.isfinite(other.seconds)
    page = make_page("water", dataclasses.replace(protocol, shared=True), {}, together).markdown()
    assert "nan" not in page


def test_integrals_and_grid_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    grid, integrals = dft.Grids.build, gto.Mole.intor
    monkeypatch.setattr(dft.Grids, "build", lambda self, *a, **k: (made.append("grid"), grid(self, *a, **k))[1])
    monkeypatch.setattr(
        gto.Mole, "intor", lambda self, name, *a, **k: (made.append(name), integrals(self, name, *a, **k))[1]
    )
    protocol = Protocol(basis="sto-3g", regime="incore", grid_level=0, shared=True)

    def expensive(*guesses: str) -> list[str]:
        made.clear()
        run_task(Task(WATER, protocol, guesses))
        return [name for name in made if name in ("grid", "int2e")]

    one = expensive("minao")
    assert set(one) == {"grid", "int2e"}
    assert expensive("minao", "1e", "minao+refine") == [*one, "grid"]  # the cheap cycles have a grid of their own


def test_open_shells_and_what_raises_are_rows() -> None:
    rows = run_task(Task(OH, HF, ("minao", "1e", "converged"))).rows
    by = {r.guess: r for r in rows}
    assert by["minao"].converged
    assert by["1e"].energy == pytest.approx(by["minao"].energy, abs=1e-7)
    assert "for closed shells" in by["converged"].error
    assert {f.guess for f in failures(rows)} == {"converged"}
    unknown = run_task(Task(OH, dataclasses.replace(HF, basis="nonsense"), ("minao", "1e"))).rows
    assert all(r.error and not r.converged and r.cycles == -1 for r in unknown)


def test_noise_of_known_size_has_the_ov_error_of_theory() -> None:
    """Symmetric noise of variance s^2 (2 s^2 on the diagonal) gives <(a|N|i)^2> = s^2 (|a|^2 |i|^2 + (a.i)^2)."""
    mf = HF.make_mf(WATER)
    mf.kernel()
    fock, overlap = mf.get_fock(), mf.get_ovlp()
    orbitals = diagonalise(fock, overlap)
    c, n = orbitals.coefficients, mf.mol.nelectron // 2
    occupied, virtual, s = c[:, :n], c[:, n:], 1e-6
    gaps = orbitals.energies[n:, None] - orbitals.energies[None, :n]
    norms = (virtual**2).sum(0)[:, None] * (occupied**2).sum(0)[None]
    theory = s * np.sqrt(np.mean((norms + (virtual.T @ occupied) ** 2) / gaps**2))
    generator, found = np.random.default_rng(0), []
    for _ in range(400):
        noise = generator.normal(scale=s, size=fock.shape)
        noise = (noise + noise.T) / math.sqrt(2)
        found.append(occupied_virtual_error(fock + noise, fock, overlap, n))
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(theory, rel=0.05)


def test_ratios_are_those_of_qh9s_script() -> None:
    reference = row("a", "minao", 11, "1 1e-1 1e-2 5e-3 2e-3 8e-4 1e-4 1e-5 1e-6 1e-7 1e-8 1e-9 0")
    mine = row("a", "tracegrad", 7, prediction=1e-3)
    pair = Pair(mine, reference)
    assert pair.achieved == 6 / 10
    assert pair.error_level == 4 / 10  # after cycle 4, counted from 0, it is 8e-4
    assert math.isnan(Pair(row("a", "converged", 1, prediction=0.0), reference).error_level)  # the last 0 is no cycle
    rows = [reference, mine, row("b", "minao", 6, "1 1e-2 1e-4 1e-6 1e-7 1e-8 1e-9"), row("b", "tracegrad", 8)]
    found = saving(rows, "tracegrad", "minao")
    assert found.achieved.mean == pytest.approx((0.6 + 7 / 5) / 2)
    assert found.achieved.std == pytest.approx(0.4)  # of the population
    assert found.error_level.mean == pytest.approx((0.4 + 1 / 5) / 2)
    assert found.cycles.mean == pytest.approx((7 / 11 + 8 / 6) / 2)
    assert found.builds.mean == pytest.approx((9 / 13 + 10 / 8) / 2)
    assert found.total_cycles == 15 / 17
    assert found.total_wall == pytest.approx(16 / 18)
    assert found.cpu.mean == pytest.approx((14.5 / 22.5 + 16.5 / 12.5) / 2)
    assert found.slower == ("b",)
    assert [f.reason for f in failures(rows)] == ["8 cycles, minao 6"]


def test_pairs_are_of_the_same_solution() -> None:
    rows = [row("a", "minao", 9), row("a", "tracegrad", 5, energy=-1.1), row("b", "tracegrad", 5)]
    rows += [row("c", "minao", 9), row("c", "tracegrad", 50, converged=False)]
    rows += [row("d", "minao", 9), row("d", "tracegrad", 9, served="minao", reason="no weights for Xe")]
    assert [p.row.molecule for p in pairs(rows, "tracegrad", "minao")] == ["d"]
    assert {f.molecule: f.reason for f in failures(rows)} == {
        "a": "another solution, -1.00e-01 hartree against minao",
        "c": "not converged, minao is",
        "d": "guess refused: no weights for Xe",
    }


def test_intervals() -> None:
    assert mean_of([]).n == mean_of([math.nan]).n == 0
    same = mean_of([0.5, 0.5, 0.5, 0.5, 0.5, math.nan])
    assert (same.n, same.mean, same.low, same.high) == (5, 0.5, 0.5, 0.5)
    few = mean_of([0.1, 0.2, 0.3, 0.4])  # an interval would be their smallest and their largest
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    assert str(few) == "0.250 ± 0.112"
    values = np.random.default_rng(1).normal(0.6, 0.1, 200).tolist()
    found = mean_of(values)
    half = 1.96 * np.std(values) / math.sqrt(200)
    assert found.low == pytest.approx(found.mean - half, abs=0.3 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.3 * half)


def test_median_path_keeps_what_has_ended() -> None:
    rows = [
        row("a", "g", 2, "1 1e-2 1e-4 0"),
        row("b", "g", 3, "1 1e-1 1e-3 1e-5 0"),
        row("c", "g", 4, "1 1 1 1 1e-3 0"),
    ]
    assert median_path(rows).tolist() == [1.0, 1e-1, 1e-3, 1e-4]
    assert median_path([row("a", "g", 1, "0 0 0")]).tolist() == [1e-10, 1e-10]
    assert len(median_path([row("a", "g", 2, converged=False)])) == 0


def test_sets_from_files(tmp_path: Path) -> None:
    (tmp_path / "b.xyz").write_text(XYZ.format("charge=0") + "\n")
    (tmp_path / "a.xyz").write_text(XYZ.format("") + "\n" + XYZ.format("charge=2") + "\n")
    found = read_set(str(tmp_path))
    assert [m.name for m in found] == ["a_1", "a_2", "b"]
    assert [m.charge for m in found] == [0, 2, 0]
    np.testing.assert_allclose(found[0].positions, WATER.positions, atol=1e-8)
    assert [m.name for m in read_set(str(tmp_path / "b.xyz"))] == ["b"]
    numbers = np.array(WATER.numbers * 2)
    np.savez(tmp_path / "two.npz", Z=numbers, positions=np.concatenate([WATER.positions] * 2), offsets=[0, 3, 6])
    assert [m.name for m in read_set(str(tmp_path / "two.npz"))] == ["0", "1"]
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", r"no \*\.xyz in this folder"), ("c.xyz", "no such file")):
        with pytest.raises(ProtocolError, match=message):
            read_set(str(tmp_path / name))
    (tmp_path / "b.xyz").write_text("3\n\nO 0 0 0\n")
    with pytest.raises(ProtocolError, match=r"b\.xyz"):
        read_set(str(tmp_path / "b.xyz"))


def test_the_named_set_is_that_of_qh9() -> None:
    found = read_set("qh9-acceleration")
    assert len({m.name for m in found}) == len(found) == len(set(QH9_ACCELERATION)) == 50
    assert (min(m.n_atoms for m in found), max(m.n_atoms for m in found)) == (23, 27)
    assert all(m.covered and m.charge == 0 for m in found)
    assert [int(m.name.split("_")[0]) for m in found] == list(QH9_ACCELERATION)


def test_snapshots_are_of_molecules_that_were_never_seen() -> None:
    found = read_set("snapshots-300k")
    assert len(found) == 16
    assert all(m.covered and m.charge == 0 and 13 <= m.n_atoms <= 20 for m in found)
    indices = {int(k) for k in re.findall(r"QM9 (\d{6})", SNAPSHOTS.read_text())}
    assert len(indices) == 16
    with (SNAPSHOTS.parents[1] / "manifests/shipped.csv").open(newline="") as file:
        assert not indices & {int(row["gdb_index"]) for row in csv.DictReader(file)}


def test_molecules_are_chosen_by_name_and_size() -> None:
    molecules = [dataclasses.replace(WATER, name=name) for name in ("S66/01", "S66/02", "W4-11/h2o")] + [OH]
    assert [m.name for m in chosen(molecules, ["S66/*", "OH"], 0, 0)] == ["S66/01", "S66/02", "OH"]
    assert [m.name for m in chosen(molecules, ["*"], 2, 0)] == ["OH"]
    assert [m.name for m in chosen(molecules, ["*"], 0, 2)] == ["S66/01", "S66/02"]
    assert chosen(molecules, ["s66/*"], 0, 0) == []


def test_tasks_are_what_is_missing(tmp_path: Path) -> None:
    rows, kept = [row("water", "minao", 9), row("water", "1e", 9)], Targets(tmp_path)
    (first, second) = make_tasks([WATER, OH], HF, ("minao", "1e", "atom"), 1, rows, kept)
    assert (first.molecule.name, first.guesses) == ("water", ("minao", "atom"))  # minao again, as the target
    assert (second.molecule.name, second.guesses) == ("OH", ("minao", "1e", "atom"))
    assert make_tasks([WATER], HF, ("minao", "1e"), 1, rows, kept) == []
    (repeat,) = make_tasks([WATER], HF, ("minao", "1e"), 2, rows, kept)
    assert (repeat.repeat, repeat.guesses) == (1, ("minao", "1e"))


def test_a_kept_target_spares_the_first_guess(tmp_path: Path) -> None:
    """The same errors as beside the run that it comes from; a broken file is no target."""
    kept, slash = Targets(tmp_path), dataclasses.replace(WATER, name="S66/01: water")
    outcome = run_task(Task(slash, HF, ("minao", "1e")))
    assert outcome.target is not None
    kept.write(slash.name, outcome.target)
    (task,) = make_tasks([slash], HF, ("minao", "1e"), 1, outcome.rows[:1], kept)
    assert task.guesses == ("1e",)
    (alone,) = run_task(task).rows
    assert alone.path == pytest.approx(outcome.rows[1].path, abs=1e-12)
    (file,) = kept.folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert kept.read(slash.name) is None
    (task,) = make_tasks([slash], HF, ("minao", "1e"), 1, outcome.rows[:1], kept)
    assert task.guesses == ("minao", "1e")


def test_a_killed_worker_costs_one_molecule() -> None:
    class KilledWorker(Exception):
        pass

    task = Task(WATER, HF, ("minao", "1e"))
    dead = SimpleNamespace(status="error", exception=lambda: KilledWorker("4 times"))
    found = work._outcome(task, dead).rows
    assert [r.guess for r in found] == ["minao", "1e"]
    assert all("out of memory? give more by --memory" in r.error for r in found)
    broken = SimpleNamespace(status="error", exception=lambda: ZeroDivisionError("x"))
    assert work._outcome(task, broken).rows[0].error == "ZeroDivisionError: x"
    with pytest.raises(ProtocolError, match="what was done is kept"):
        work._outcome(task, SimpleNamespace(status="cancelled"))


def test_results_survive_a_cut(tmp_path: Path) -> None:
    append_rows(tmp_path / RESULTS, [row("a", "minao", 9, "1 0.5"), row("b", "minao", 8, error="x")])
    with (tmp_path / RESULTS).open("a") as file:
        file.write("c,minao,0,3")
    rows = read_results(tmp_path)
    assert [r.molecule for r in rows] == ["a", "b"]
    assert rows[0].path == [1.0, 0.5]
    append_rows(tmp_path / RESULTS, [row("d", "minao", 7, error="x")])
    assert [r.molecule for r in read_results(tmp_path)] == ["a", "b", "d"]
    (tmp_path / "head.csv").write_text("molecule,gue")
    append_rows(tmp_path / "head.csv", rows)
    assert read_rows(tmp_path / "head.csv", Row) == [*rows]
    assert [r.molecule for r in without_failures(tmp_path, rows)] == ["a"]
    assert [r.molecule for r in read_results(tmp_path)] == ["a"]


def test_a_folder_keeps_one_protocol(tmp_path: Path) -> None:
    assert settle(tmp_path, HF)["pyscf"] == settle(tmp_path, HF)["pyscf"]
    assert read_protocol(tmp_path)[0] == HF
    with pytest.raises(ProtocolError, match="was begun with basis = 'sto-3g', not '6-31g'; give another -o"):
        settle(tmp_path, dataclasses.replace(HF, basis="6-31g"))
    (tmp_path / "protocol.json").write_text(json.dumps({"protocol": {"colour": 1}, "environment": {}}))
    with pytest.raises(ProtocolError, match="belongs to another version"):
        read_protocol(tmp_path)
    with pytest.raises(ProtocolError, match=r"has no protocol\.json"):
        read_protocol(tmp_path / "nothing")
    with pytest.raises(ProtocolError, match="regime is incore, direct or df"):
        Protocol(regime="fast")  # type: ignore[arg-type]


def test_protocol_is_what_the_scf_does() -> None:
    mf = Protocol(grid_level=1, conv_tol=1e-7, max_cycle=9, regime="df").make_mf(WATER)
    assert (mf.grids.level, mf.conv_tol, mf.max_cycle, mf.xc) == (1, 1e-7, 9, "b3lyp")
    assert mf.with_df is not None
    assert mean_error(np.eye(2), np.zeros((2, 2))) == 0.5


def test_the_page_escapes_names_and_tells_failures() -> None:
    name = "<script>alert(1)</script>"
    rows = [row(name, "minao", 9, "1 0.1 0"), row(name, "tracegrad", 12, "1 0.1 0"), row("b", "minao", 9, error="<b>")]
    page = make_page("<i>set</i>", HF, {"pyscf": "2"}, rows)
    text = page.html()
    assert "<script>" not in text
    assert "<i>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "Failures (2)" in text
    assert "12 cycles, minao 9" in text
    assert "0.647 ± 0.061" in text
    assert "| tracegrad | minao | 1 | 1.333 ± 0.000 |" in page.markdown()
    assert present(rows) == ["tracegrad", "minao"]
    assert list(colours_of(["tracegrad", "minao", "atom", "huckel", "sap", "1e", "vsap", "converged"])) == [
        *("tracegrad", "minao", "1e"),
        *("atom", "huckel", "sap"),
    ]


def test_the_page_does_not_contradict_itself() -> None:
    """What is slower from a guess of PySCF's own is no failure, and is told beside the sentence that there is none."""
    rows = [row("a", "minao", 9, "1 0.1 0"), row("a", "1e", 14, "1 0.1 0"), row("a", "tracegrad", 1, "1 0")]
    text = make_page("set", HF, {}, rows).markdown()
    assert "## Failures (0)" in text
    assert "from no guess of this package did one take more than one cycle more than from minao. " in text
    assert "PySCF's own that did: 1e for 1 of 1 molecules." in text
    assert "95 %" not in text.replace("a bootstrap 95 % interval of the mean from 5 molecules on", "")
    only = make_page("set", HF, {}, rows[:2]).markdown()
    assert "None: every SCF converged to minao's energy. PySCF's own that did" in only
    several = [dataclasses.replace(r, molecule=f"{r.molecule}{k}") for r in rows for k in range(5)]
    assert "| 1e | minao | 5 | 1.556 ± 0.000 | 1.556 to 1.556 |" in make_page("set", HF, {}, several).markdown()


def test_a_wide_table_shows_that_it_scrolls() -> None:
    page = make_page("set", HF, {}, [row("a", "minao", 9, "1 0.1 0")]).html()
    frames = re.findall(r'<div class="scroll" tabindex="0" role="group" aria-label="[^"]*"><table>', page)
    assert len(frames) == page.count("<table>") > 0
    style = page[: page.index("</style>")]
    assert re.search(r"\.scroll \{ overflow-x: auto; background:[^}]* local left,[^}]* scroll right", style, re.DOTALL)


def test_the_model_of_a_study_is_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its guesses are made by it, it is part of the protocol, and another one needs another folder."""
    path = tmp_path / "mine.pt"
    save_checkpoint(path, with_noise(load_model(), 0.003, seed=0).checkpoint)
    mf = Protocol(grid_level=0).make_mf(WATER)
    mine, shipped = (make_start(mf, "tracegrad-refine-off", model) for model in (str(path), ""))
    assert mine.fields["route"] == shipped.fields["route"] == "network"
    assert np.abs(mine.dm - shipped.dm).max() > 1e-6
    model = own_model(path)
    assert re.fullmatch(r"mine\.pt [0-9a-f]{16}", model.name)
    (task,) = make_tasks([WATER], HF, ("minao",), 1, [], Targets(tmp_path), model.path)
    assert task.model == str(path)
    settle(tmp_path / "out", dataclasses.replace(HF, model=model.name))
    assert read_protocol(tmp_path / "out")[0].model == model.name
    with pytest.raises(ProtocolError, match=r"was begun with model = 'mine\.pt [0-9a-f]+', not ''"):
        settle(tmp_path / "out", HF)
    set_file = tmp_path / "w.xyz"
    set_file.write_text(XYZ.format("") + "\n")
    assert main([str(set_file), "-o", str(tmp_path / "x"), "--model", str(set_file)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "x").exists()


def test_a_long_name_has_a_target(tmp_path: Path) -> None:
    targets, names = Targets(tmp_path), ("水" * 60, "水" * 61)
    for k, name in enumerate(names):
        targets.write(name, np.full((1, 1), float(k)))
    assert [float(targets.read(name)[0, 0]) for name in names] == [0.0, 1.0]  # type: ignore[index]


def test_a_study_by_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two molecules on a local cluster; a second call adds a guess, a third one only the report."""
    molecules, out = tmp_path / "mol", tmp_path / "out"
    molecules.mkdir()
    (molecules / "w.xyz").write_text(XYZ.format("") + "\n")
    (molecules / "wpp.xyz").write_text(XYZ.format("charge=-2") + "\n")
    command = [str(molecules), "-o", str(out), "--xc", "hf", "--basis", "sto-3g"]
    assert main([*command, "--guesses", "1e", "--max-atoms", "3", "--limit", "1"]) == 0
    assert [(r.molecule, r.guess) for r in read_results(out)] == [("w", "minao"), ("w", "1e")]
    before = (out / RESULTS).read_text()
    assert main([*command, "--guesses", "1e", "atom", "--limit", "1"]) == 0
    assert (out / RESULTS).read_text().startswith(before)
    rows = read_results(out)
    assert [(r.molecule, r.guess) for r in rows] == [("w", "minao"), ("w", "1e"), ("w", "atom")]
    assert all(r.converged and not r.error for r in rows)
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert all((out / f"{name}.png").stat().st_size > 1000 for name in ("convergence", "ratios", "wall_size"))
    assert main([*command, "--report-only"]) == 0
    assert main([*command[:-1], "6-31g"]) == 2
    assert main(["nowhere", "-o", str(tmp_path / "x")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([*command, "--select", "y*"]) == 2
    assert "has no molecule that --select" in capsys.readouterr().err
    with work.only_run(out), pytest.raises(ProtocolError, match="another study runs there"), work.only_run(out):
        pass


def run_command(folder: Path) -> subprocess.Popen[str]:
    """A study of the XYZ files of a folder with one worker, as a process."""
    command = [sys.executable, "-m", "training.acceleration", str(folder), "-o", str(folder / "out")]
    options = ["--basis", "6-31g", "--grid-level", "1", "--guesses", "1e", "atom"]
    return subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_rows(folder: Path, n: int) -> None:
    """Until a study has written so many rows."""
    end = time.monotonic() + 500
    while len(read_results(folder / "out")) < n:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_worker_and_then_the_study_are_killed(tmp_path: Path) -> None:
    """What was done stays; nothing is lost, nothing is there twice."""
    rng = np.random.default_rng(0)
    for k in range(6):
        displaced = WATER.positions + rng.normal(scale=0.02, size=(3, 3))
        lines = [f"{s} {x} {y} {z}" for s, (x, y, z) in zip("OHH", displaced.tolist(), strict=True)]
        (tmp_path / f"w{k}.xyz").write_text("3\n\n" + "\n".join(lines) + "\n")
    study = run_command(tmp_path)
    wait_for_rows(tmp_path, 3)
    (worker,) = [c for c in psutil.Process(study.pid).children(recursive=True) if "spawn_main" in " ".join(c.cmdline())]
    worker.kill()
    wait_for_rows(tmp_path, 6)  # by a new worker
    before = (tmp_path / "out" / RESULTS).read_text()
    study.kill()
    study.communicate()
    study = run_command(tmp_path)
    output, _ = study.communicate(timeout=500)
    assert study.returncode == 0, output
    assert (tmp_path / "out" / RESULTS).read_text().startswith(before[: before.rfind("\n") + 1])
    rows = read_results(tmp_path / "out")
    keys = [(r.molecule, r.guess) for r in rows]
    assert sorted(keys) == sorted((f"w{k}", guess) for k in range(6) for guess in ("minao", "1e", "atom"))
    assert all(r.converged and not r.error for r in rows)
