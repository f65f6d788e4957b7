"""The cheap Fock operator: density-fitted J/K, or coarsely screened ones for large molecules, and a coarse grid.

    F[D] = hcore + J_df[D] - (c_x / 2) K_df[D] + V_xc^coarse[D]                   restricted, D (nao, nao)
    F^s[D] = hcore + J_df[D^a + D^b] - c_x K_df[D^s] + V_xc^s,coarse[D]          unrestricted, D (2, nao, nao)

One object serves the reference Fock matrix (`reference.py`) and the refinement of a guess (`refine.py`): the
three-centre integrals are built once, or taken from the user's own density fitting, and the AO values on the grid are
kept as soon as that pays. Against one exact build (in-core integrals, level-3 grid) a build costs about a fifth.
"""

from __future__ import annotations

import copy
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import df, gto, lib
from pyscf.scf import hf, rohf, uhf

from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.config import MAX_STEPS
from pyscf_tracegrad.density import Factor, spin_factors
from pyscf_tracegrad.directjk import DirectJK
from pyscf_tracegrad.functional import Functional
from pyscf_tracegrad.gridxc import AtomGrid, GridXC, thin_grid
from pyscf_tracegrad.reaction import reaction_field
from pyscf_tracegrad.singlek import SingleK

Array = NDArray[np.float64]

# Of the free memory that the three-centre integrals may take; PySCF goes to disk above 0.9 of it.
_SHARE = 0.85


class CheapBuild(NamedTuple):
    """Fock matrix (nao, nao) or (2, nao, nao), and electronic energy, of one density; hartree.

    The energy leaves out what no density changes (nuclei, and nuclei in a solvent), and VV10 as F does.
    """

    fock: Array
    energy: float


class CheapFock:
    """Fock operator F[D] of one molecule, cheap to apply again and again.

    Parameters
    ----------
    mol : gto.Mole
        Built molecule; any basis, spherical or Cartesian. `mol.max_memory` (MB) bounds the three-centre integrals
        (`DirectJK` serves where they do not fit) and the kept AO values (evaluated anew where they do not fit).
    xc : str or Functional
        Any functional that PySCF's `NumInt` evaluates, or `'hf'`; or that of an SCF object, `Functional.of(mf)`.
        Non-local (VV10) correlation is left out.
    grid_level : int
        PySCF grid level of V_xc. Level 1 has an orientation noise of about 1e-6 hartree, level 0 of 2e-5.
    auxbasis : str or dict, optional
        Fitting basis; PySCF's default for the orbital basis if not given.
    hcore : (nao, nao) array, optional
        One-electron Hamiltonian, hartree; PySCF's for `mol` (with its ECPs) if not given.
    keep_ao_after : int
        AO values on the grid are kept from this build on, see `GridXC`.
    with_df : df.DF, optional
        Three-centre integrals to share, such as those of the user's `mf.density_fit()`; ours if not given. Or anything
        else with a `get_jk` of the same arguments, such as `OwnJK`.
    own_jk : bool
        Whether `with_df` makes J and K as the user's SCF does.
    single : bool
        Whether `thinned` may have single precision; a nearly dependent basis enlarges its rounding errors too much.
    solvent_of : scf.hf.SCF, optional
        Object whose continuum solvent acts, see `reaction.py`; siblings (`with_theory`) of another hcore leave it out.

    Attributes
    ----------
    builds : int
        Number of Fock builds so far, those of siblings (`with_theory`) included.
    setup_seconds : float
        Wall time of the integrals; the grid is made at the first build.
    exact : bool
        Whether this is the very operator of the user's SCF: its J and K, and neither a grid nor a solvent.
    """

    def __init__(
        self,
        mol: gto.Mole,
        xc: str | Functional = "b3lyp",
        grid_level: int = 1,
        auxbasis: Any = None,
        hcore: Array | None = None,
        keep_ao_after: int = MAX_STEPS + 1,
        with_df: Any = None,
        solvent_of: Any = None,
        own_jk: bool = False,
        single: bool = True,
    ) -> None:
        start = time.perf_counter()
        self.mol = mol
        self._grid_level, self._keep_ao_after, self._own_jk = grid_level, keep_ao_after, own_jk
        # Lists and dictionaries, so that siblings share what they hold: the number of builds; what makes J and K, which
        # may give way; grids, by whether they have few points and whether they are in single precision; exchange in
        # single precision, by the range separation omega.
        self._count = [0]
        self._integrals: list[Any] = []
        self._grids: dict[tuple[bool, bool], GridXC] = {}
        self._single: dict[float, SingleK] = {}
        self._is_thinned, self._may_be_single = False, single
        with one_blas_thread():
            self.overlap: Array = mol.intor_symmetric("int1e_ovlp")
            self.hcore: Array = hf.get_hcore(mol) if hcore is None else hcore
            self._integrals.append(_two_electron(mol, auxbasis) if with_df is None else with_df)
            self._ours = with_df is None
            self._set_functional(xc)
            self._reaction = None if solvent_of is None else reaction_field(solvent_of, self.with_df)
        self.setup_seconds = time.perf_counter() - start

    @property
    def with_df(self) -> Any:
        """What makes J and K: an object with PySCF's `get_jk`."""
        return self._integrals[0]

    @property
    def builds(self) -> int:
        """Number of Fock builds so far."""
        return self._count[0]

    @property
    def exact(self) -> bool:
        """Whether this is the very operator of the user's SCF."""
        return self._own_jk and self.functional.kind == "HF" and self._reaction is None

    @property
    def solvated(self) -> bool:
        """Whether a solvent acts."""
        return self._reaction is not None

    @property
    def exact_exchange(self) -> float:
        """Share of exact exchange in the functional, that at long range where it depends on the distance."""
        functional = self.functional
        return functional.alpha if functional.omega else functional.hybrid

    @property
    def megabytes(self) -> float:
        """Memory of the three-centre integrals made here and of the kept AO values, MB; 0 where they cannot go."""
        if not self._ours or not isinstance(self.with_df, df.DF) or self._reaction is not None:
            return 0.0
        kept: list[GridXC | SingleK] = [*self._grids.values(), *self._single.values()]
        fitted = (each._cderi for each in (self.with_df, *self.with_df._rsh_df.values()))
        held = sum(integrals.nbytes for integrals in fitted if isinstance(integrals, np.ndarray))
        return 1e-6 * held + sum(each.megabytes for each in kept)

    def give_way(self, mf: Any) -> None:
        """Let go what `megabytes` counts. From now on J and K come from the integrals of an SCF object (`OwnJK`), for
        the siblings too.
        """
        self._integrals[0] = OwnJK(mf)
        self._single.clear()
        for grid in self._grids.values():
            grid.forget()

    def with_theory(self, xc: str | Functional, hcore: Array | None = None) -> CheapFock:
        """The operator of another functional and one-electron Hamiltonian on the same integrals and grid."""
        sibling = copy.copy(self)
        sibling._own_jk = False
        if hcore is not None:
            sibling.hcore, sibling._reaction = hcore, None
        sibling._set_functional(xc)
        return sibling

    def thinned(self) -> CheapFock:
        """What serves between two corrections, at a quarter of the price: the same operator on the thinnest grid
        (`thin_grid`; a meta-GGA needs the points that there are), with that and exchange in single precision.

        Itself where it is the user's own operator.
        """
        if self.exact:
            return self
        sibling = copy.copy(self)
        sibling._is_thinned = True
        return sibling

    def _set_functional(self, xc: str | Functional) -> None:
        self.functional = Functional.named(xc) if isinstance(xc, str) else xc

    @property
    def grid(self) -> GridXC:
        """The grid of V_xc; made when it is first asked for, AO values when they are first needed."""
        few = self._is_thinned and self.functional.kind != "MGGA"
        single = self._is_thinned and self._may_be_single
        if (few, single) not in self._grids:
            points: int | AtomGrid = thin_grid(self.mol) if few else self._grid_level
            keep_after = 0 if self._is_thinned else self._keep_ao_after
            self._grids[few, single] = GridXC(self.mol, points, self.mol.max_memory, keep_after, single)
        return self._grids[few, single]

    def __call__(self, dm: Any) -> Array:
        """Fock matrix, hartree, PySCF AO order, of a density matrix, both (nao, nao) or both (2, nao, nao).

        A density tagged with `mo_coeff` and `mo_occ` (`lib.tag_array`) saves a diagonalisation.
        """
        return self.build(dm).fock

    def build(self, dm: Any) -> CheapBuild:
        """Fock matrix of a density matrix as by a call, and the energy whose derivative it is."""
        with one_blas_thread():
            factors = spin_factors(dm, self.overlap)
            densities = _densities(factors)
            two_electron = self._coulomb_exchange(factors)
            fock = self.hcore + two_electron
            energy = float(np.vdot(self.hcore, densities.sum(0)) + 0.5 * np.vdot(two_electron, densities))
            if self.functional.kind != "HF":
                potential, energy_xc = self.grid(self.functional, factors)
                fock += potential
                energy += energy_xc
            if self._reaction is not None:
                potential, energy_solvent = self._reaction(densities.sum(0))
                fock += potential
                energy += energy_solvent
        self._count[0] += 1
        return CheapBuild(fock if np.ndim(dm) == 3 else fock[0], energy)

    def _coulomb_exchange(self, factors: tuple[Factor, ...]) -> Array:
        """J - c_x K (s, nao, nao); for one factor, the whole density, J - c_x K / 2."""
        tagged = _tagged(_densities(factors), factors)
        scale = 0.5 if len(factors) == 1 else 1.0
        omega, alpha, hybrid = self.functional.omega, self.functional.alpha, self.functional.hybrid
        with_k = abs(hybrid) > 1e-10
        single = self._single_k(factors, 0.0) if with_k else None
        vj, vk = self.with_df.get_jk(tagged, hermi=1, with_k=with_k and single is None)
        vk = vk if single is None else single(factors)
        total: Array = np.repeat(vj.sum(0, keepdims=True), len(factors), axis=0)
        if with_k:
            total -= (scale * hybrid) * vk
        if abs(omega) > 1e-10:  # range separation, as in pyscf.dft.rks.get_veff
            total -= (scale * (alpha - hybrid)) * self._long_range(tagged, factors)
        return total

    def _long_range(self, tagged: Any, factors: tuple[Factor, ...]) -> Array:
        """K (s, nao, nao) of erf(omega r) / r."""
        omega = self.functional.omega
        single = self._single_k(factors, omega)
        if single is not None:
            return single(factors)
        vk: Array = self.with_df.get_jk(tagged, hermi=1, with_j=False, with_k=True, omega=omega)[1]
        return vk

    def _single_k(self, factors: tuple[Factor, ...], omega: float) -> SingleK | None:
        """Exchange in single precision, where this operator may have it; made when it is first used."""
        fitted = isinstance(self.with_df, df.DF)
        if not (
            self._is_thinned and self._may_be_single and fitted and all((f.occupations >= 0).all() for f in factors)
        ):
            return None
        if omega not in self._single:
            integrals = _fitted_integrals(self.with_df, omega)
            if not SingleK.possible(integrals, self.mol.max_memory):
                return None
            self._single[omega] = SingleK(integrals, self.mol.nao, max(self.mol.nelec))
        return self._single[omega]


class OwnJK:
    """J and K of an SCF object by its own integrals, in the place of density fitting.

    Integrals that fit into memory are made at the first call and stay on the object, where its SCF needs them next.
    """

    def __init__(self, mf: Any) -> None:
        self._mf = mf

    @staticmethod
    def plain(mf: Any) -> bool:
        """Whether the object makes J and K by four-centre integrals, kept or not."""
        return type(mf).get_jk in (hf.RHF.get_jk, uhf.UHF.get_jk, rohf.ROHF.get_jk)

    @staticmethod
    def possible(mf: Any) -> bool:
        """Whether the object makes J and K by integrals that it keeps in memory."""
        return OwnJK.plain(mf) and (mf._eri is not None or mf.mol.incore_anyway or mf._is_mem_enough())

    def get_jk(self, dm: Any, hermi: int = 1, with_j: bool = True, with_k: bool = True, omega: Any = None) -> Any:
        """J and K as `scf.hf.RHF.get_jk`."""
        return self._mf.get_jk(self._mf.mol, np.asarray(dm), hermi, with_j, with_k, omega)


def _densities(factors: tuple[Factor, ...]) -> Array:
    return np.stack([(f.orbitals * f.occupations) @ f.orbitals.T for f in factors])


def _tagged(dm: Array, factors: tuple[Factor, ...]) -> Any:
    """The densities with their orbitals, where PySCF's density fitting can use them for exchange.

    It takes the square root of the occupations, so they must be positive; and it wants as many orbitals for each spin.
    """
    if not all((f.occupations > 0).all() for f in factors):
        return dm
    n = max(len(f.occupations) for f in factors)
    mo_coeff = np.stack([np.pad(f.orbitals, ((0, 0), (0, n - len(f.occupations)))) for f in factors])
    mo_occ = np.stack([np.pad(f.occupations, (0, n - len(f.occupations))) for f in factors])
    return lib.tag_array(dm, mo_coeff=mo_coeff, mo_occ=mo_occ)


def _fitted_integrals(with_df: df.DF, omega: float) -> Any:
    """(P, pq), lower triangles: an array, or what stands for it where they are on disk."""
    if omega:
        with with_df.range_coulomb(omega) as long_range:
            return _fitted_integrals(long_range, 0.0)
    if with_df._cderi is None:
        with_df.build()
    return with_df._cderi


def fitting_megabytes(mol: gto.Mole, auxbasis: Any = None) -> float:
    """Size of the three-centre integrals of density fitting, MB."""
    return float(df.make_auxmol(_silent(mol), auxbasis).nao * mol.nao * (mol.nao + 1) / 2 * 8e-6)


def _silent(mol: gto.Mole) -> gto.Mole:
    """The same molecule without a word of the fitting basis that PySCF makes where it has none: nobody asked for it."""
    silent = mol.copy(deep=False)
    silent.verbose = 0
    return silent


def _two_electron(mol: gto.Mole, auxbasis: Any) -> Any:
    """Density fitting where its integrals fit into memory; on disk they would take longer than integrals made anew.

    A process that is beyond `max_memory` already still has a tenth of it.
    """
    free = max(mol.max_memory - lib.current_memory()[0], 0.1 * mol.max_memory)
    if fitting_megabytes(mol, auxbasis) > _SHARE * free:
        return DirectJK(mol)
    with_df = df.DF(_silent(mol), auxbasis)
    with_df.max_memory = free + lib.current_memory()[0]
    return with_df.build()
