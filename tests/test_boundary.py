"""A guess never ends a calculation: whatever is raised in it becomes one warning, and the next best guess serves."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import dft, gto, scf

from pyscf_tracegrad import OutsideDomain, guess, starts, tracegrad_guess
from pyscf_tracegrad.calculation import Calculation

ROOT = Path(__file__).parent.parent
ANY = (
    MemoryError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
    ImportError,
    ZeroDivisionError,
    StopIteration,
)


def raising(error: BaseException) -> Any:
    def raise_it(*_: Any, **__: Any) -> Any:
        raise error

    return raise_it


def fluoride(kind: str = "RKS", verbose: int = 2, **keywords: Any) -> Any:
    mol = gto.M(atom="H 0 0 0; F 0 0 0.92", basis="sto-3g", verbose=0)
    mf = getattr(mol, kind)(**keywords)
    mf.verbose, mf.stdout = verbose, io.StringIO()
    return mf


def said(mf: Any) -> str:
    return str(mf.stdout.getvalue())


@pytest.mark.parametrize("error", ANY)
def test_any_exception_gives_minao_and_one_warning(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess, "choose_start", raising(error("out of luck")))
    mf = fluoride("RHF")
    mf.init_guess = "tracegrad"
    mf.kernel()
    assert mf.converged
    assert said(mf).count("WARN") == 1
    assert f"{error.__name__}: out of luck" in said(mf)
    assert "Using the minao guess instead" in said(mf)
    assert "Traceback" not in said(mf)
    assert mf.init_guess_report.route == "minao"
    assert "out of luck" in mf.init_guess_report.reason
    by_hand = fluoride("RHF")
    assert np.array_equal(tracegrad_guess(by_hand), by_hand.get_init_guess(key="minao"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_to_end_a_calculation_ends_it(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess, "choose_start", raising(error()))
    with pytest.raises(error):
        fluoride("RHF").get_init_guess(key="tracegrad")


@pytest.mark.parametrize("error", [MemoryError, TypeError])
def test_strict_raises_from_the_cause(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    cause = error("out of luck")
    monkeypatch.setattr(guess, "choose_start", raising(cause))
    for call in (lambda m: tracegrad_guess(m, strict=True), lambda m: m.get_init_guess(key="tracegrad", strict=True)):
        with pytest.raises(OutsideDomain, match="out of luck") as raised:
            call(fluoride("RHF"))
        assert raised.value.__cause__ is cause


def test_the_traceback_is_there_at_verbose_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess, "choose_start", raising(IndexError("out of luck")))
    mf = fluoride("RHF", verbose=5)
    mf.get_init_guess(key="tracegrad")
    assert "Traceback" in said(mf)
    assert "test_boundary.py" in said(mf)


@pytest.mark.parametrize("error", [*ANY, OSError])
def test_a_network_that_fails_gives_the_reference(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_network", raising(error("no luck")))
    mf = fluoride(xc="lda")
    mf.get_init_guess(key="tracegrad")
    report = mf.init_guess_report
    assert (report.route, report.refined, report.exact_builds) == ("reference", True, 1)
    assert said(mf).count("WARN") == 1
    assert f"{error.__name__}: no luck" in said(mf)
    assert "Using the reference Fock matrix instead" in said(mf)
    assert "no luck" in report.reason
    assert report.seconds["network, given up"] >= 0
    with pytest.raises(OutsideDomain, match="no luck"):
        mf.get_init_guess(key="tracegrad", strict=True)


def test_builds_of_a_network_that_fails_are_counted(water: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyscf_tracegrad import pretrained

    mf = water.RKS(xc="b3lyp")
    plain = tracegrad_guess(mf, start="reference", refine=1, report=True)[1]
    monkeypatch.setattr(pretrained, "_apply", raising(MemoryError()))
    report = tracegrad_guess(mf, refine=1, report=True)[1]
    assert report.route == "reference"
    assert report.cheap_builds == plain.cheap_builds + 3  # F0 and two steps, for nothing


def test_what_was_spent_on_a_guess_that_fails_is_in_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess, "check_density", raising(ValueError("too late")))
    mf = fluoride(xc="lda")
    mf.get_init_guess(key="tracegrad")
    report = mf.init_guess_report
    assert report.route == "minao"
    assert report.cheap_builds > 3
    assert report.exact_builds == 1
    assert report.total > 0


# What is the user's own.


def users_get_veff(*_: Any, **__: Any) -> Any:
    raise ValueError("my own mistake")


class UsersRKS(dft.rks.RKS):
    def get_veff(self, *_: Any, **__: Any) -> Any:
        raise ValueError("my own mistake")


def by_assignment(mf: Any) -> Any:
    mf.get_veff = users_get_veff
    return mf


def by_class(mf: Any) -> Any:
    mine = UsersRKS(mf.mol, xc=mf.xc)
    mine.verbose, mine.stdout = mf.verbose, mf.stdout
    return mine


def by_newton(mf: Any) -> Any:
    return by_assignment(mf).newton()


@pytest.mark.parametrize("make", [by_assignment, by_class, by_newton])
def test_an_exception_of_the_users_own_method_is_told_as_theirs(make: Any) -> None:
    mf = make(fluoride(xc="lda"))
    dm = mf.get_init_guess(key="tracegrad")
    assert "your mf.get_veff raised ValueError: my own mistake. Using the minao guess instead" in said(mf)
    assert said(mf).count("WARN") == 1
    assert np.array_equal(dm, mf.get_init_guess(key="minao"))


def test_an_exception_below_the_users_method_is_told_as_theirs() -> None:
    """What they wrap may be PySCF's."""
    mf = fluoride(xc="lda")
    original = mf.get_veff
    mf.get_veff = lambda mol, dm, *_, **__: original(mol, dm[:2])
    mf.get_init_guess(key="tracegrad")
    assert "your mf.get_veff raised" in said(mf)


def test_an_exception_of_pyscf_is_not_told_as_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's method that is not in the way of it is not blamed."""
    mf = fluoride(xc="lda")
    mf.energy_nuc = lambda: 0.0
    monkeypatch.setattr(Calculation, "cheap", raising(KeyError("basis")))
    mf.get_init_guess(key="tracegrad")
    assert "your" not in said(mf)
    assert "KeyError: 'basis'" in said(mf)


def test_no_nucleus_at_all_is_no_division_by_zero() -> None:
    """Ghosts and electrons; their nuclei are point charges elsewhere."""
    mol = gto.M(
        atom="ghost-H 0 0 0; ghost-H 0 0 0.74",
        basis={"ghost-H": gto.basis.load("cc-pvdz", "H")},
        charge=-2,
        verbose=0,
    )
    for refine in (False, "auto"):
        dm, report = tracegrad_guess(scf.RHF(mol), refine=refine, report=True)
        assert dm.shape == (mol.nao, mol.nao)
        assert "ZeroDivision" not in report.reason


# Without torch, or the like.


def python(code: str, **modules: str) -> str:
    """Output of a script in a process where these modules are texts of ours."""
    head = "import sys, importlib.abc, importlib.util\n"
    head += f"TEXTS = {modules!r}\n"
    head += (
        "class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return importlib.util.spec_from_loader(name, self) if name in TEXTS else None\n"
        "    def exec_module(self, module):\n"
        "        exec(TEXTS[module.__name__], vars(module))\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    out = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    return out.stdout


RUN = """
from pyscf import gto
import pyscf_tracegrad
mol = gto.M(atom="H 0 0 0; F 0 0 0.92", basis="def2-svp", verbose=2)
for mf in (mol.RHF(), mol.RKS(xc="pbe"), mol.UKS(xc="b3lyp"), mol.RKS(xc="b3lyp")):
    mf.stdout = sys.stdout
    mf.init_guess = "tracegrad"
    dm = mf.get_init_guess(key=mf.init_guess, refine=2)
    print(mf.init_guess_report.route, "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("torch", "raise ImportError('no torch here')"),
        ("torch", "raise OSError('libcudart.so.12: cannot open')"),
        ("e3nn", "raise ImportError('no e3nn here')"),
    ],
)
def test_a_missing_or_broken_library_gives_the_reference(module: str, text: str) -> None:
    """And nobody looks for it where the network is not asked."""
    lines = python(RUN.replace("refine=2)", "refine='auto')"), **{module: text}).splitlines()
    assert lines[:3] == ["reference False"] * 3
    warnings = [line for line in lines if "WARN" in line]
    assert len(warnings) == 1
    assert text.split("'")[1] in warnings[0]
    assert "Using the reference Fock matrix instead" in warnings[0]
    assert lines[-1].startswith("reference")


def test_a_package_that_cannot_be_imported_gives_minao(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lines in PySCF's config file, whatever its import raises."""
    from pyscf_tracegrad.autoload import install

    install(tmp_path / "config.py", default=True)
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(tmp_path / "config.py"))
    out = python(
        "from pyscf import gto\n"
        "mf = gto.M(atom='H 0 0 0; H 0 0 0.8', basis='sto-3g', verbose=2).RHF()\n"
        "mf.stdout = sys.stdout\n"
        "mf.kernel()\n"
        "print(mf.converged, mf.init_guess)\n",
        pyscf_tracegrad="raise RuntimeError('broken by an update')",
    )
    assert "RuntimeError: broken by an update" in out
    assert "Using the minao guess instead" in out
    assert out.splitlines()[-1] == "True tracegrad"
