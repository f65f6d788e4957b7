"""A user's SCF object as the guess sees it: real matrices, one or two spins, and PySCF's own rules for occupations.

Every kind of molecular calculation is brought to one of three forms here, and its density back to the shape that its
class takes:

    RHF RKS            restricted        F, D (nao, nao)
    UHF UKS, GHF GKS   unrestricted      F, D (2, nao, nao); of a closed-shell GHF or GKS restricted, of others with as
                                         many electrons of either spin as energies tell
    ROHF ROKS          restricted-open   F, D (2, nao, nao), one set of orbitals

Orbitals, occupations and gradients come from the methods of the user's own object (of a silent copy), so that symmetry,
smearing, fixed or fractional occupations and removed linear dependencies count in the guess as in the SCF after it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import df, gto, lib, scf
from pyscf.lib import logger
from pyscf.scf import ghf, rohf, uhf

from pyscf_tracegrad.cheapfock import CheapFock, OwnJK, fitting_megabytes
from pyscf_tracegrad.functional import Functional
from pyscf_tracegrad.versions import mention_new_pyscf

Array = NDArray[np.float64]

# Smallest eigenvalue of the overlap below which single precision will not do.
_NEARLY_DEPENDENT = 5e-7

Form = Literal["restricted", "unrestricted", "restricted-open"]


class State(NamedTuple):
    """Orbitals and their density. mo_coeff (nao, nmo), mo_occ (nmo,), dm (nao, nao); with two spins (2, ...).

    gap: HOMO-LUMO gap, hartree, the smaller one of two spins; infinite where occupations are not whole. entropy: kT
    times the entropy of smeared occupations, hartree; what the SCF minimises is the energy less this.
    """

    mo_coeff: Any
    mo_occ: Any
    dm: Any
    gap: float = float("inf")
    entropy: float = 0.0


def homo_lumo_gap(mo_energy: Any, mo_occ: Any) -> float:
    """As `State.gap`, of orbital energies and occupations (nmo,), or (2, nmo) for two spins."""
    gaps = [float("inf")]
    for energies, occupations in zip(np.atleast_2d(mo_energy), np.atleast_2d(mo_occ), strict=True):
        if set(np.unique(occupations)) in ({0.0, 1.0}, {0.0, 2.0}, {0.0, 1.0, 2.0}):
            gaps.append(float(energies[occupations == 0].min() - energies[occupations > 0].max()))
    return min(gaps)


class FreeSpinUHF(uhf.UHF):  # type: ignore[misc]
    """Collinear states of GHF and GKS: the lowest spin orbitals are occupied, however many are of either spin."""

    def get_occ(self, mo_energy: Any = None, mo_coeff: Any = None) -> Array:  # noqa: ARG002  (as PySCF's)
        """Occupations (2, nmo) of orbital energies (2, nmo), both spins in one order."""
        energies = np.asarray(self.mo_energy if mo_energy is None else mo_energy)
        occupations = np.zeros(energies.size)
        occupations[np.argsort(energies.ravel(), kind="stable")[: self.mol.nelectron]] = 1.0
        return occupations.reshape(energies.shape)


def _eigensolver(worker: Any, hcore: Array, overlap: Array) -> tuple[Callable[[Any], Any], Any]:
    """The object's own `eig` of a Fock matrix, and the orthonormal basis (nao, nmo) that it works in.

    PySCF has a method for the basis since 2.13; older ones measure DIIS errors in orbitals of `eig`, for two spins
    (2, nao, nmo). So it is done here where the object's own removal of linear dependencies may leave another space.
    """
    if hasattr(type(worker), "check_linear_dependency") and "_eigh" not in vars(worker):
        orthogonal = worker.check_linear_dependency(overlap)
        return lambda fock: worker.eig(fock, overlap, x=orthogonal), orthogonal
    first = np.stack([hcore, hcore]) if isinstance(worker, uhf.UHF) else hcore
    return lambda fock: worker.eig(fock, overlap), worker.eig(first, overlap)[1]


class Calculation:
    """One SCF object and the molecule to start from.

    mf: object that `domain.check_scf` has passed. mol: its molecule, built. two_spins: whether a closed-shell GHF or
    GKS may have unlike spins.
    """

    def __init__(self, mf: Any, mol: gto.Mole, two_spins: bool = False) -> None:
        mention_new_pyscf(mf)
        self.mol = mol
        plain = getattr(mf, "_scf", mf)  # below a newton() layer
        self.second_order = plain is not mf
        self.general = isinstance(plain, ghf.GHF)
        self._two_spins = two_spins or mol.spin != 0
        self.plain = plain
        self._user, self._operators, self._exact_calls = mf, list[CheapFock](), 0
        self.nao = int(mol.nao)
        hcore = plain.get_hcore(mol)
        self.hcore: Array = np.asarray(hcore[: self.nao, : self.nao]).real if self.general else np.asarray(hcore)
        self.overlap: Array = np.asarray(mol.intor_symmetric("int1e_ovlp"))
        self._worker = self._make_worker()
        self.form: Form = "restricted"
        if isinstance(self._worker, uhf.UHF):
            self.form = "unrestricted"
        elif isinstance(self._worker, rohf.ROHF):
            self.form = "restricted-open"
        self._solve, self.orthogonal = _eigensolver(self._worker, self.hcore, self.overlap)

    def _make_worker(self) -> Any:
        """A silent object whose `eig`, `get_occ`, `make_rdm1` and `get_grad` are those of the calculation."""
        if self.general:
            worker = (FreeSpinUHF if self._two_spins else scf.RHF)(self.mol)
        else:
            worker = self.plain.copy()
            worker.mol = self.mol
        worker.verbose = 0
        worker.chkfile = None
        return worker

    def say(self, text: str) -> None:
        """One line in the user's log at verbose >= 4: what is being done now."""
        logger.info(self._user, "tracegrad guess: %s", text)

    def say_seconds(self, seconds: dict[str, float]) -> None:
        """Lines like those of PySCF's timers at verbose >= 5. seconds: wall time of stages that are over."""
        for stage, value in seconds.items():
            logger.debug(self._user, "    wall time for tracegrad guess, %-20s %9.2f sec", stage, value)

    @property
    def builds(self) -> tuple[int, int]:
        """Cheap and exact Fock builds so far, of all operators that were made here."""
        cheap = sum(operator.builds for operator in self._operators if not operator.exact)
        return cheap, sum(operator.builds for operator in self._operators if operator.exact) + self._exact_calls

    @cached_property
    def functional(self) -> Functional:
        """Functional, as the user's own object evaluates it. Raises PySCF's KeyError for one that it does not know."""
        return Functional.of(self.plain)

    @property
    def nelec(self) -> tuple[int, int]:
        """Electrons of each spin."""
        nelec = self.mol.nelec if self.form == "restricted" else self._worker.nelec
        return int(nelec[0]), int(nelec[1])

    @property
    def closed_shell(self) -> bool:
        """Whether both spins have the same density, so that a closed-shell model can answer."""
        # PySCF's own guess breaks the spin symmetry of an unrestricted singlet where this is set; ours does likewise
        broken = self.form == "unrestricted" and getattr(self._worker, "init_guess_breaksym", False)
        return self.nelec[0] == self.nelec[1] and not broken

    @property
    def fitted(self) -> Any:
        """The user's own three-centre integrals, None where J and K are exact."""
        with_df = getattr(self.plain, "with_df", None)
        return with_df if with_df is not None and type(with_df) is df.DF and with_df.mol is self.mol else None

    @property
    def fitted_on_disk(self) -> bool:
        """Whether J and K are read from disk in every build, the cheap ones too."""
        with_df = self.fitted
        if with_df is None or not (self.functional.hybrid or self.functional.alpha):
            return False
        if with_df._cderi is not None:
            return not isinstance(with_df._cderi, np.ndarray)
        free = with_df.max_memory - lib.current_memory()[0]  # as `df.DF.build` decides it
        return bool(fitting_megabytes(self.mol, with_df.auxbasis) > 0.9 * free)

    @property
    def solvated(self) -> bool:
        """Whether a solvent responds to the density."""
        return getattr(self.plain, "with_solvent", None) is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the calculation the cheap operator does not know, one sentence each."""
        notes = list(self.functional.notes)
        for name in ("get_fock", "get_veff", "get_jk"):
            module = getattr(getattr(self.plain, name), "__module__", None) or ""
            if module.partition(".")[0] not in ("pyscf", "gpu4pyscf"):
                notes.append(f"the cheap cycles know nothing of your mf.{name}")
        if self.solvated and not any(operator.solvated for operator in self._operators):
            notes.append("the cheap cycles know nothing of this solvent")
        return tuple(notes)

    def cheap(self, grid_level: int) -> CheapFock:
        """Cheap operator in the calculation's own functional and one-electron Hamiltonian.

        Hartree-Fock has no grid, and with its integrals in memory nothing is cheaper than they are: then it is the
        calculation's own operator.
        """
        with_df, own = self.fitted, self.fitted is not None and not getattr(self.plain, "only_dfj", False)
        if (
            with_df is None
            and self.functional.kind == "HF"
            and not self.functional.omega
            and not self.general
            and not self.solvated
            and OwnJK.possible(self.plain)
        ):
            with_df, own = OwnJK(self.plain), True
        operator = CheapFock(
            self.mol,
            self.functional,
            grid_level,
            hcore=self.hcore,
            with_df=with_df,
            solvent_of=self.plain,
            own_jk=own,
            single=self._smallest_overlap > _NEARLY_DEPENDENT,
        )
        self._operators.append(operator)
        return operator

    @property
    def _smallest_overlap(self) -> float:
        """Smallest eigenvalue of the overlap in the space of the orbitals, to a factor of the order of 1."""
        return float(1.0 / np.max(np.linalg.norm(self.orthogonal, axis=-2) ** 2))

    def minao(self) -> Any:
        """PySCF's minao density for this calculation, in its form."""
        return self.in_form(self._worker.init_guess_by_minao(self.mol))

    def in_form(self, dm: Any) -> Any:
        """A density of one or two spins, (nao, nao) or (2, nao, nao), in the form of this calculation."""
        if self.form == "restricted":
            return dm if np.ndim(dm) == 2 else dm[0] + dm[1]
        return dm if np.ndim(dm) == 3 else np.stack([0.5 * np.asarray(dm)] * 2)

    def spread(self, matrix: Array) -> Array:
        """A closed-shell Fock matrix (nao, nao) in the form of this calculation."""
        return matrix if self.form == "restricted" or matrix.ndim == 3 else np.stack([matrix, matrix])

    def effective(self, dm: Any, fock: Array) -> Any:
        """The matrix to diagonalise: the Fock matrix itself, or Roothaan's of the two of a restricted open shell."""
        return rohf.get_roothaan_fock(fock, dm, self.overlap) if self.form == "restricted-open" else fock

    def first_state(self, fock: Array) -> State:
        """Orbitals of a Fock matrix whose density is not known; of the mean of both spins where they share orbitals."""
        if self.form == "restricted-open":
            return self.state(lib.tag_array(0.5 * (fock[0] + fock[1]), focka=fock[0], fockb=fock[1]))
        return self.state(fock)

    def state(self, effective: Any) -> State:
        """Orbitals, occupations and density of an effective Fock matrix, by the user's own rules."""
        mo_energy, mo_coeff = self._solve(effective)
        mo_occ = self._worker.get_occ(mo_energy, mo_coeff)
        dm = self._worker.make_rdm1(mo_coeff, mo_occ)
        return State(mo_coeff, mo_occ, dm, homo_lumo_gap(mo_energy, mo_occ), self.entropy_of(self._worker))

    @staticmethod
    def entropy_of(mf: Any) -> float:
        """kT times the entropy of the occupations that a smeared object gave last, hartree; 0 for one that is not."""
        return float((getattr(mf, "sigma", None) or 0.0) * (getattr(mf, "entropy", None) or 0.0))

    @property
    def free_spin(self) -> bool:
        """Whether the number of electrons of either spin is for the SCF to find."""
        return isinstance(self._worker, FreeSpinUHF)

    @property
    def whole_occupations(self) -> bool:
        """Whether occupations are whole, and fixed by nothing but energies and symmetry."""
        worker = self._worker
        own = "get_occ" in vars(worker)
        return not own and not (getattr(worker, "sigma", None) and getattr(worker, "smearing_method", None))

    def spin_contamination(self, state: State) -> float:
        """<S^2> less S (S + 1), S the half of the difference of both spins' electrons; 0 where spins share orbitals."""
        if self.form != "unrestricted":
            return 0.0
        n_a, n_b = (float(np.sum(occupations)) for occupations in state.mo_occ)
        alpha, beta = np.asarray(state.dm)
        overlap = float(np.einsum("pq,qr,rs,sp->", alpha, self.overlap, beta, self.overlap, optimize=True))
        return min(n_a, n_b) - overlap  # <S^2> = S (S + 1) + N_b - Tr D_a S D_b S, doi:10.1063/1.472962

    def worker_copy(self) -> Any:
        """A silent copy of the object whose rules count, to be changed."""
        return self._worker.copy()

    def closed_shell_state(self, dm: Any) -> State:
        """State of a closed-shell density (nao, nao) tagged with its occupied orbitals; virtual ones are unknown."""
        if self.form == "restricted":
            return State(dm.mo_coeff, dm.mo_occ, dm)
        half = 0.5 * np.asarray(dm)
        coefficients, occupations = np.stack([dm.mo_coeff] * 2), np.stack([0.5 * dm.mo_occ] * 2)
        both = np.stack([half, half])
        if self.form == "restricted-open":
            return State(dm.mo_coeff, dm.mo_occ, both)
        return State(coefficients, occupations, lib.tag_array(both, mo_coeff=coefficients, mo_occ=occupations))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the density that the user's class takes."""
        n = self.nao
        return (2 * n, 2 * n) if self.general else (n, n) if self.form == "restricted" else (2, n, n)

    def gradient(self, state: State, fock: Array) -> float:
        """Norm of the orbital gradient as PySCF's SCF prints it, hartree; infinite where the virtuals are unknown."""
        if np.shape(state.mo_coeff)[-1] < self.orthogonal.shape[-1] and np.all(np.asarray(state.mo_occ) > 0):
            return float("inf")
        if self.form == "restricted-open":
            fock = lib.tag_array(0.5 * (fock[0] + fock[1]), focka=fock[0], fockb=fock[1])
        return float(np.linalg.norm(self._worker.get_grad(state.mo_coeff, state.mo_occ, fock)))

    def make_room(self, cheap: CheapFock) -> None:
        """Before an exact build: the cheap operator must not be why PySCF does not keep its integrals in memory.

        Where it is, it gives way, and goes on with PySCF's integrals; else the whole SCF would make them anew.
        """
        mf = self.plain
        if self.fitted is not None or not OwnJK.plain(mf) or mf._eri is not None or mf._is_mem_enough():
            return
        with lib.temporary_env(mf, max_memory=mf.max_memory + cheap.megabytes):
            in_the_way = mf._is_mem_enough()
        if in_the_way:
            cheap.give_way(mf)

    def exact_fock(self, dm: Any) -> Array:
        """Fock matrix of a density by the user's own operator, in the form of this calculation; one full build.

        Its integrals and grids stay on the user's object, where the SCF needs them next.
        """
        mf = self.plain
        self.say("one exact Fock build")
        self._exact_calls += 1
        shaped = self.shaped(dm)
        vhf = mf.get_veff(self.mol, shaped)
        solvent = getattr(vhf, "v_solvent", None)
        total = np.asarray(vhf) if solvent is None else np.asarray(vhf) + solvent
        if not self.general:
            fock: Array = self.hcore + total
            return fock
        n = self.nao
        blocks = np.stack([total[:n, :n].real, total[n:, n:].real])
        mean: Array = self.hcore + (blocks if self.form == "unrestricted" else 0.5 * (blocks[0] + blocks[1]))
        return mean

    def shaped(self, dm: Any) -> Any:
        """A density of this form in the shape that the user's class takes, with the tags that it can use."""
        if self.general:
            halves = (0.5 * np.asarray(dm),) * 2 if np.ndim(dm) == 2 else np.asarray(dm)
            return scipy.linalg.block_diag(*halves)
        if self.form == "restricted-open":
            return np.asarray(dm)
        mo_coeff, mo_occ = getattr(dm, "mo_coeff", None), getattr(dm, "mo_occ", None)
        if mo_coeff is None:
            return np.asarray(dm)
        return lib.tag_array(np.asarray(dm), mo_coeff=np.asarray(mo_coeff), mo_occ=np.asarray(mo_occ))
