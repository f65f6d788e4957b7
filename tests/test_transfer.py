"""From the network's basis to the user's: cross overlaps, the correction, projected orbitals, and rotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from network_helpers import TABLE, ao_matrix, random_rotation, rotated
from pyscf import dft, gto
from pyscf.scf import hf

from pyscf_tracegrad import tracegrad_guess
from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.checkpoint import Checkpoint
from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.density import diagonalise
from pyscf_tracegrad.errors import OutsideDomain
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.pretrained import PretrainedModel
from pyscf_tracegrad.reference import build_reference
from pyscf_tracegrad.starts import choose_start
from pyscf_tracegrad.transfer import cross_overlap, native_molecule, project_density, transform_correction

WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
NATIVE = "def2-svp"
TWIN = [*gto.basis.load(NATIVE, "O"), [0, [0.2, 1.0]], [0, [0.2001, 1.0]]]  # two shells that are nearly the same
BASES: dict[str, dict[str, Any]] = {
    "sto-3g": {"basis": "sto-3g"},
    "6-31g*": {"basis": "6-31g*"},
    "aug-cc-pvdz": {"basis": "aug-cc-pvdz"},
    "cartesian": {"basis": "6-31g*", "cart": True},
    "mixed": {"basis": {"default": NATIVE, "O": "def2-tzvp"}},
    "ghost": {"basis": "cc-pvdz", "atom": f"{WATER}; ghost-O 0 0 2.0"},
    "ghost first": {"basis": "cc-pvdz", "atom": f"ghost-H 0 0 2.0; {WATER}"},
    "near-dependent": {"basis": {"default": NATIVE, "O": TWIN}},
    "bohr": {"unit": "Bohr", "basis": NATIVE, "atom": "O 0 0 0; H 0 1.4 1.1; H 0 -1.4 1.1"},
}


def molecule(**keywords: Any) -> gto.Mole:
    return gto.M(**{"atom": WATER, "basis": NATIVE, "verbose": 0, **keywords})


def occupied_orbitals(native: gto.Mole) -> Any:
    """Occupied orbitals of a plausible Fock matrix."""
    return diagonalise(
        native.RHF().get_fock(dm=hf.init_guess_by_minao(native)), native.intor("int1e_ovlp")
    ).coefficients[:, :5]


@pytest.mark.parametrize("name", BASES)
def test_native_molecule_is_the_same_system(name: str) -> None:
    mol = molecule(**BASES[name])
    native = native_molecule(mol, NATIVE)
    assert (native.natm, native.nelectron, native.charge, native.spin) == (3, 10, 0, 0)
    assert native.nao == 24
    assert not native.cart
    assert native.energy_nuc() == pytest.approx(mol.energy_nuc(), abs=1e-12)


@pytest.mark.parametrize("name", [name for name in BASES if name != "cartesian"])
def test_cross_overlap_is_that_of_the_merged_molecule(name: str) -> None:
    mol = molecule(**BASES[name])
    native = native_molecule(mol, NATIVE)
    merged = gto.conc_mol(native, mol).intor("int1e_ovlp")
    cross = cross_overlap(native, mol)
    assert cross.shape == (native.nao, mol.nao)
    assert np.abs(cross - merged[: native.nao, native.nao :]).max() < 1e-13


@pytest.mark.parametrize("basis", ["6-31g*", NATIVE, "def2-tzvp"])
def test_cross_overlap_of_cartesian_aos(basis: str) -> None:
    """Against the merged Cartesian molecule, whose overlap with spherical AOs a grid integrates."""
    mol = molecule(basis=basis, cart=True)
    native = native_molecule(mol, NATIVE)
    cross = cross_overlap(native, mol)
    assert cross.shape == (native.nao, mol.nao)
    grids = dft.Grids(mol)
    grids.level, grids.verbose = 6, 0
    grids.build()
    ours, theirs = native.eval_gto("GTOval_sph", grids.coords), mol.eval_gto("GTOval_cart", grids.coords)
    assert np.abs(cross - (ours * grids.weights[:, None]).T @ theirs).max() < 1e-6


def shuffled() -> tuple[gto.Mole, gto.Mole, list[int]]:
    """Water with the shells of each degree in reverse, in order, and where each AO of the first is in the second."""
    reversed_shells = {symbol: gto.basis.load(NATIVE, symbol)[::-1] for symbol in ("H", "O")}
    mol, native = molecule(basis=reversed_shells), molecule()
    order: list[int] = []
    starts = native.ao_loc_nr()
    for shell in range(mol.nbas):
        key = (mol.bas_atom(shell), mol.bas_angular(shell), *mol.bas_exp(shell))
        (same,) = (
            s for s in range(native.nbas) if (native.bas_atom(s), native.bas_angular(s), *native.bas_exp(s)) == key
        )
        order += range(starts[same], starts[same + 1])
    return mol, native, order


def test_correction_in_another_shell_order_is_exact() -> None:
    mol, native, order = shuffled()
    assert sorted(order) == list(range(24))
    assert order != sorted(order)
    rng = np.random.default_rng(0)
    correction = rng.normal(size=(24, 24))
    correction += correction.T
    found = transform_correction(correction, native.intor("int1e_ovlp"), cross_overlap(native, mol))
    assert np.abs(found - correction[np.ix_(order, order)]).max() < 1e-10


def test_correction_keeps_its_matrix_elements_in_a_larger_basis() -> None:
    """A basis that contains the native one: <p|dF|q> of the native functions, expressed in the larger, is unchanged."""
    shells = {s: [*gto.basis.load(NATIVE, s), [1, [0.15, 1.0]], [2, [0.7, 1.0]]] for s in ("H", "O")}
    mol, native = molecule(basis=shells), molecule()
    cross, ovlp = cross_overlap(native, mol), mol.intor("int1e_ovlp")
    expansion = np.linalg.solve(ovlp, cross.T)  # native functions in the larger basis
    correction = np.diag(np.linspace(-1, 1, 24))
    larger = transform_correction(correction, native.intor("int1e_ovlp"), cross)
    assert np.abs(expansion.T @ larger @ expansion - correction).max() < 1e-9


@pytest.mark.parametrize("name", BASES)
def test_projected_density_is_idempotent_with_all_electrons(name: str) -> None:
    mol = molecule(**BASES[name])
    native = native_molecule(mol, NATIVE)
    ovlp = mol.intor("int1e_ovlp")
    dm = project_density(occupied_orbitals(native), cross_overlap(native, mol), ovlp)
    assert np.trace(dm @ ovlp) == pytest.approx(10, abs=1e-9)
    assert np.abs(dm @ ovlp @ dm - 2 * dm).max() < 1e-8
    assert dm.mo_coeff.shape == (mol.nao, 5)
    assert np.abs((dm.mo_coeff * dm.mo_occ) @ dm.mo_coeff.T - dm).max() < 1e-10
    energy = mol.RHF().energy_tot(np.array(dm))
    assert energy == pytest.approx(native.RHF().energy_tot(_density(native)), abs=1.5)


def _density(native: gto.Mole) -> Any:
    occupied = occupied_orbitals(native)
    return 2 * occupied @ occupied.T


def test_projection_into_a_basis_that_contains_the_native_one_is_exact() -> None:
    mol, native, order = shuffled()
    dm = project_density(occupied_orbitals(native), cross_overlap(native, mol), mol.intor("int1e_ovlp"))
    assert np.abs(dm - _density(native)[np.ix_(order, order)]).max() < 1e-10
    twins = molecule(**BASES["near-dependent"])
    dm = project_density(occupied_orbitals(native), cross_overlap(native, twins), twins.intor("int1e_ovlp"))
    assert np.abs(twins.RHF().energy_tot(dm) - native.RHF().energy_tot(_density(native))) < 1e-7


def test_projection_of_minao_explodes_where_ours_does_not() -> None:
    """Without the near-dependent directions the energy of a projected density stays finite."""
    shells = [*gto.basis.load(NATIVE, "O"), *([0, [0.2 * (1 + 1e-5 * k), 1.0]] for k in range(4))]
    mol = molecule(basis={"default": NATIVE, "O": shells})
    ovlp = mol.intor("int1e_ovlp")
    assert np.linalg.eigvalsh(ovlp)[0] < 1e-12
    native = native_molecule(mol, NATIVE)
    dm = project_density(occupied_orbitals(native), cross_overlap(native, mol), ovlp)
    assert np.trace(dm @ ovlp) == pytest.approx(10, abs=1e-6)
    assert mol.RHF().energy_tot(dm) == pytest.approx(native.RHF().energy_tot(_density(native)), abs=1e-4)


@pytest.mark.parametrize("transfer", ["fock", "density"])
@pytest.mark.parametrize("inversion", [False, True])
def test_guess_of_a_rotated_molecule_is_the_rotated_guess(transfer: Any, inversion: bool) -> None:
    """To the orientation noise of the grid, which the tests of the reference measure."""
    mol = gto.M(atom="C 0 0 0; O 0.1 0.2 1.2; H 1.0 .1 -.6; H -.9 .2 -.5", basis="cc-pvdz", verbose=0)
    rotation = random_rotation(3, inversion)
    u = ao_matrix(mol, rotation)
    before, after = (
        tracegrad_guess(m.RKS(xc="pbe"), refine=False, transfer=transfer, strict=True)
        for m in (mol, rotated(mol, rotation, shift=0.7))
    )
    assert np.abs(u.T @ before @ u - after).max() < 2e-4
    assert np.abs(before - after).max() > 1e-2


@pytest.mark.parametrize(
    ("transfer", "refine"), [("auto", False), ("fock", False), ("density", False), ("density", "auto")]
)
@pytest.mark.parametrize("name", ["6-31g*", "cartesian", "mixed", "ghost"])
def test_network_beats_minao_in_other_bases(name: str, transfer: Any, refine: Any) -> None:
    """Energy above the converged one. Bare projected orbitals lack what the larger basis adds."""
    mf = molecule(**BASES[name]).RKS(xc="b3lyp").run()
    dm, report = tracegrad_guess(mf, refine=refine, transfer=transfer, report=True)
    assert report.route == "network"
    assert report.transfer == ("fock" if transfer == "auto" else transfer)
    share = 1.0 if (transfer, refine) == ("density", False) else 0.1
    assert mf.energy_tot(dm) - mf.e_tot < share * (mf.energy_tot(mf.get_init_guess(key="minao")) - mf.e_tot)


def untrained(**settings: Any) -> PretrainedModel:
    """A model whose correction is zero."""
    config = ModelConfig(reference=ReferenceSettings(**settings), channels=4, layers=1, invariants=4, trace_hidden=4)
    model = FockModel(config, TABLE.degrees, len(TABLE.elements)).eval()
    return PretrainedModel(Checkpoint(model, TABLE, "b3lyp", NATIVE, serve_ions=True))


@pytest.mark.parametrize("settings", [{"steps": 1}, {"steps": 3, "mixing": "anderson"}])
def test_a_correction_is_added_to_the_reference_that_it_was_trained_on(settings: dict[str, Any]) -> None:
    """In the other basis, with as many steps and mixed alike."""
    mol = molecule(basis="6-31g*")
    options = GuessOptions(refine=False, transfer="fock", strict=True)
    start = choose_start(Calculation(mol.RKS(xc="b3lyp"), mol), options, untrained(**settings))
    assert start.fock is not None
    reference = build_reference(mol, ReferenceSettings(**settings, gauge=False))
    assert np.abs(start.fock - reference.fock).max() < 1e-8


def test_a_correction_to_a_reference_without_builds_is_not_carried_over() -> None:
    mf, model = molecule(basis="6-31g*").RKS(xc="b3lyp"), untrained(strategy="sap", steps=0)
    _, report = tracegrad_guess(mf, model, strict=True, refine=False, report=True)
    assert report.transfer == "density"
    with pytest.raises(OutsideDomain, match="makes no Fock build"):
        tracegrad_guess(mf, model, strict=True, refine=False, transfer="fock", start="network")
