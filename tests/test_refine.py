"""Refinement: the cheap operator for open shells, how many builds are made, and what comes of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import df, dft, gto, lib, scf
from pyscf.scf import hf

from pyscf_tracegrad import OutsideDomain, tracegrad_guess
from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.cheapfock import CheapFock, OwnJK
from pyscf_tracegrad.density import spin_factors
from pyscf_tracegrad.gridxc import thin_grid
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.reference import Pair, diis_errors
from pyscf_tracegrad.refine import schedule_for

AUXBASIS = "def2-universal-jkfit"
BASIS = "def2-svp"
WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
FUNCTIONALS = ("lda,vwn", "pbe", "b3lyp", "wb97x", "tpss", "hf")


@pytest.fixture
def cation() -> gto.Mole:
    """Water's radical cation."""
    return gto.M(atom=WATER, charge=1, spin=1, basis=BASIS, verbose=0)


def count(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """One entry, the object, for each call of a method."""
    calls: list[Any] = []
    original = getattr(owner, name)

    @functools.wraps(original)
    def counted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(self)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(owner, name, counted)
    return calls


def unlike_spins(mol: gto.Mole) -> Any:
    """A tagged density whose two spins have different orbitals and numbers of electrons."""
    mf = scf.UHF(mol)
    mf.max_cycle = 2
    mf.kernel()
    dm = mf.make_rdm1()
    assert np.abs(dm[0] - dm[1]).max() > 0.1
    return dm


@pytest.mark.parametrize("xc", FUNCTIONALS)
@pytest.mark.parametrize("tagged", [True, False])
def test_unrestricted_operator_equals_pyscf(xc: str, tagged: bool, cation: gto.Mole) -> None:
    dm = unlike_spins(cation)
    dm = dm if tagged else np.array(dm)
    mf = (scf.UHF(cation) if xc == "hf" else cation.UKS(xc=xc)).density_fit(auxbasis=AUXBASIS)
    if xc != "hf":
        mf.grids.level = 1
    ours = CheapFock(cation, xc, 1, auxbasis=AUXBASIS)(dm)
    assert ours.shape == (2, cation.nao, cation.nao)
    assert np.abs(ours - mf.get_fock(dm=dm)).max() < 1e-8


@pytest.mark.parametrize("xc", FUNCTIONALS)
def test_two_equal_spins_are_the_restricted_operator(xc: str, water: gto.Mole) -> None:
    dm = np.array(hf.init_guess_by_minao(water))
    cheap = CheapFock(water, xc)
    both = cheap(np.stack([0.5 * dm, 0.5 * dm]))
    assert np.abs(both - cheap(dm)).max() < 1e-9


def test_siblings_share_grid_integrals_and_count(water: gto.Mole) -> None:
    dm = hf.init_guess_by_minao(water)
    cheap = CheapFock(water, "hf")
    first, second = cheap.with_theory("b3lyp"), cheap.with_theory("pbe", hcore=np.zeros_like(cheap.hcore))
    assert first.with_df is second.with_df is cheap.with_df
    assert first.grid is second.grid
    assert np.abs(first(dm) - CheapFock(water, "b3lyp")(dm)).max() < 1e-10
    assert np.abs(second(dm) - CheapFock(water, "pbe")(dm) + hf.get_hcore(water)).max() < 1e-10
    assert np.abs(cheap(dm) - CheapFock(water, "hf")(dm)).max() < 1e-10
    assert cheap.builds == first.builds == second.builds == 3


@pytest.mark.parametrize("xc", ["lda,vwn", "b3lyp", "wb97x"])
def test_thinned_operator_differs_by_its_grid_and_precision_alone(xc: str, formaldehyde: gto.Mole) -> None:
    cheap = CheapFock(formaldehyde, xc)
    thin = cheap.thinned()
    dm = hf.init_guess_by_minao(formaldehyde)
    assert 0.2 < len(thin.grid) / len(cheap.grid) < 0.5
    assert 1e-7 < np.abs(cheap(dm) - thin(dm)).max() < 1e-2
    assert thin.with_df is cheap.with_df
    assert thin.builds == cheap.builds == 2
    assert len(thin.grid._kept) > 0


@pytest.mark.parametrize("xc", ["hf", "tpss", "m062x"])
def test_what_needs_its_grid_or_has_none_differs_by_precision_alone(xc: str, formaldehyde: gto.Mole) -> None:
    cheap = CheapFock(formaldehyde, xc)
    thin = cheap.thinned()
    dm = hf.init_guess_by_minao(formaldehyde)
    assert 0.0 < np.abs(cheap(dm) - thin(dm)).max() < 2e-5
    if xc != "hf":
        assert len(thin.grid) == len(cheap.grid)
        assert thin.grid.single
        assert not cheap.grid.single


def test_own_integrals_are_not_thinned(water: gto.Mole) -> None:
    own = CheapFock(water, "hf", with_df=OwnJK(water.RHF()), own_jk=True)
    assert own.exact
    assert own.thinned() is own
    assert own.with_theory("b3lyp").thinned() is not own


@pytest.mark.parametrize("xc", ["cam-b3lyp", "hse06"])
def test_long_range_exchange_is_in_single_precision_too(xc: str, formaldehyde: gto.Mole) -> None:
    cheap = CheapFock(formaldehyde, xc)
    thin = cheap.thinned()
    dm = hf.init_guess_by_minao(formaldehyde)
    factors = spin_factors(dm, cheap.overlap)
    double, before = cheap._coulomb_exchange(factors), cheap.megabytes
    assert 0.0 < np.abs(thin._coulomb_exchange(factors) - double).max() < 1e-5
    assert cheap.megabytes - before == pytest.approx(sum(k.megabytes for k in cheap._single.values()))
    assert len(cheap._single) == 2


def test_integrals_that_gave_way_are_gone_for_siblings(water: gto.Mole) -> None:
    cheap = CheapFock(water, "b3lyp")
    thin, other = cheap.thinned(), cheap.with_theory("pbe")
    thin(hf.init_guess_by_minao(water))
    assert cheap.megabytes > 1e-6 * cheap.with_df._cderi.nbytes + cheap._single[0.0].megabytes > 0
    thin.give_way(water.RKS(xc="b3lyp"))
    assert all(isinstance(c.with_df, OwnJK) and c.megabytes == 0.0 for c in (cheap, thin, other))


def test_ghosts_have_points_on_the_thin_grid() -> None:
    mol = gto.M(atom="He 0 0 0; ghost-H 0 0 1.5", basis=BASIS, verbose=0)
    assert thin_grid(mol) == {"He": (15, 110), "GHOST-H": (15, 110)}
    dm = hf.init_guess_by_minao(mol)
    cheap = CheapFock(mol)
    assert np.abs(cheap(dm) - cheap.thinned()(dm)).max() < 1e-2


@pytest.mark.parametrize(("start", "refine", "thin"), [
    ("network", "auto", [True]), ("reference", "auto", [True]), ("minao", "auto", [True]),
    ("network", 3, [False]), ("network", False, [False]),
])  # fmt: skip
def test_one_grid_is_made_for_a_guess(
    start: Any, refine: Any, thin: list[bool], water: gto.Mole, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count(monkeypatch, dft.Grids, "build")
    mf = water.RKS(xc="b3lyp")
    tracegrad_guess(mf, start=start, refine=refine)
    assert [bool(grids.atom_grid) for grids in made if grids is not mf.grids] == thin


@pytest.mark.parametrize("refine", [4, "auto"])
def test_only_what_is_corrected_is_thinned(refine: Any, water: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    thinned = count(monkeypatch, CheapFock, "thinned")
    report = tracegrad_guess(water.RKS(xc="b3lyp"), refine=refine, report=True)[1]
    assert report.exact_builds == bool(thinned) == (refine == "auto")


@pytest.mark.parametrize("refine", [False, "auto"])
def test_integrals_of_the_user_are_shared(refine: Any, water: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    built = count(monkeypatch, df.DF, "build")
    mf = water.RKS(xc="b3lyp").density_fit()
    with_df = mf.with_df
    assert Calculation(mf, water).cheap(1).with_df is with_df
    mf.kernel(dm0=tracegrad_guess(mf, refine=refine))
    assert mf.with_df is with_df
    assert [d is with_df for d in built] == [True]


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("make", [lambda m: m.RKS(xc="b3lyp"), lambda m: m.RHF(), lambda m: m.UKS(xc="pbe")])
def test_a_number_bounds_the_cheap_builds(
    limit: int, make: Callable[[Any], Any], water: gto.Mole, monkeypatch: pytest.MonkeyPatch
) -> None:
    mf = make(water)
    exact = count(monkeypatch, type(mf), "get_veff")
    bare, refined = (tracegrad_guess(mf, start="reference", refine=r, report=True)[1] for r in (False, limit))
    # of Hartree-Fock with its integrals in memory, all builds are its own
    last_step = 1  # of a guess that is not refined
    assert refined.cheap_builds + refined.exact_builds == bare.cheap_builds + bare.exact_builds - last_step + limit
    assert 0 in (refined.cheap_builds, refined.exact_builds)
    assert exact == []


def test_more_cycles_come_nearer(formaldehyde: gto.Mole) -> None:
    mf = formaldehyde.RKS(xc="b3lyp").run()
    limits = (False, 2, 3)
    errors = [np.linalg.norm(tracegrad_guess(formaldehyde, refine=r) - mf.make_rdm1()) for r in limits]
    assert all(later < 0.8 * earlier for earlier, later in itertools.pairwise(errors)), errors


def test_auto_makes_one_exact_build_whose_parts_stay(water: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    mf = water.RKS(xc="b3lyp")
    exact = count(monkeypatch, type(mf), "get_veff")
    _, report = tracegrad_guess(mf, report=True)
    assert [m is mf for m in exact] == [True]
    assert report.exact_builds == 1
    eri, grids, coords = mf._eri, mf.grids, mf.grids.coords
    assert eri is not None
    assert coords is not None
    mf.kernel(dm0=mf.get_init_guess(key="tracegrad"))
    assert mf._eri is eri
    assert mf.grids is grids
    assert grids.coords is coords
    assert grids.level == 3


@pytest.mark.parametrize("missing", [-1.0, 0.5, 2.0])
def test_cheap_operator_gives_way_to_integrals_in_memory(
    missing: float, formaldehyde: gto.Mole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySCF's integrals fit beside ours, only in their place, or not at all; `missing` in units of what is held."""
    mf = formaldehyde.RKS(xc="b3lyp")
    calculation = Calculation(mf, formaldehyde)
    cheap = calculation.cheap(1)
    dm = mf.get_init_guess()
    while not cheap.grid._kept:
        before = cheap(dm)
    held = cheap.megabytes
    assert held > 1e-6 * cheap.with_df._cderi.nbytes > 0
    used = lambda: 100.0 + (0.0 if isinstance(cheap.with_df, OwnJK) else held)  # noqa: E731
    monkeypatch.setattr(lib, "current_memory", lambda: (used(), used()))
    mf.max_memory = (1e-6 * formaldehyde.nao**4 + 100.0 + (1.0 - missing) * held) / 0.95
    limit = mf.max_memory
    calculation.make_room(cheap)
    gave_way = isinstance(cheap.with_df, OwnJK)
    assert gave_way == (missing == 0.5)
    assert mf.max_memory == limit
    assert bool(cheap.grid._kept) != gave_way
    exact = calculation.exact_fock(dm)
    assert (mf._eri is not None) == (missing < 1.0)
    mf.grids.level, mf.grids.coords = 1, None
    assert np.abs(cheap(dm) - before).max() < 5e-4  # errors of the fit
    if gave_way:
        assert cheap.megabytes == 0.0
        assert np.abs(cheap(dm) - mf.get_fock(dm=dm)).max() < 1e-8
    assert exact.shape == before.shape


def test_a_refined_guess_is_as_good_where_it_gave_way(water: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count(monkeypatch, CheapFock, "give_way")
    fitted, report = tracegrad_guess(water.RKS(xc="b3lyp"), report=True)
    assert not calls
    assert not report.direct
    mf = water.RKS(xc="b3lyp")
    room = iter([False, True, *[True] * 99])  # at first the cheap operator is in the way
    monkeypatch.setattr(type(mf), "_is_mem_enough", lambda _: next(room))
    dm, report = tracegrad_guess(mf, report=True)
    assert len(calls) == 1
    assert (report.exact_builds, report.refined) == (1, True)
    assert np.abs(dm - fitted).max() < 1e-5
    mf.kernel(dm0=dm)
    assert (mf.converged, mf.cycles) == (True, 1)


@pytest.mark.parametrize("kind", ["UKS", "ROKS"])
def test_radical_with_little_memory(kind: str, cation: gto.Mole) -> None:
    mf = getattr(cation, kind)(xc="b3lyp")
    mf.kernel(dm0=mf.get_init_guess(key="minao"))
    cycles, energy = mf.cycles, mf.e_tot
    small = cation.copy()
    small.max_memory = 1
    mf = getattr(small, kind)(xc="b3lyp")
    dm, report = tracegrad_guess(mf, report=True)
    assert report.direct
    assert "fitting integrals beyond max_memory (1 MB) were not made" in report.reason
    assert report.refined
    mf.kernel(dm0=dm)
    assert mf.cycles <= min(2, cycles - 1)
    assert mf.e_tot == pytest.approx(energy, abs=1e-8)


def test_guess_leaves_the_settings_of_the_user(water: gto.Mole) -> None:
    mf = water.UKS(xc="pbe")
    mf.verbose, mf.max_cycle, mf.diis_space = 0, 7, 5
    before = {k: v for k, v in vars(mf).items() if k not in ("_eri", "grids", "init_guess_report", "opt")}
    tracegrad_guess(mf)
    assert mf.mol is water
    assert {k: vars(mf)[k] for k in before} == before


@pytest.mark.parametrize(("conv_tol", "exact_builds"), [(1e-5, 0), (1e-6, 0), (1e-9, 1), (1e-11, 1)])
def test_loose_threshold_makes_no_exact_build(conv_tol: float, exact_builds: int, water: gto.Mole) -> None:
    mf = water.RKS(xc="lda,vwn")
    mf.conv_tol = conv_tol
    assert tracegrad_guess(mf, report=True)[1].exact_builds == exact_builds


@pytest.mark.parametrize("kind", ["RHF", "UHF", "ROHF"])
@pytest.mark.parametrize("conv_tol", [1e-6, 1e-9])
def test_hartree_fock_in_memory_is_refined_by_its_own_operator(
    kind: str, conv_tol: float, cation: gto.Mole, water: gto.Mole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cheaper than integrals that are there: no fitting, no correction, and every build counted as exact."""
    mf = getattr(water if kind == "RHF" else cation, kind)()
    mf.conv_tol = conv_tol
    own = count(monkeypatch, type(mf), "get_jk")
    fitted = count(monkeypatch, df.DF, "build")
    dm, report = tracegrad_guess(mf, report=True)
    assert all(m is mf for m in own)
    assert (report.exact_builds, report.cheap_builds, fitted) == (len(own), 0, [])
    eri = mf._eri
    mf.kernel(dm0=dm)
    assert mf._eri is eri
    reference = getattr(mf.mol, kind)().run(verbose=0)
    assert mf.e_tot == pytest.approx(reference.e_tot, abs=1e-6 if conv_tol == 1e-6 else 1e-8)
    assert mf.cycles < 0.5 * reference.cycles


def test_hartree_fock_without_room_for_its_integrals_is_fitted(water: gto.Mole) -> None:
    mf = water.RHF()
    mf._is_mem_enough = lambda: False
    _, report = tracegrad_guess(mf, report=True)
    assert report.exact_builds == 1
    assert report.cheap_builds > 3
    assert mf._eri is None


def test_fitted_hartree_fock_has_nothing_to_correct(water: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    mf = water.RHF().density_fit()
    veff = count(monkeypatch, type(mf), "get_veff")
    dm, report = tracegrad_guess(mf, report=True)
    assert (veff, report.cheap_builds) == ([], 0)
    assert report.exact_builds > 3
    mf.kernel(dm0=dm)
    assert mf.cycles <= 2


# two parallel water molecules that share a hole: a step without DIIS makes the gradient larger
DIMER = "O 0 0 0; H 0 0 0.96; H 0.93 0 -0.24; O 0 0.1 3; H 0.76 0.4 3.5; H -0.76 0.4 3.5"


def test_a_narrow_gap_is_converged_tighter(monkeypatch: pytest.MonkeyPatch) -> None:
    """PySCF makes a step without DIIS at the end of its SCF, and asks for convergence after it."""
    mol = gto.M(atom=DIMER, charge=1, spin=1, basis=BASIS, verbose=0)
    mf = mol.UKS(xc="b3lyp")
    made = count(monkeypatch, dft.Grids, "build")
    dm, report = tracegrad_guess(mf, report=True)
    schedule = schedule_for(Calculation(mf, mol), GuessOptions(), allow_exact=True)
    assert schedule is not None
    assert report.gradient < 0.1 * schedule.after_exact
    assert [bool(grids.atom_grid) for grids in made if grids is not mf.grids][:2] == [True, False]
    gradients: list[float] = []
    mf.callback = lambda envs: gradients.append(envs["norm_gorb"])
    mf.kernel(dm0=dm)
    assert mf.converged
    assert gradients[0] < 5e-6  # 3e-5 without, 4e-4 a cycle later with the thin grid


def test_ozone_takes_one_cycle() -> None:
    """Its gap is 0.15 hartree, and PySCF's step without DIIS enlarges tenfold what is left: four cycles at 1e-5."""
    mol = gto.M(atom="O 0 0 0; O 0 1.088 0.67; O 0 -1.088 0.67", basis=BASIS, verbose=0)
    mf = mol.RKS(xc="b3lyp")
    gradients: list[float] = []
    mf.callback = lambda envs: gradients.append(envs["norm_gorb"])
    mf.kernel(dm0=mf.get_init_guess(key="tracegrad"))
    assert (mf.converged, mf.cycles) == (True, 1)
    assert gradients[0] < 5e-6


def test_the_gap_is_that_of_the_narrower_spin(cation: gto.Mole) -> None:
    mf = cation.UHF().run(verbose=0)
    calculation = Calculation(mf, cation)
    state = calculation.state(mf.get_fock())
    gaps = [e[o == 0].min() - e[o > 0].max() for e, o in zip(mf.mo_energy, mf.mo_occ, strict=True)]
    assert state.gap == pytest.approx(min(gaps), abs=1e-4)


OH = "O 0 0 0; H 0 0 0.97"


@pytest.mark.parametrize("kind", ["RHF", "RKS", "UHF", "UKS", "ROHF", "ROKS"])
@pytest.mark.parametrize("conv_tol", [1e-6, 1e-9])
def test_gradient_is_below_the_tolerance(kind: str, conv_tol: float, cation: gto.Mole, water: gto.Mole) -> None:
    """That of the report, and, near it, the gradient of the user's own Fock matrix at the density."""
    mf = getattr(water if kind in ("RHF", "RKS") else cation, kind)()
    mf.conv_tol = conv_tol
    schedule = schedule_for(Calculation(mf, mf.mol), GuessOptions(), allow_exact=True)
    assert schedule is not None
    dm, report = tracegrad_guess(mf, report=True)
    assert 0 < report.gradient < (schedule.after_exact if schedule.exact else schedule.floor)
    overlap = mf.get_ovlp()
    if kind.startswith("RO"):
        error = np.linalg.norm(mf.get_grad(*_orbitals(mf, dm)))
    else:
        (error,) = diis_errors([Pair(np.asarray(dm), np.asarray(mf.get_fock(dm=dm)))], overlap)
    assert error < (1e-4 if schedule.exact else 3e-3)


def _orbitals(mf: Any, dm: Any) -> tuple[Any, Any]:
    return mf.eig(mf.get_fock(dm=dm), mf.get_ovlp())[1], mf.get_occ(*mf.eig(mf.get_fock(dm=dm), mf.get_ovlp()))


@pytest.mark.parametrize("kind", ["ROHF", "ROKS"])
@pytest.mark.parametrize("refine", [False, 3, "auto"])
def test_restricted_radical(kind: str, refine: Any, cation: gto.Mole) -> None:
    """Both spin densities are projectors, and the lower spin's orbitals are among the higher one's."""
    dm = tracegrad_guess(getattr(cation, kind)(), refine=refine, strict=True)
    s = cation.intor("int1e_ovlp")
    assert [np.trace(d @ s) for d in dm] == pytest.approx([5, 4], abs=1e-9)
    assert max(np.abs(d @ s @ d - d).max() for d in dm) < 1e-9
    assert np.abs(dm[0] @ s @ dm[1] - dm[1]).max() < 1e-9


@pytest.mark.parametrize("kind", ["UHF", "UKS"])
def test_unrestricted_singlet_breaks_its_symmetry_where_pyscf_does(kind: str, water: gto.Mole) -> None:
    mf = getattr(water, kind)()
    for breaksym in (0, 1):
        mf.init_guess_breaksym = breaksym
        minao = mf.get_init_guess(key="minao")
        dm, report = tracegrad_guess(mf, refine=False, report=True)
        assert (np.abs(minao[0] - minao[1]).max() > 1e-4) == bool(breaksym)
        assert (np.abs(dm[0] - dm[1]).max() > 1e-4) == bool(breaksym)
        assert report.route == ("reference" if breaksym else "network")


TICL4 = "Ti 0 0 0; Cl 1.25 1.25 1.25; Cl -1.25 -1.25 1.25; Cl -1.25 1.25 -1.25; Cl 1.25 -1.25 -1.25"


@pytest.mark.slow
def test_overshooting_reference_is_refused_alone_and_cured_by_cycles() -> None:
    mf = gto.M(atom=TICL4, basis=BASIS, verbose=0).RKS(xc="b3lyp")
    with pytest.raises(OutsideDomain, match="overshoot"):
        tracegrad_guess(mf, refine=False, strict=True)
    dm, report = tracegrad_guess(mf, strict=True, report=True)
    assert (report.route, report.refined) == ("reference", True)
    minao = mf.copy().run()
    mf.kernel(dm0=dm)
    assert mf.e_tot == pytest.approx(minao.e_tot, abs=1e-8)
    assert mf.cycles < minao.cycles


@pytest.mark.parametrize("error", [RuntimeError, KeyError, np.linalg.LinAlgError, NotImplementedError])
@pytest.mark.parametrize("kind", [dft.RKS, dft.UKS])
def test_what_pyscf_raises_inside_becomes_minao(
    error: type[Exception], kind: Any, water: gto.Mole, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error("no integrals today")

    monkeypatch.setattr(df.DF, "get_jk", broken)
    mf = kind(water)
    mf.verbose = 2
    dm = mf.get_init_guess(key="tracegrad")
    said = "".join(capfd.readouterr())
    assert f"tracegrad guess: {error.__name__}: " in said
    assert "no integrals today" in said
    assert "Using the minao guess instead" in said
    assert np.array_equal(dm, mf.get_init_guess(key="minao"))
    assert mf.init_guess_report.route == "minao"
    for call in (lambda: tracegrad_guess(mf, strict=True), lambda: mf.get_init_guess(key="tracegrad", strict=True)):
        with pytest.raises(OutsideDomain, match="no integrals today"):
            call()


def test_interrupt_is_not_swallowed(water: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(df.DF, "get_jk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracegrad_guess(dft.UKS(water))
