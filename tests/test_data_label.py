"""Labels against PySCF's own tightly converged calculations, and what is said where there is no label."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FORMALDEHYDE, WATER
from pyscf import dft, gto, lib, scf

import data.fastlabel
import data.label
from data import throughput
from data.errors import MoleculeError, SetFileError
from data.fastlabel import Deadline, Exact
from data.label import converge, estimated_memory, label, molecule
from data.labelfile import Attributes, write_labels
from data.settings import LabelSettings, TheoryLevel
from data.structure import LabelRow, Structure
from training.labels import LabelFile

ROOT = Path(__file__).parents[1]
FAST, EXACT = LabelSettings(), LabelSettings(exact=True)
COARSE = TheoryLevel(xc="b3lyp", basis="6-31g", grid_level=1)


def structure(atoms: str, name: str = "it", charge: int = 0) -> Structure:
    mol = gto.M(atom=atoms, basis="sto-3g", charge=charge, verbose=0)
    return Structure(name, np.asarray(mol.atom_charges(), dtype=np.int64), mol.atom_coords(), charge)


def pyscf_object(it: Structure, theory: TheoryLevel, **options: Any) -> Any:
    atoms = [(int(z), x) for z, x in zip(it.atomic_numbers, it.positions, strict=True)]
    mol = gto.M(atom=atoms, unit="Bohr", charge=it.charge, basis=theory.basis, verbose=0, **options)
    if theory.xc == "hf":
        return scf.RHF(mol)
    mf = dft.RKS(mol, xc=theory.xc)
    mf.grids.level = theory.grid_level
    return mf


def tight(it: Structure, theory: TheoryLevel, **options: Any) -> tuple[np.ndarray, float]:
    """Fock matrix and energy, converged much further than a label."""
    mf = pyscf_object(it, theory, **options)
    mf.conv_tol, mf.conv_tol_grad = 1e-12, 1e-7
    energy = mf.kernel()
    assert mf.converged
    return mf.get_fock(dm=mf.make_rdm1()), energy


def water_molecule() -> Structure:
    return structure(WATER, "water")


THEORIES = [
    COARSE,
    dataclasses.replace(COARSE, xc="pbe"),
    dataclasses.replace(COARSE, xc="lda,vwn"),
    dataclasses.replace(COARSE, xc="camb3lyp"),
    dataclasses.replace(COARSE, xc="hse06"),
    dataclasses.replace(COARSE, xc="r2scan"),
    TheoryLevel(xc="hf", basis="def2-svp"),
]


@pytest.mark.parametrize(
    ("theory", "settings"),
    [*((theory, FAST) for theory in THEORIES), (THEORIES[0], EXACT), (THEORIES[-1], EXACT)],
    ids=lambda it: it.xc if isinstance(it, TheoryLevel) else "exact" if it.exact else "fast",
)
def test_a_label_is_the_converged_fock_matrix(theory: TheoryLevel, settings: LabelSettings) -> None:
    it = water_molecule()
    fock, energy = tight(it, theory)
    result = converge(it, theory, settings)
    assert np.abs(result.fock - fock).max() < 1e-6
    assert abs(result.energy - energy) < 1e-8
    assert result.gradient_norm < settings.gradient


def test_nonlocal_correlation_is_in_the_label() -> None:
    it, theory = structure("He 0 0 0"), TheoryLevel(xc="b97m-v", basis="def2-svp", grid_level=0)
    fock, energy = tight(it, theory)
    result = converge(it, theory, FAST)
    assert result.cheap_builds > 0
    assert np.abs(result.fock - fock).max() < 1e-6
    assert abs(result.energy - energy) < 1e-8


@pytest.mark.parametrize(
    ("it", "theory", "options"),
    [
        (structure("O 0 0 0; H 0 0 0.96", charge=-1), TheoryLevel(basis="6-31+g", grid_level=1), {}),
        # 46 functions, 45 of them independent
        (structure("H 0 0 0; H 0 0 0.344"), TheoryLevel(basis="aug-cc-pvtz", grid_level=0), {}),
        (structure("I 0 0 0; H 0 0 1.6"), TheoryLevel(basis="def2-svp", grid_level=1), {"ecp": {"I": "def2-svp"}}),
    ],
    ids=["anion", "linear dependency", "ECP"],
)
def test_unusual_molecules(it: Structure, theory: TheoryLevel, options: dict) -> None:
    fock, energy = tight(it, theory, **options)
    result = converge(it, theory, FAST)
    assert np.abs(result.fock - fock).max() < 1e-6
    assert abs(result.energy - energy) < 1e-8


def test_the_gradient_is_that_of_the_orbitals_of_the_label() -> None:
    it, theory = structure(FORMALDEHYDE), COARSE
    result = converge(it, theory, LabelSettings(gradient=1e-4))
    mf = pyscf_object(it, theory)
    # F[D] has been computed from D; its own Aufbau density is a step on, so both differ by the gradient only
    _, c = mf.eig(result.fock, mf.get_ovlp())
    occupied, virtual = c[:, :8], c[:, 8:]
    gradient = 2 * virtual.T @ mf.get_fock(dm=2 * occupied @ occupied.T) @ occupied
    assert 0 < result.gradient_norm < 1e-4
    assert np.linalg.norm(gradient) < 2e-4


def test_a_row_holds_the_packed_matrix_and_the_structure() -> None:
    it = water_molecule()
    row, result = label(it, COARSE, FAST), converge(it, COARSE, FAST)
    assert row.structure is it
    assert row.fock.dtype == np.float32
    np.testing.assert_allclose(lib.unpack_tril(row.fock), result.fock, rtol=1e-6, atol=1e-8)
    assert row.energy == pytest.approx(result.energy, abs=1e-10)
    assert row.seconds > 0
    assert row.cycles_minao == -1


def test_the_fast_recipe_takes_few_exact_builds() -> None:
    fast, exact = (converge(structure(FORMALDEHYDE), COARSE, settings) for settings in (FAST, EXACT))
    assert fast.exact_builds <= 4
    assert exact.exact_builds > 8
    assert exact.cheap_builds == 0 < fast.cheap_builds


@pytest.mark.parametrize("settings", [FAST, EXACT], ids=["fast", "exact"])
def test_cycles_from_minao_are_those_of_a_default_run(settings: LabelSettings) -> None:
    it = structure(FORMALDEHYDE)
    mf = pyscf_object(it, COARSE)
    mf.kernel()
    result = converge(it, COARSE, dataclasses.replace(settings, cycles_minao=True))
    assert result.cycles_minao == mf.cycles
    assert np.abs(result.fock - mf.get_fock(dm=mf.make_rdm1())).max() < 1e-4


@pytest.mark.parametrize("xc", ["b3lyp", "pbe", "r2scan", "wb97x"])
def test_the_quick_exact_operator_is_pyscfs(xc: str) -> None:
    exact = exact_operator(dataclasses.replace(COARSE, xc=xc))
    state = exact.calculation.state(exact.calculation.hcore)
    point = exact.at(state)
    quick, gradient = exact.quick(state)
    assert np.abs(quick - point.fock).max() < 1e-8
    assert gradient == pytest.approx(point.gradient_norm, abs=1e-7)
    assert exact.builds == 2


def exact_operator(theory: TheoryLevel = COARSE, reserve: float = 0.0) -> Exact:
    it = water_molecule()
    return Exact(molecule(it, theory.basis, 4000), theory, Deadline(it.name, 10), reserve)


def test_integrals_are_kept_where_they_fit_and_made_anew_where_not() -> None:
    kept, direct = exact_operator(), exact_operator(reserve=1e9)
    assert kept.mf._eri is not None
    assert direct.mf._eri is None
    direct.mf.max_memory = 0
    state = kept.calculation.state(kept.calculation.hcore)
    assert np.abs(kept.at(state).fock - direct.at(state).fock).max() < 1e-9
    assert direct.mf._eri is None


def test_corrections_that_do_not_converge_are_followed_by_a_plain_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.fastlabel, "_ROUNDS", 1)
    fock, energy = tight(water_molecule(), COARSE)
    result = converge(water_molecule(), COARSE, dataclasses.replace(FAST, cycles_minao=True))
    assert np.abs(result.fock - fock).max() < 1e-6
    assert abs(result.energy - energy) < 1e-8
    # the plain run began at a good density, so its cycles are not those from minao
    mf = pyscf_object(water_molecule(), COARSE)
    mf.kernel()
    assert result.cycles_minao == mf.cycles


def _few_cycles(monkeypatch: pytest.MonkeyPatch, cycles: int) -> None:
    original: Callable[..., Any] = data.fastlabel.make_scf

    def make(*arguments: Any) -> Any:
        mf = original(*arguments)
        mf.max_cycle = cycles
        return mf

    monkeypatch.setattr(data.fastlabel, "make_scf", make)


def test_the_second_order_solver_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    _few_cycles(monkeypatch, 2)
    fock, energy = tight(water_molecule(), COARSE)
    result = converge(water_molecule(), COARSE, EXACT)
    assert np.abs(result.fock - fock).max() < 1e-6
    assert abs(result.energy - energy) < 1e-8


def test_what_does_not_converge_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _few_cycles(monkeypatch, 1)
    monkeypatch.setattr(data.label, "_NEWTON_CYCLES", 1)
    with pytest.raises(MoleculeError, match=r"water: not converged, the orbital gradient is .* after \d+ Fock builds"):
        converge(water_molecule(), COARSE, EXACT)


@pytest.mark.parametrize("settings", [FAST, EXACT], ids=["fast", "exact"])
def test_the_deadline_is_looked_at_between_builds(settings: LabelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[float] = []

    class Clock:
        """Time flies: a minute at every look."""

        @staticmethod
        def monotonic() -> float:
            passed.append(60.0)
            return sum(passed)

    monkeypatch.setattr(data.fastlabel, "time", Clock)
    with pytest.raises(MoleculeError, match="water: timeout, no label after 5 minutes"):
        label(water_molecule(), COARSE, dataclasses.replace(settings, minutes=5))
    assert len(passed) == 7  # once to set it, five looks in time, one too late


def test_memory_that_does_not_suffice_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(dft.numint.NumInt, "nr_rks", refuse)
    with pytest.raises(MoleculeError, match=r"water: out of memory; it needs about \d+ MB at labels.memory = 4000"):
        label(water_molecule(), COARSE, FAST)


def test_a_basis_without_the_element_is_a_reason() -> None:
    with pytest.raises(MoleculeError, match=r"it: basis '6-31g' cannot be used: .*I"):
        label(structure("I 0 0 0; H 0 0 1.6"), COARSE, FAST)


def test_a_functional_that_is_none_is_an_error_of_the_set() -> None:
    with pytest.raises(SetFileError, match="b3lpy"):
        label(water_molecule(), dataclasses.replace(COARSE, xc="b3lpy"), FAST)


def test_threads_are_left_as_they_are() -> None:
    with lib.with_omp_threads(2):
        threads = lib.num_threads(), torch.get_num_threads()
        label(water_molecule(), COARSE, FAST)
        assert (lib.num_threads(), torch.get_num_threads()) == threads


_PEAK = """
import resource
from tests.test_data_label import *
theory = TheoryLevel(basis="cc-pvtz", grid_level=2)
it = structure(FORMALDEHYDE)
label(it, theory, FAST)
print(estimated_memory(it, theory, FAST), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_the_estimated_memory_is_that_of_a_label() -> None:
    command = _PEAK.replace(
        "from tests.test_data_label", f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}]\nfrom test_data_label"
    )
    run = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    estimate, peak = map(float, run.stdout.split())
    assert 0.5 * estimate < peak < 1.5 * estimate


def test_the_estimated_memory_counts_the_integrals_where_they_are_kept() -> None:
    it, theory = structure(FORMALDEHYDE), TheoryLevel(basis="cc-pvqz")
    nao = molecule(it, theory.basis, 4000).nao
    much, little = (estimated_memory(it, theory, LabelSettings(memory=memory)) for memory in (4000, 500))
    assert much - little == pytest.approx(1e-6 * nao**4)
    assert estimated_memory(it, theory, EXACT) < much


def test_structures_are_picked_evenly_over_the_sizes() -> None:
    lengths = [9, 9, 9, 9, 5, 9, 9, 9, 1]
    chains = [structure("; ".join(f"He 0 0 {3 * k}" for k in range(n)), f"He{i}") for i, n in enumerate(lengths)]
    assert [s.n_atoms for s in throughput.spread(chains, 3)] == [1, 5, 9]
    four = throughput.spread(chains, 4)
    assert [s.n_atoms for s in four] == [1, 5, 9, 9]
    assert len({s.name for s in four}) == 4
    assert [s.n_atoms for s in throughput.spread(chains, 0)] == sorted(lengths)


def test_the_exponent_of_a_power_law() -> None:
    nao = np.array([10, 20, 40, 40])
    slope, intercept = throughput.exponent(nao, 3e-4 * nao**2.7)
    assert slope == pytest.approx(2.7)
    assert np.exp(intercept) == pytest.approx(3e-4)
    assert np.isnan(throughput.exponent(nao[2:], np.ones(2))).all()


def _labels(path: Path) -> list[Structure]:
    theory = TheoryLevel(basis="sto-3g")
    molecules = [structure("H 0 0 0; H 0 0 0.74", "h2"), water_molecule()]
    rows = [(label(it, theory, FAST), "train") for it in molecules]
    write_labels(path, Attributes(theory.xc, theory.basis, theory.grid_level, "", ""), rows)
    return molecules


def test_throughput_measures_each_molecule_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _labels(tmp_path / "labels.h5")
    calls: list[tuple[str, bool]] = []

    def counted(it: Structure, theory: TheoryLevel, settings: LabelSettings) -> Any:
        calls.append((it.name, settings.exact))
        return converge(it, theory, settings)

    monkeypatch.setattr(throughput, "converge", counted)
    command = ["--labels", str(tmp_path / "labels.h5"), "-o", str(tmp_path / "out")]
    assert throughput.main([*command, "--max-atoms", "2"]) == 0
    assert throughput.main(command) == 0
    assert calls == [("h2", False), ("h2", True), ("water", True), ("water", False)]
    rows = throughput.read_rows(tmp_path / "out" / "throughput.csv", throughput.Row)
    assert {(r.name, r.recipe, r.nao) for r in rows} == {
        ("h2", "fast", 2),
        ("h2", "exact", 2),
        ("water", "fast", 7),
        ("water", "exact", 7),
    }
    assert all(r.fock_difference < 1e-6 and abs(r.energy_difference) < 1e-8 and r.seconds > 0 for r in rows)
    picture = (tmp_path / "out" / "throughput.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    total = {recipe: sum(r.seconds for r in rows if r.recipe == recipe) for recipe in throughput.RECIPES}
    text = (tmp_path / "out" / "throughput.md").read_text()
    assert f"fast {7200 / total['fast']:.0f}, exact {7200 / total['exact']:.0f}" in text
    assert text in capsys.readouterr().out


def test_throughput_says_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main(["--labels", str(tmp_path / "none.h5"), "-o", str(tmp_path)]) == 2
    assert "none.h5: not a readable HDF5 file" in capsys.readouterr().err


def _set_file(path: Path, xc: str = "hf", basis: str = "sto-3g") -> Path:
    two = "\n".join(f'[[source]]\nkind = "xyz"\nfiles = ["{folder}/a.xyz"]\n' for folder in ("h2", "he"))
    for folder, atoms in (("h2", "2\n\nH 0 0 0\nH 0 0 0.74\n"), ("he", "1\n\nHe 0 0 0\n")):
        (path / folder).mkdir(exist_ok=True)
        (path / folder / "a.xyz").write_text(atoms)
    (path / "set.toml").write_text(f'[theory]\nxc = "{xc}"\nbasis = "{basis}"\n{two}')
    return path / "set.toml"


def test_throughput_tells_molecules_of_one_name_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert throughput.main([str(_set_file(tmp_path)), "-o", str(out)]) == 0
    rows = throughput.read_rows(out / "throughput.csv", throughput.Row)
    assert len(rows) == 4
    assert {row.name: row.n_atoms for row in rows}.keys() == {"a_eq0", "a_s2_eq0"}
    assert {row.n_atoms for row in rows if row.name == "a_s2_eq0"} == {1}


@pytest.mark.parametrize(("theory", "message"), [({"xc": "b3lpy"}, "theory.xc 'b3lpy'"), ({"basis": "foo"}, "foo")])
def test_throughput_checks_the_theory_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], theory: dict[str, str], message: str
) -> None:
    assert throughput.main([str(_set_file(tmp_path, **theory)), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: theory.")
    assert message in error
    labels = tmp_path / "labels.h5"
    row = LabelRow(structure("He 0 0 0"), np.ones(1, dtype=np.float32), 0.0, 0.0)
    facts = {"xc": "hf", "basis": "sto-3g"} | theory
    write_labels(labels, Attributes(facts["xc"], facts["basis"], 3, "", ""), [(row, "train")])
    assert throughput.main(["--labels", str(labels), "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_throughput_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_file = _set_file(tmp_path)
    assert throughput.main([str(set_file), "-o", str(set_file)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    (tmp_path / "out" / "throughput.md").mkdir(parents=True)
    assert throughput.main([str(set_file), "-o", str(tmp_path / "out")]) == 2
    assert "throughput.md" in capsys.readouterr().err


def test_a_label_file_gives_back_the_fock_matrix(tmp_path: Path) -> None:
    _, water = _labels(tmp_path / "labels.h5")
    stored = LabelFile(tmp_path / "labels.h5")[1]
    fock, energy = tight(water, TheoryLevel(basis="sto-3g"))
    np.testing.assert_allclose(stored.full_fock(), fock, rtol=1e-6, atol=1e-6)
    assert stored.energy == pytest.approx(energy, abs=1e-8)
