"""Errors of Fock matrices against slow double loops and cases with known answers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray
from pyscf import gto

from training.metrics import (
    BlockErrors,
    ElementShell,
    FockErrors,
    atoms_of_aos,
    block_errors,
    fock_errors,
    occupied_virtual_error,
)

Array = NDArray[np.float64]

# what a constant potential may move; the others must not depend on it
SHIFTED = {
    "mae_shifted": "mae",
    "mae_diagonal_shifted": "mae_diagonal",
    "mae_off_diagonal_shifted": "mae_off_diagonal",
    "max_error_shifted": "max_error",
    "eps_shifted": "eps",
    "homo_error_shifted": "homo_error",
    "lumo_error_shifted": "lumo_error",
}
BLIND = ("psi", "gap_error", "ov", "occupied_loss", "density_error")


def hydrogen_cyanide() -> gto.Mole:
    """33 AOs of three elements: an odd number."""
    return gto.M(atom="H 0 0.1 -1.06; C 0 0 0; N 0.05 0 1.16", basis="def2-svp", verbose=0)


def core_hamiltonian(mol: gto.Mole) -> Array:
    return np.asarray(mol.intor("int1e_kin") + mol.intor("int1e_nuc"))


def symmetric_noise(n: int, size: float, seed: int = 0) -> Array:
    noise = np.random.default_rng(seed).normal(size=(n, n)) * size
    return noise + noise.T


def slow_errors(fock: Array, label: Array, overlap: Array, n_occupied: int, atom_of_ao: Array) -> FockErrors:
    """Every metric element by element and orbital by orbital."""
    n = len(label)
    mu = sum(overlap[p, q] * (fock - label)[p, q] for p in range(n) for q in range(n))
    mu /= sum(overlap[p, q] ** 2 for p in range(n) for q in range(n))
    values: dict[str, float] = {"shift": mu}
    for tail, matrix in (("_shifted", fock - mu * overlap), ("", fock)):
        every, same, other = [], [], []
        for p in range(n):
            for q in range(n):
                size = abs(matrix[p, q] - label[p, q])
                every.append(size)
                (same if atom_of_ao[p] == atom_of_ao[q] else other).append(size)
        values |= {f"mae{tail}": np.mean(every), f"mae_diagonal{tail}": np.mean(same)}
        values |= {f"mae_off_diagonal{tail}": np.mean(other), f"max_error{tail}": max(every)}
        e, c = scipy.linalg.eigh(matrix, overlap)
        e0, c0 = scipy.linalg.eigh(label, overlap)
        values[f"eps{tail}"] = np.mean([abs(e[i] - e0[i]) for i in range(n_occupied)])
        values[f"homo_error{tail}"] = abs(e[n_occupied - 1] - e0[n_occupied - 1])
        values[f"lumo_error{tail}"] = abs(e[n_occupied] - e0[n_occupied])
    gap, gap0 = (x[n_occupied] - x[n_occupied - 1] for x in (e, e0))
    cosines = [
        abs(c[:, i] @ c0[:, i]) / math.sqrt((c[:, i] @ c[:, i]) * (c0[:, i] @ c0[:, i])) for i in range(n_occupied)
    ]
    kept = sum((c0[:, i] @ overlap @ c[:, j]) ** 2 for i in range(n_occupied) for j in range(n_occupied))
    ratios = [
        (c0[:, i] @ (fock - label) @ c0[:, a] / (e0[a] - e0[i])) ** 2
        for i in range(n_occupied)
        for a in range(n_occupied, n)
    ]
    dm, dm0 = (sum(2 * np.outer(x[:, i], x[:, i]) for i in range(n_occupied)) for x in (c, c0))
    return FockErrors(
        **values,
        psi=float(np.mean(cosines)),
        gap_error=abs(gap - gap0),
        ov=math.sqrt(np.mean(ratios)),
        occupied_loss=1 - kept / n_occupied,
        density_error=float(np.mean([abs(dm[p, q] - dm0[p, q]) for p in range(n) for q in range(n)])),
    )


@pytest.mark.parametrize("size", [1e-4, 1e-2])
def test_all_errors_are_those_of_slow_formulas(size: float) -> None:
    mol = hydrogen_cyanide()
    assert mol.nao == 33
    overlap, label = mol.intor("int1e_ovlp"), core_hamiltonian(mol)
    fock = label + 0.02 * overlap + symmetric_noise(mol.nao, size)
    atoms = [int(line[0]) for line in mol.ao_labels(fmt=None)]
    assert atoms_of_aos(mol).tolist() == atoms
    found = dataclasses.asdict(fock_errors(fock, label, overlap, 7, atoms_of_aos(mol)))
    expected = dataclasses.asdict(slow_errors(fock, label, overlap, 7, np.array(atoms)))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-12), name
    assert found["ov"] == occupied_virtual_error(fock, label, overlap, 7)


def test_equal_matrices_have_no_error() -> None:
    mol = hydrogen_cyanide()
    label = core_hamiltonian(mol)
    found = dataclasses.asdict(fock_errors(label, label, mol.intor("int1e_ovlp"), 7, atoms_of_aos(mol)))
    assert found.pop("psi") == pytest.approx(1.0, abs=1e-12)
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-12)


def test_a_constant_potential_is_seen_by_the_plain_metrics_only() -> None:
    """dF = c S moves every orbital energy by c and nothing else."""
    mol = hydrogen_cyanide()
    overlap, label = mol.intor("int1e_ovlp"), core_hamiltonian(mol)
    found = dataclasses.asdict(fock_errors(label - 0.3 * overlap, label, overlap, 7, atoms_of_aos(mol)))
    assert found["shift"] == pytest.approx(-0.3)
    assert found["mae"] == pytest.approx(0.3 * np.abs(overlap).mean())
    assert [found[name] for name in ("eps", "homo_error", "lumo_error")] == pytest.approx([0.3] * 3)
    assert found["psi"] == pytest.approx(1.0)
    for name in (*SHIFTED, "gap_error", "ov", "occupied_loss", "density_error"):
        assert found[name] == pytest.approx(0.0, abs=1e-9), name


def test_a_constant_potential_on_top_changes_no_blind_metric() -> None:
    mol = hydrogen_cyanide()
    overlap, label = mol.intor("int1e_ovlp"), core_hamiltonian(mol)
    fock = label + symmetric_noise(mol.nao, 1e-3, seed=3)
    with_potential, without = (
        dataclasses.asdict(fock_errors(f, label, overlap, 7, atoms_of_aos(mol))) for f in (fock + 0.1 * overlap, fock)
    )
    for name in (*SHIFTED, *BLIND):
        assert with_potential[name] == pytest.approx(without[name], rel=1e-6, abs=1e-11), name
        assert with_potential[name] > 0, name
    for name, plain in SHIFTED.items():
        assert with_potential[plain] != pytest.approx(without[plain], rel=0.1), name


def test_no_other_multiple_of_the_overlap_is_closer() -> None:
    mol = hydrogen_cyanide()
    overlap, label = mol.intor("int1e_ovlp"), core_hamiltonian(mol)
    error = symmetric_noise(mol.nao, 1e-3) + 0.01 * overlap
    mu = fock_errors(label + error, label, overlap, 7, atoms_of_aos(mol)).shift
    best = np.linalg.norm(error - mu * overlap)
    assert all(np.linalg.norm(error - (mu + d) * overlap) > best for d in (-1e-4, 1e-4))


def test_exchanged_orbitals_are_blamed_by_psi_and_by_nothing_of_the_density() -> None:
    """Two occupied orbitals of almost one energy change places: half of psi is gone and the density is as it was."""
    overlap = np.eye(4)
    label = np.diag([-1.0, -1.0 + 1e-9, 0.5, 1.0])
    fock = np.diag([-1.0 + 1e-9, -1.0, 0.5, 1.0])
    found = fock_errors(fock, label, overlap, 2, np.array([0, 0, 1, 1]))
    assert found.psi == pytest.approx(0.0, abs=1e-12)
    assert found.occupied_loss == pytest.approx(0.0, abs=1e-12)
    assert found.density_error == pytest.approx(0.0, abs=1e-12)
    assert found.eps == pytest.approx(0.0, abs=1e-12)
    assert found.ov == 0.0


def test_a_wrong_occupied_orbital_is_half_of_the_occupied_space() -> None:
    """An intruder: HOMO and LUMO change places, which the first-order error does not see."""
    label = np.diag([-1.0, -0.2, 0.1, 1.0])
    fock = np.diag([-1.0, 0.2, 0.1, 1.0])
    found = fock_errors(fock, label, np.eye(4), 2, np.array([0, 0, 0, 0]))
    assert found.occupied_loss == pytest.approx(0.5)
    assert found.density_error == pytest.approx(2 * 2 / 16)
    assert found.psi == pytest.approx(0.5)
    assert found.ov == 0.0
    assert found.homo_error == pytest.approx(0.3)
    assert math.isnan(found.mae_off_diagonal)  # one atom has no pairs
    assert math.isnan(found.mae_off_diagonal_shifted)


def test_near_dependent_basis_has_errors_too() -> None:
    """One direction of the AO space is dropped from both sets of orbitals."""
    overlap = np.eye(5)
    overlap[3, 4] = overlap[4, 3] = 1 - 1e-12
    label = np.diag([-3.0, -2.0, -1.0, 1.0, 1.0])
    found = fock_errors(label + symmetric_noise(5, 1e-5), label, overlap, 2, np.array([0, 0, 0, 1, 1]))
    assert 0 < found.eps < 1e-4
    assert found.psi == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("occupied", [0, 4, 5])
def test_orbital_errors_need_occupied_and_empty_orbitals(occupied: int) -> None:
    matrix = np.diag([-1.0, -0.2, 0.1, 1.0])
    with pytest.raises(ValueError, match=f"not {occupied} of 4 occupied"):
        fock_errors(matrix, matrix, np.eye(4), occupied, np.zeros(4, dtype=int))
    with pytest.raises(ValueError, match=f"not {occupied} of 4 occupied"):
        occupied_virtual_error(matrix, matrix, np.eye(4), occupied)


def test_matrices_of_two_molecules_are_refused() -> None:
    matrix = np.eye(4)
    with pytest.raises(ValueError, match=r"must all be \(4, 4\)"):
        fock_errors(matrix, np.eye(5), matrix, 2, np.zeros(4, dtype=int))
    with pytest.raises(ValueError, match=r"must be \(33, 33\), the AOs of the molecule"):
        block_errors(matrix, matrix, hydrogen_cyanide())


def slow_blocks(error: Array, mol: gto.Mole) -> dict[tuple[str, str, str, str, bool], list[float]]:
    """|dF| of every element of the matrix by the names that PySCF gives its AOs."""
    found: dict[tuple[str, str, str, str, bool], list[float]] = {}
    labels = mol.ao_labels(fmt=None)
    for p, (i, first, shell, _) in enumerate(labels):
        for q, (j, second, other, _) in enumerate(labels):
            found.setdefault((first, shell, second, other, i == j), []).append(abs(error[p, q]))
    return found


def test_block_errors_are_those_of_a_double_loop() -> None:
    mol = hydrogen_cyanide()
    error = symmetric_noise(mol.nao, 1e-3)
    found = block_errors(error, np.zeros_like(error), mol)
    assert [(s.element, s.name) for s in found.shells] == [
        *(("H", name) for name in ("1s", "2s", "2p")),
        *((element, name) for element in ("C", "N") for name in ("1s", "2s", "3s", "2p", "3p", "3d")),
    ]
    slow = slow_blocks(error, mol)
    site, pair = found.site_mae(), found.pair_mae()
    for p, a in enumerate(found.shells):
        for q, b in enumerate(found.shells):
            for on_site, values in ((True, site), (False, pair)):
                expected = slow.get((a.element, a.name, b.element, b.name, on_site), [])
                assert values[p, q] == pytest.approx(np.mean(expected) if expected else np.nan, nan_ok=True)
    assert found.site_counts.sum() + found.pair_counts.sum() == mol.nao**2
    total = (found.site_sums.sum() + found.pair_sums.sum()) / mol.nao**2
    assert total == pytest.approx(np.abs(error).mean())


def test_block_errors_by_element_and_by_shell_are_means_of_matrix_elements() -> None:
    mol = hydrogen_cyanide()
    error = symmetric_noise(mol.nao, 1e-3, seed=1)
    found = block_errors(error, np.zeros_like(error), mol)
    slow = slow_blocks(error, mol)
    assert found.elements == ("H", "C", "N")
    assert found.shell_names == ("1s", "2s", "3s", "2p", "3p", "3d")

    def mean(on_site: bool, **wanted: str) -> float:
        keys = ("first", "shell", "second", "other")
        chosen = [
            v
            for key, v in slow.items()
            if key[4] == on_site and all(key[keys.index(k)] == w for k, w in wanted.items())
        ]
        return float(np.mean(np.concatenate(chosen))) if chosen else float("nan")

    for p, a in enumerate(found.elements):
        assert found.site_mae_by_element()[p] == pytest.approx(mean(True, first=a))
        for q, b in enumerate(found.elements):
            expected = mean(False, first=a, second=b)
            assert found.pair_mae_by_elements()[p, q] == pytest.approx(expected, nan_ok=True)
    for p, shell in enumerate(found.shell_names):
        for q, other in enumerate(found.shell_names):
            assert found.site_mae_by_shells()[p, q] == pytest.approx(mean(True, shell=shell, other=other))
            assert found.pair_mae_by_shells()[p, q] == pytest.approx(mean(False, shell=shell, other=other))


def test_block_errors_of_two_molecules_add_up() -> None:
    """Elements that only one of them has get their own rows."""
    first, second = hydrogen_cyanide(), gto.M(atom="O 0 0 0; H 0 0.8 0.6; H 0 -0.8 0.6", basis="def2-svp", verbose=0)
    errors = [symmetric_noise(m.nao, 1e-3, seed=k) for k, m in enumerate((first, second))]
    parts = [block_errors(e, np.zeros_like(e), m) for e, m in zip(errors, (first, second), strict=True)]
    both = parts[0] + parts[1]
    assert both.elements == ("H", "C", "N", "O")
    slow = [slow_blocks(e, m) for e, m in zip(errors, (first, second), strict=True)]
    names = [(s.element, s.name) for s in both.shells]
    h, o = names.index(("H", "1s")), names.index(("O", "2p"))
    pooled = slow[0]["H", "1s", "H", "1s", True] + slow[1]["H", "1s", "H", "1s", True]
    assert len(pooled) == 3
    assert both.site_mae()[h, h] == pytest.approx(np.mean(pooled))
    assert both.pair_mae()[h, o] == pytest.approx(np.mean(slow[1]["H", "1s", "O", "2p", False]))
    assert both.pair_counts[h, h] == 2  # the two hydrogen atoms of water, both ways
    assert math.isnan(both.pair_mae()[o, o])


def test_a_map_with_the_wrong_shapes_is_refused() -> None:
    good, bad = np.zeros((1, 1)), np.zeros((2, 2))
    with pytest.raises(ValueError, match="sums and counts of 1 shells"):
        BlockErrors((ElementShell(1, 0, 0),), good, good, good, bad)
    with pytest.raises(ValueError, match="unique and sorted"):
        BlockErrors((ElementShell(6, 0, 0), ElementShell(1, 0, 0)), bad, bad, bad, bad)
