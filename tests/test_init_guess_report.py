"""`mf.init_guess_report`: of the last run of an object, what it says, and what the log says meanwhile."""

from __future__ import annotations

import inspect
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from pyscf import gto
from pyscf.scf import dhf, ghf, hf, rohf, uhf

from pyscf_tracegrad import guess, register, tracegrad_guess, unregister
from pyscf_tracegrad.report import GuessReport
from pyscf_tracegrad.scf import PYSCF_KEYWORDS


@pytest.fixture(autouse=True)
def _as_registered() -> Iterator[None]:
    register()
    yield
    register()


@pytest.fixture
def mol() -> gto.Mole:
    return gto.M(atom="H 0 0 0; F 0 0 0.92", basis="sto-3g", verbose=0)


def afresh(mf: Any) -> Any:
    """The object without the orbitals that its next run would start from."""
    mf.mo_coeff = mf.mo_occ = None
    return mf


KINDS = {
    "RHF": lambda mol: mol.RHF(),
    "UHF": lambda mol: mol.UHF(),
    "ROHF": lambda mol: mol.ROHF(),
    "GHF": lambda mol: mol.GHF(),
    "RKS": lambda mol: mol.RKS(xc="lda"),
    "fitted": lambda mol: mol.RHF().density_fit(),
    "newton": lambda mol: mol.RHF().newton(),
    "fitted newton": lambda mol: mol.RHF().density_fit().newton(),
    "symmetry": lambda mol: gto.M(atom=mol._atom, unit="bohr", basis="sto-3g", symmetry=True, verbose=0).RHF(),
    "x2c": lambda mol: mol.RHF().x2c(),
    "solvent": lambda mol: mol.RHF().PCM(),
    "DHF": lambda _: gto.M(atom="H 0 0 0; H 0 0 0.8", basis="sto-3g", verbose=0).DHF(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_of_the_last_run(kind: str, mol: gto.Mole) -> None:
    mf = KINDS[kind](mol)
    mf.max_cycle = 2
    assert mf.init_guess_report is None
    mf.init_guess = "tracegrad"
    mf.kernel()
    assert isinstance(mf.init_guess_report, GuessReport)
    dm = mf.make_rdm1()
    mf.init_guess = "minao"
    afresh(mf).kernel()
    assert mf.init_guess_report is None
    mf.init_guess = "tracegrad"
    afresh(mf).kernel()
    assert mf.init_guess_report is not None
    afresh(mf).kernel(dm0=dm)
    assert mf.init_guess_report is None


def test_a_density_by_hand_is_not_asked_of_the_object(mol: gto.Mole) -> None:
    mf = mol.RHF()
    mf.init_guess = "tracegrad"
    mf.kernel()
    dm, report = tracegrad_guess(mf, report=True)
    assert report.refined
    afresh(mf).kernel(dm0=dm)
    assert mf.init_guess_report is None


def test_a_run_that_goes_on_from_its_orbitals_has_none(mol: gto.Mole) -> None:
    mf = mol.RHF()
    mf.init_guess = "tracegrad"
    mf.kernel()
    mf.kernel()
    assert mf.init_guess_report is None


def test_reset_and_scanners_drop_it(mol: gto.Mole) -> None:
    mf = mol.RHF()
    mf.init_guess = "tracegrad"
    mf.kernel()
    mf.reset()
    assert mf.init_guess_report is None
    scanner = mol.RKS(xc="lda").as_scanner()
    scanner.init_guess = "tracegrad"
    scanner(mol)
    assert scanner.init_guess_report.route == "reference"
    scanner("H 0 0 0; F 0 0 0.95")  # from the density before
    assert scanner.init_guess_report is None


def test_looking_at_the_settings_does_not_drop_it(mol: gto.Mole) -> None:
    mf = mol.RHF()
    mf.init_guess = "tracegrad"
    mf.kernel()
    mf.stdout = io.StringIO()
    mf.dump_flags(verbose=4)
    assert "initial guess = tracegrad" in mf.stdout.getvalue()
    assert mf.init_guess_report is not None
    mf.copy().kernel()
    assert mf.init_guess_report is not None  # a copy is another object


def test_one_electron_has_none() -> None:
    mf = gto.M(atom="H 0 0 0", spin=1, basis="sto-3g", verbose=0).RHF()
    mf.init_guess = "tracegrad"
    mf.kernel()
    assert mf.init_guess_report is None


def test_the_wrappers_stand_aside_after_unregister(mol: gto.Mole) -> None:
    names = ("get_init_guess", "dump_flags", "reset")
    unregister()
    originals = [vars(hf.SCF)[name] for name in names]
    assert "init_guess_report" not in vars(hf.SCF)
    register()
    register()
    assert [vars(hf.SCF)[name] for name in names] != originals
    mf = mol.RHF()
    mf.get_init_guess(key="tracegrad")
    kept = [getattr(mf, name) for name in names[1:]]
    unregister()
    assert [vars(hf.SCF)[name] for name in names] == originals
    for method in kept:
        method()
    assert "init_guess_report" in vars(mf)


# What it says.


def test_it_goes_into_json(water: gto.Mole) -> None:
    report = tracegrad_guess(water.RKS(xc="b3lyp"), report=True)[1]
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["route"] == "network"
    assert plain["model"] == "shipped"
    assert plain["total"] == pytest.approx(sum(report.seconds.values()))
    assert plain["signals"]["gap"] == pytest.approx(report.gate["gap"])
    assert report.total == sum(report.seconds.values())
    assert "loading" in report.seconds
    assert GuessReport("minao").to_dict()["gradient"] is None
    assert math.isnan(GuessReport("minao").gradient)


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (
            GuessReport("reference", refined=True, cheap_builds=12, exact_builds=1, seconds={"a": 0.25, "b": 0.1}),
            "reference Fock matrix, refined: 12 cheap and 1 exact Fock builds, 0.35 s",
        ),
        (
            GuessReport("network", "native", cheap_builds=4, notes=("said elsewhere",)),
            "network: 4 cheap and 0 exact Fock builds, 0.00 s",
        ),
        (
            GuessReport("network", "fock"),
            "network (its correction carried over): 0 cheap and 0 exact Fock builds, 0.00 s",
        ),
        (GuessReport("minao"), "PySCF's minao: 0 cheap and 0 exact Fock builds, 0.00 s"),
    ],
)
def test_its_line_is_for_a_reader_of_a_log(report: GuessReport, line: str) -> None:
    assert str(report) == line


def logged(verbose: int, mol: gto.Mole, **keywords: Any) -> str:
    mf = mol.RKS(xc="lda")
    mf.verbose, mf.stdout = verbose, io.StringIO()
    mf.get_init_guess(key="tracegrad", **keywords)
    return str(mf.stdout.getvalue())


def test_the_log_says_what_is_done_while_it_is_done(mol: gto.Mole) -> None:
    assert logged(3, mol) == ""
    text = logged(4, mol)
    order = ["reference Fock matrix\n", "cheap SCF cycles\n", "one exact Fock build\n", "Initial guess from tracegrad:"]
    places = [text.index(line) for line in order]
    assert places == sorted(places)
    assert "F_ref" not in text
    assert "another basis or functional" not in text
    assert "wall time" not in text
    text = logged(5, mol)
    for stage in ("set-up", "F0", "G", "cheap cycles", "exact build"):
        assert f"wall time for tracegrad guess, {stage}" in text
    assert "another basis or functional" in text


def test_what_to_cite_is_said_once(mol: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess, "_CITE", iter(["tracegrad guess: please cite us"]))
    assert "please cite" not in logged(3, mol)
    assert "please cite us" in logged(4, mol)
    assert "please cite" not in logged(4, mol)


# Keywords.


def test_unknown_keywords_are_refused_by_name(mol: gto.Mole) -> None:
    known = "fragments, model, refine, report, spins, stable, start, strict, transfer"
    with pytest.raises(TypeError, match=f"no option 'refin'; it has {known}"):
        mol.RHF().get_init_guess(key="tracegrad", refin=False)


def test_pyscfs_own_keywords_pass(mol: gto.Mole) -> None:
    keywords = dict.fromkeys(PYSCF_KEYWORDS - {"s1e"})
    assert mol.UHF().get_init_guess(key="tracegrad", s1e=mol.intor("int1e_ovlp"), **keywords).shape == (2, 6, 6)


def test_every_keyword_of_pyscfs_guesses_is_known() -> None:
    classes = (hf.SCF, hf.RHF, uhf.UHF, rohf.ROHF, ghf.GHF, dhf.DHF)
    methods = [getattr(c, name) for c in classes for name in dir(c) if name.startswith(("init_guess_by", "get_init_g"))]
    modules = (hf, uhf, rohf, ghf)
    methods += [getattr(m, name) for m in modules for name in dir(m) if name.startswith("init_guess_by")]
    assert len(methods) > 30
    names = {
        name
        for method in methods
        for name, parameter in inspect.signature(inspect.unwrap(method)).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    assert names - {"self", "mol", "mf", "key", "chkfile_name"} <= PYSCF_KEYWORDS


def test_a_run_with_a_keyword_that_nobody_knows_goes_on(mol: gto.Mole) -> None:
    """PySCF's kernel takes any keyword and hands it to the guess: what PySCF ignores must not end a run."""
    mf = mol.RHF()
    mf.verbose, mf.stdout = 2, io.StringIO()
    mf.init_guess = "tracegrad"
    mf.kernel(refin=False)
    assert mf.converged
    assert "no option 'refin'" in mf.stdout.getvalue()
    assert mf.init_guess_report.route == "reference"
    afresh(mf).kernel(refine=False)
    assert not mf.init_guess_report.refined


def test_the_report_comes_with_the_density_on_request(mol: gto.Mole) -> None:
    for kind in ("RHF", "UHF", "ROHF", "GHF"):
        mf = getattr(mol, kind)()
        dm, report = mf.get_init_guess(key="tracegrad", report=True)
        assert report is mf.init_guess_report
        assert dm.shape == mf.get_init_guess(key="tracegrad", report=False).shape
    mf.verbose, mf.stdout = 6, io.StringIO()
    with pytest.raises(TypeError, match=r"read mf\.init_guess_report"):
        mf.get_init_guess(key="tracegrad", report=True)


# The density of a molecule, whose class is not known.


@pytest.mark.parametrize("spin", [0, 2])
@pytest.mark.parametrize("kind", ["RHF", "ROHF", "UHF", "RKS", "ROKS", "UKS"])
@pytest.mark.parametrize("wrap", ["plain", "density_fit", "newton"])
def test_the_density_of_a_molecule_starts_every_class_of_its_shape(kind: str, spin: int, wrap: str) -> None:
    if spin and kind in ("RHF", "RKS"):
        pytest.skip("closed shells only")
    mol = gto.M(atom="O 0 0 0; O 0 0 1.2" if spin else "H 0 0 0; F 0 0 0.92", basis="sto-3g", spin=spin, verbose=0)
    dm = tracegrad_guess(mol)
    assert dm.shape == ((2, mol.nao, mol.nao) if spin else (mol.nao, mol.nao))
    assert hasattr(dm, "mo_coeff") == (not spin)
    mf = getattr(mol, kind)()
    if "KS" in kind:
        mf.xc = "lda"
    mf = mf if wrap == "plain" else getattr(mf, wrap)()
    energy = mf.kernel(dm0=dm)
    assert mf.converged
    fresh = afresh(mf.copy())
    fresh.init_guess = "minao"
    assert energy == pytest.approx(fresh.kernel(), abs=1e-7)
