"""Every SCF class and option of the benchmark: who served it, with the energy of minao in no more cycles.

What is expected stands in tables here, by hand; a case that is new in `CASES` must be added.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from pyscf import scf

from pyscf_tracegrad import OutsideDomain, tracegrad_guess
from training.bench.cases import CASES, Case
from training.bench.classes import run_case
from training.bench.common import Result

# Another basis, functional or Hamiltonian than the network's: cheap cycles start from F_ref there.
OTHER_THEORY = (
    "option: PCM()",
    "option: ddCOSMO()",
    "option: SMD()",
    "class: RHF",
    "class: GHF, closed shell",
    "option: x2c()",
    "option: sfx2c1e()",
    "option: point charges (qmmm)",
    "option: electric field in get_hcore",
    "option: linearly dependent basis",
    "option: remove_linear_dep_",
    "basis: sto-3g",
    "basis: 6-31g*",
    "basis: 6-311+g**",
    "basis: cc-pvdz",
    "basis: aug-cc-pvdz",
    "basis: def2-svpd",
    "basis: def2-tzvp",
    "basis: def2-svp, cart=True",
    "basis: 6-31g*, cart=True",
    "basis: mixed: O def2-tzvp, else def2-svp",
    "basis: mixed: H 6-31g*, else cc-pvdz",
    "basis: ghost atom",
    "functional: svwn",
    "functional: pbe",
    "functional: pbe0",
    "functional: hf",
    "functional: tpss",
    "functional: m062x",
    "functional: wb97x",
    "functional: camb3lyp",
    "functional: wb97m_v with VV10, water",
)
# The network's own level of theory.
NATIVE = (
    "class: RKS",
    "class: GKS, closed shell",
    "class: RKS, one electron pair (H2)",
    "class: RKS, cation H3O+",
    "class: RKS, anion OH-",
    "option: symmetry=True",
    "option: density_fit()",
    "option: newton()",
    "option: smearing",
    "option: level shift",
    "option: to_gks()",
    "option: copy()",
    "option: pickle",
    "option: reset(mol)",
    "option: as_scanner(), second point",
    "option: geomeTRIC, second step",
)
# Elements, charges and spins that the network does not know: F_ref alone.
REFERENCE = (
    "class: UHF, OH",
    "class: UHF, O2 triplet",
    "class: UHF, closed shell",
    "class: UKS, OH",
    "class: UKS, NO2",
    "class: UKS, O2 triplet",
    "class: UKS, closed shell",
    "class: ROHF, OH",
    "class: ROHF, O2 triplet",
    "class: ROKS, NO2",
    "class: ROKS, O2 triplet",
    "class: GHF, OH",
    "class: GKS, OH",
    "class: UKS, H atom",
    "option: symmetry=True, UKS NO2",
    "option: density_fit(), UKS OH",
    "option: newton(), UKS OH",
    "option: PCM(), UKS OH",
    "option: smearing, UKS OH",
    "option: fractional occupation",
    "option: to_uks()",
    "basis: 6-31g*, UKS OH",
    "basis: ECP (HI)",
    "element: B (BH3)",
    "element: Si (SiH4)",
    "element: P (PH3)",
    "element: S (H2S)",
    "element: Cl (HCl)",
    "element: Br (HBr)",
    "element: Zn (ZnH2)",
    "element: Sc (ScH3)",
)
# Refused, with a warning.
MINAO = (
    "class: DHF",
    "class: DKS",
    "class: X2C, two-component",
    "class: periodic HF, Gamma point",
)
# More than three seconds with minao and with ours.
SLOW = (
    "class: UKS, NO2",
    "class: UKS, O2 triplet",
    "class: UKS, closed shell",
    "class: ROKS, NO2",
    "class: DKS",
    "option: symmetry=True",
    "option: symmetry=True, UKS NO2",
    "option: newton()",
    "option: PCM()",
    "option: ddCOSMO()",
    "option: SMD()",
    "option: point charges (qmmm)",
    "option: smearing",
    "option: level shift",
    "option: to_uks()",
    "option: geomeTRIC, second step",
    "basis: 6-311+g**",
    "basis: aug-cc-pvdz",
    "basis: def2-svpd",
    "basis: def2-tzvp",
    "basis: def2-svp, cart=True",
    "functional: tpss",
    "functional: m062x",
    "functional: camb3lyp",
    "functional: wb97m_v with VV10, water",
)

# OH: its unpaired electron is in one of two degenerate orbitals, and the grid does not turn with it.
DEGENERATE = (
    "class: UKS, OH",
    "option: density_fit(), UKS OH",
    "option: newton(), UKS OH",
    "option: PCM(), UKS OH",
    "basis: 6-31g*, UKS OH",
)
# Hartree-Fock with its integrals in memory is refined by them.
OWN_OPERATOR = (
    "class: RHF",
    "class: UHF, OH",
    "class: UHF, O2 triplet",
    "class: UHF, closed shell",
    "class: ROHF, OH",
    "class: ROHF, O2 triplet",
    "functional: hf",
)
# PySCF's minao ends in a higher solution here.
MINAO_ENDS_HIGHER = ("class: GKS, OH", "option: smearing, UKS OH")
# Its own density, of the first point, starts the second.
SECOND_POINT = ("option: as_scanner(), second point", "option: geomeTRIC, second step")

ROUTES = {"network native": NATIVE, "reference": OTHER_THEORY + REFERENCE, "minao": MINAO}
EXPECTED = {name: route for route, names in ROUTES.items() for name in names}
REASONS = {
    "class: DHF": "four-component methods (DHF, DKS) are not covered",
    "class: DKS": "four-component methods (DHF, DKS) are not covered",
    "class: X2C, two-component": "is none of RHF, ROHF, UHF and GHF",
    "class: periodic HF, Gamma point": "periodic systems are not covered",
}


def label(case: Case) -> str:
    return f"{case.group}: {case.name}"


PARAMETERS = [
    pytest.param(case, id=label(case), marks=[pytest.mark.slow] if label(case) in SLOW else []) for case in CASES
]


def both(name: str) -> tuple[Result, Result]:
    """Rows of minao and of ours."""
    (case,) = (c for c in CASES if label(c) == name)
    minao, ours = (run_case(case, key) for key in ("minao", "tracegrad"))
    return minao, ours


def test_tables_name_every_case_once() -> None:
    names = [label(case) for case in CASES]
    assert len(set(names)) == len(names)
    assert sorted(name for tables in ROUTES.values() for name in tables) == sorted(names)
    assert set(SLOW + DEGENERATE + OWN_OPERATOR + MINAO_ENDS_HIGHER + SECOND_POINT) | set(REASONS) <= set(names)
    assert set(REASONS) == set(MINAO)


@pytest.mark.parametrize("case", PARAMETERS)
def test_case_is_served_as_expected_and_ends_where_minao_ends(case: Case) -> None:
    name = label(case)
    if "geomeTRIC" in name and importlib.util.find_spec("geometric") is None:
        pytest.skip("geomeTRIC is not installed")
    if name == "option: linearly dependent basis" and not hasattr(scf.hf.SCF, "check_linear_dependency"):
        pytest.skip("PySCF before 2.13 leaves the dependent orbitals in, and does not converge from minao either")
    minao, ours = both(name)
    assert (minao.error, ours.error) == ("", "")
    assert f"{ours.route} {ours.transfer}".strip() == EXPECTED[name]
    assert ours.refined == (name not in MINAO)
    if name in OWN_OPERATOR:
        assert ours.cheap_builds == 0
        assert ours.exact_builds > 1
    else:
        assert ours.exact_builds == (name not in MINAO)
    assert minao.converged
    assert ours.converged
    difference = ours.energy - minao.energy
    if name in MINAO_ENDS_HIGHER:
        assert difference < 1e-8
    else:
        assert abs(difference) < (1e-6 if name in DEGENERATE else 1e-8)
    assert 0 < ours.cycles <= minao.cycles
    if name not in MINAO + SECOND_POINT:
        assert ours.cycles < minao.cycles
    assert (ours.reason == "") == ours.route.startswith("network")


@pytest.mark.parametrize("name", MINAO)
def test_minao_is_never_silent(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (case,) = (c for c in CASES if label(c) == name)
    mf: Any = case.make_mf()
    mf.verbose = 2
    dm = mf.get_init_guess(key="tracegrad")
    said = "".join(capfd.readouterr())
    assert f"{REASONS[name]}. Using the minao guess instead" in said
    assert mf.init_guess_report.route == "minao"
    assert REASONS[name] in mf.init_guess_report.reason
    assert np.array_equal(dm, mf.get_init_guess(key="minao"))
    with pytest.raises(OutsideDomain):
        tracegrad_guess(mf, strict=True)
