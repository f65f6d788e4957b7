"""Functionals are recognised by what they give, not by what they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import gto
from pyscf.dft import libxc, numint, xcfun

from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.functional import Functional

PARTS = ".2*HF + .08*SLATER + .72*B88, .81*LYP + .19*VWN"


def b3lyp_by_hand(_: str, rho: Any, *args: Any, **keywords: Any) -> Any:
    return libxc.eval_xc("b3lypg", rho, *args, **keywords)


def pbe_by_hand(_: str, rho: Any, *args: Any, **keywords: Any) -> Any:
    return libxc.eval_xc("pbe,pbe", rho, *args, **keywords)


def non_local(mf: Any) -> None:
    mf.nlc = "vv10"
    mf.nlcgrids.atom_grid = (10, 14)


@pytest.mark.parametrize(
    "xc",
    ["b3lyp", " B3LYP ", "B3lypG", "1*b3lyp", "b3lyp-d3bj", "hyb_gga_xc_b3lyp", "402", PARTS + "3", PARTS + "RPA"],
)
@pytest.mark.parametrize("spins", [1, 2])
def test_names_of_b3lyp(xc: str, spins: int, water: gto.Mole) -> None:
    assert Functional.of(water.RKS(xc=xc)).is_named("b3lyp", spins)


@pytest.mark.parametrize("xc", ["b3lyp5", PARTS, "b3pw91", "blyp", "camb3lyp", "tpss", "lda,vwn", "hf", "1.01*b3lyp"])
def test_names_of_others(xc: str, water: gto.Mole) -> None:
    assert not Functional.of(water.RKS(xc=xc)).is_named("b3lyp")
    assert Functional.of(water.RKS(xc=xc)).is_named(xc)


def test_hartree_fock_is_one_whatever_the_class(water: gto.Mole) -> None:
    for mf in (water.RHF(), water.RKS(xc="HF"), water.UKS(xc=" hf,"), water.GHF()):
        assert Functional.of(mf).is_named("hf")
    assert not Functional.of(water.RKS(xc="0.5*hf")).is_named("hf")


@pytest.mark.parametrize("kind", ["RKS", "GKS"])
def test_define_xc_is_seen(kind: str, water: gto.Mole) -> None:
    mf = getattr(water, kind)(xc="b3lyp")
    mf.define_xc_(b3lyp_by_hand, "GGA", hyb=0.2)
    assert Functional.of(mf).is_named("b3lyp", 2)
    for pbe in (pbe_by_hand, "pbe,pbe"):
        mf = getattr(water, kind)(xc="b3lyp")
        mf.define_xc_(pbe, "GGA")
        found = Functional.of(mf)
        assert not found.is_named("b3lyp")
        assert found.is_named("pbe", 2)
        assert found.notes == ()


def test_exchange_that_pyscf_does_not_make_is_not_made_here(water: gto.Mole) -> None:
    """PySCF asks `xc`, not what `define_xc_` was told, whether there is exact exchange."""
    mf = water.RKS(xc="pbe")
    mf.define_xc_("b3lyp", "GGA")
    assert Functional.of(mf).hybrid == 0
    assert not Functional.of(mf).is_named("b3lyp")


def test_omega_nlc_and_xcfun_are_seen(water: gto.Mole) -> None:
    mf = water.RKS(xc="camb3lyp")
    assert Functional.of(mf).is_named("camb3lyp")
    mf.omega = 0.4
    assert Functional.of(mf).omega == 0.4
    assert not Functional.of(mf).is_named("camb3lyp")
    mf = water.RKS(xc="b3lyp")
    mf.nlc = "vv10"
    assert not Functional.of(mf).is_named("b3lyp")
    assert "non-local correlation" in Functional.of(mf).notes[0]
    mf = water.RKS(xc="b3lyp5")
    mf._numint.libxc = xcfun
    assert Functional.of(mf).is_named("b3lyp5")


@pytest.mark.parametrize("kind", ["RKS", "UKS"])
@pytest.mark.parametrize("how", ["function", "string", "omega"])
def test_the_cheap_operator_has_the_users_functional(kind: str, how: str, water: gto.Mole) -> None:
    mf = getattr(water, kind)(xc="camb3lyp" if how == "omega" else "b3lyp")
    mf.grids.level = 1
    if how == "omega":
        mf.omega = 0.6
    else:
        mf.define_xc_(pbe_by_hand if how == "function" else "pbe,pbe", "GGA")
    dm = mf.get_init_guess(key="minao")
    ours = CheapFock(water, Functional.of(mf))(dm)
    assert np.abs(ours - mf.density_fit().get_fock(dm=dm)).max() < 1e-4
    other = CheapFock(water, mf.xc)(dm)
    assert np.abs(ours - other).max() > 1e-3


class Learned(numint.NumInt):
    """A functional that this package cannot know."""


def test_a_numint_of_others_is_told_in_a_note(water: gto.Mole) -> None:
    mf = water.RKS(xc="b3lyp")
    mf._numint = Learned()
    found = Functional.of(mf)
    assert not found.is_named("b3lyp")
    mf.init_guess = "tracegrad"
    mf.max_cycle = 1
    mf.kernel()
    assert mf.init_guess_report.route == "reference"
    assert "know nothing of test_functional.Learned and evaluate 'b3lyp' as PySCF does" in mf.init_guess_report.reason


@pytest.mark.parametrize(
    ("change", "route"),
    [
        (lambda _: None, "network"),
        (lambda mf: setattr(mf, "xc", "B3LYPG "), "network"),
        (lambda mf: setattr(mf, "xc", "b3lyp5"), "reference"),
        (lambda mf: mf.define_xc_(b3lyp_by_hand, "GGA", hyb=0.2), "network"),
        (lambda mf: mf.define_xc_(pbe_by_hand, "GGA"), "reference"),
        (lambda mf: mf.define_xc_("pbe,pbe", "GGA"), "reference"),
        (non_local, "reference"),
    ],
)
def test_the_network_serves_its_own_functional_alone(change: Any, route: str, water: gto.Mole) -> None:
    mf = water.RKS(xc="b3lyp")
    change(mf)
    mf.init_guess = "tracegrad"
    mf.kernel()
    assert (mf.converged, mf.init_guess_report.route) == (True, route)
    assert mf.cycles <= 2


@pytest.mark.parametrize(("xc", "omega"), [("nosuch", None), ("b3lyp", 0.3)])
def test_what_pyscf_cannot_evaluate_is_pyscfs_own_error(xc: str, omega: float | None, water: gto.Mole) -> None:
    raised = []
    for key in ("minao", "tracegrad"):
        mf = water.RKS(xc=xc)
        mf.init_guess = key
        if omega is not None:
            mf.omega = omega
        with pytest.raises((KeyError, RuntimeError)) as found:
            mf.kernel()
        raised.append((found.type, str(found.value)))
    assert raised[0] == raised[1]


def test_b3lyp_of_the_config_file_is_not_the_labels(tmp_path: Path) -> None:
    config = tmp_path / "pyscf_conf.py"
    config.write_text("B3LYP_WITH_VWN5 = True\n")
    code = """
from pyscf import gto
from pyscf_tracegrad.functional import Functional
mol = gto.M(atom="He", verbose=0)
print(*(Functional.of(mol.RKS(xc=xc)).is_named("b3lyp") for xc in ("b3lyp", "b3lyp5", "b3lypg")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYSCF_CONFIG_FILE": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["False", "False", "True"]), done.stderr


def test_an_unknown_name_raises_pyscfs_error() -> None:
    with pytest.raises(KeyError):
        Functional.named("nosuch")
