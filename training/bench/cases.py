"""Every SCF class and option that the guess should live with, on molecules that take seconds: `CASES`."""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyscf import dft, gto, qmmm, scf

WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
MOVED_WATER = "O 0 0 0.1173; H 0 0.7872 -0.4692; H 0 -0.7572 -0.4992"
FORMALDEHYDE = "C 0 0 -0.5297; O 0 0 0.6741; H 0 0.9353 -1.1140; H 0 -0.9353 -1.1140"
HYDROXYL = "O 0 0 0; H 0 0 0.9697"
NITROGEN_DIOXIDE = "N 0 0 0; O 0 1.0989 0.4653; O 0 -1.0989 0.4653"
OXYGEN = "O 0 0 0; O 0 0 1.2075"
HYDRONIUM = "O 0 0 0.08; H 0 0.94 -0.21; H 0.814 -0.47 -0.21; H -0.814 -0.47 -0.21"
BASIS = "def2-svp"


def kernel(mf: Any) -> Any:
    """Run it; returns the object that ran."""
    mf.kernel()
    return mf


@dataclass(frozen=True)
class Case:
    """A calculation: `drive(mf)` runs what `make_mf()` made, once its `init_guess` is set.

    drive returns the object that ran last, whose cycles, energy and report are looked at.
    """

    group: str
    name: str
    make_mf: Callable[[], Any]
    drive: Callable[[Any], Any] = kernel


def _mol(atoms: str, **settings: Any) -> gto.Mole:
    return gto.M(atom=atoms, verbose=0, **{"basis": BASIS, **settings})


def _rks(atoms: str = FORMALDEHYDE, xc: str = "b3lyp", **settings: Any) -> Any:
    return dft.RKS(_mol(atoms, **settings), xc=xc)


def _uks(atoms: str = HYDROXYL, spin: int = 1, **settings: Any) -> Any:
    return dft.UKS(_mol(atoms, spin=spin, **settings), xc="b3lyp")


def _level_shift() -> Any:
    mf = _rks()
    mf.level_shift = 0.2
    return mf


def _qmmm() -> Any:
    coordinates, charges = np.array([[0.0, 0.0, 3.0], [0.0, 0.5, 3.8]]), np.array([-0.5, 0.5])
    return qmmm.mm_charge(_rks(), coordinates, charges, unit="angstrom")


def _field() -> Any:
    """A homogeneous field of 0.01 a.u. along z in a redefined get_hcore, as PySCF's manual has it."""
    mf = _rks()
    hcore = mf.get_hcore() + 0.01 * mf.mol.intor("int1e_r")[2]
    mf.get_hcore = lambda *_: hcore
    return mf


def _dependent() -> Any:
    """A basis with two shells that are nearly the same: PySCF leaves one combination out of the orbitals."""
    shells = [*gto.basis.load(BASIS, "O"), [0, [0.2, 1.0]], [0, [0.2001, 1.0]]]
    return _rks(WATER, basis={"default": BASIS, "O": shells})


def _remove_linear_dep() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return scf.addons.remove_linear_dep_(_dependent(), threshold=1e-6, lindep=1e-5)


def _periodic() -> Any:
    from pyscf.pbc import gto as pbc_gto
    from pyscf.pbc import scf as pbc_scf

    cell = pbc_gto.M(
        atom="H 0 0 0; H 0 0 0.74", a=np.eye(3) * 4.0, basis="gth-szv", pseudo="gth-pade", mesh=[15] * 3, verbose=0
    )
    return pbc_scf.RHF(cell)


def _second_point(mf: Any) -> Any:
    """A scanner at two geometries; PySCF starts the second from the density of the first."""
    scanner = mf.as_scanner()
    scanner(mf.mol)
    scanner(mf.mol.set_geom_(MOVED_WATER, inplace=False))
    return scanner


def _optimise(mf: Any) -> Any:
    """Two steps of geomeTRIC, which prints."""
    from pyscf.geomopt import geometric_solver

    gradient = mf.nuc_grad_method().as_scanner()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        geometric_solver.kernel(gradient, maxsteps=2)
    return gradient.base


def _copied(mf: Any) -> Any:
    return kernel(mf.copy())


def _pickled(mf: Any) -> Any:
    return kernel(pickle.loads(pickle.dumps(mf)))  # noqa: S301  (made the line before)


def _reset(mf: Any) -> Any:
    """The same object for another molecule."""
    return kernel(mf.reset(_mol(WATER)))


def _open(kind: Any, atoms: str, spin: int) -> Callable[[], Any]:
    return lambda: kind(_mol(atoms, spin=spin))


def _closed(kind: Any, atoms: str = FORMALDEHYDE, **settings: Any) -> Callable[[], Any]:
    return lambda: kind(_mol(atoms, **settings))


def _with_basis(basis: Any, atoms: str = FORMALDEHYDE, **settings: Any) -> Callable[[], Any]:
    return lambda: _rks(atoms, basis=basis, **settings)


def _with_xc(xc: str) -> Callable[[], Any]:
    return lambda: _rks(xc=xc)


def _b3lyp(kind: Any, atoms: str, spin: int = 0) -> Callable[[], Any]:
    return lambda: kind(_mol(atoms, spin=spin), xc="b3lyp")


_CLASSES = (
    Case("class", "RHF", _closed(scf.RHF)),
    Case("class", "RKS", _rks),
    Case("class", "UHF, OH", _open(scf.UHF, HYDROXYL, 1)),
    Case("class", "UHF, O2 triplet", _open(scf.UHF, OXYGEN, 2)),
    Case("class", "UHF, closed shell", _closed(scf.UHF)),
    Case("class", "UKS, OH", _uks),
    Case("class", "UKS, NO2", lambda: _uks(NITROGEN_DIOXIDE)),
    Case("class", "UKS, O2 triplet", lambda: _uks(OXYGEN, 2)),
    Case("class", "UKS, closed shell", _b3lyp(dft.UKS, FORMALDEHYDE)),
    Case("class", "ROHF, OH", _open(scf.ROHF, HYDROXYL, 1)),
    Case("class", "ROHF, O2 triplet", _open(scf.ROHF, OXYGEN, 2)),
    Case("class", "ROKS, NO2", _b3lyp(dft.ROKS, NITROGEN_DIOXIDE, 1)),
    Case("class", "ROKS, O2 triplet", _b3lyp(dft.ROKS, OXYGEN, 2)),
    Case("class", "GHF, closed shell", _closed(scf.GHF, WATER)),
    Case("class", "GHF, OH", _open(scf.GHF, HYDROXYL, 1)),
    Case("class", "GKS, closed shell", _b3lyp(dft.GKS, WATER)),
    Case("class", "GKS, OH", _b3lyp(dft.GKS, HYDROXYL, 1)),
    Case("class", "DHF", _closed(scf.DHF, WATER, basis="sto-3g")),
    Case("class", "DKS", lambda: dft.DKS(_mol(WATER, basis="sto-3g"), xc="b3lyp")),
    Case("class", "X2C, two-component", lambda: scf.X2C(_mol(WATER, basis="sto-3g"))),
    Case("class", "periodic HF, Gamma point", _periodic),
    Case("class", "RKS, one electron pair (H2)", lambda: _rks("H 0 0 0; H 0 0 0.74")),
    Case("class", "UKS, H atom", lambda: _uks("H 0 0 0")),
    Case("class", "RKS, cation H3O+", lambda: _rks(HYDRONIUM, charge=1)),
    Case("class", "RKS, anion OH-", lambda: _rks(HYDROXYL, charge=-1)),
)

_OPTIONS = (
    Case("option", "symmetry=True", lambda: _rks(symmetry=True)),
    Case("option", "symmetry=True, UKS NO2", lambda: _uks(NITROGEN_DIOXIDE, symmetry=True)),
    Case("option", "density_fit()", lambda: _rks().density_fit()),
    Case("option", "density_fit(), UKS OH", lambda: _uks().density_fit()),
    Case("option", "newton()", lambda: _rks().newton()),
    Case("option", "newton(), UKS OH", lambda: _uks().newton()),
    Case("option", "x2c()", lambda: _rks().x2c()),
    Case("option", "sfx2c1e()", lambda: _rks().sfx2c1e()),
    Case("option", "PCM()", lambda: _rks().PCM()),
    Case("option", "PCM(), UKS OH", lambda: _uks().PCM()),
    Case("option", "ddCOSMO()", lambda: _rks().ddCOSMO()),
    Case("option", "SMD()", lambda: _rks().SMD()),
    Case("option", "point charges (qmmm)", _qmmm),
    Case("option", "electric field in get_hcore", _field),
    Case("option", "smearing", lambda: scf.addons.smearing(_rks(), sigma=0.01, method="fermi")),
    Case("option", "smearing, UKS OH", lambda: scf.addons.smearing(_uks(), sigma=0.01, method="fermi")),
    Case("option", "fractional occupation", lambda: scf.addons.frac_occ(_uks())),
    Case("option", "linearly dependent basis", _dependent),
    Case("option", "remove_linear_dep_", _remove_linear_dep),
    Case("option", "level shift", _level_shift),
    Case("option", "to_uks()", lambda: _rks().to_uks()),
    Case("option", "to_gks()", lambda: _rks(WATER).to_gks()),
    Case("option", "copy()", _rks, _copied),
    Case("option", "pickle", lambda: _rks(WATER), _pickled),
    Case("option", "reset(mol)", _rks, _reset),
    Case("option", "as_scanner(), second point", lambda: _rks(WATER), _second_point),
    Case("option", "geomeTRIC, second step", lambda: _rks(WATER), _optimise),
)

_BASES = (
    *(Case("basis", name, _with_basis(name)) for name in ("sto-3g", "6-31g*", "6-311+g**", "cc-pvdz", "aug-cc-pvdz")),
    *(Case("basis", name, _with_basis(name)) for name in ("def2-svpd", "def2-tzvp")),
    Case("basis", "6-31g*, UKS OH", lambda: _uks(basis="6-31g*")),
    Case("basis", "def2-svp, cart=True", _with_basis(BASIS, cart=True)),
    Case("basis", "6-31g*, cart=True", _with_basis("6-31g*", cart=True)),
    Case("basis", "mixed: O def2-tzvp, else def2-svp", _with_basis({"default": BASIS, "O": "def2-tzvp"})),
    Case("basis", "mixed: H 6-31g*, else cc-pvdz", _with_basis({"default": "cc-pvdz", "H": "6-31g*"})),
    Case("basis", "ghost atom", _with_basis(BASIS, f"{WATER}; ghost-O 0 0 3.0")),
    Case("basis", "ECP (HI)", _with_basis(BASIS, "H 0 0 0; I 0 0 1.609", ecp={"I": BASIS})),
)

_ELEMENTS = (
    Case("element", "B (BH3)", lambda: _rks("B 0 0 0; H 0 1.19 0; H 1.0306 -0.595 0; H -1.0306 -0.595 0")),
    Case(
        "element",
        "Si (SiH4)",
        lambda: _rks("Si 0 0 0; H .855 .855 .855; H -.855 -.855 .855; H -.855 .855 -.855; H .855 -.855 -.855"),
    ),
    Case("element", "P (PH3)", lambda: _rks("P 0 0 0.13; H 0 1.19 -0.64; H 1.03 -0.595 -0.64; H -1.03 -0.595 -0.64")),
    Case("element", "S (H2S)", lambda: _rks("S 0 0 0.1; H 0 0.97 -0.82; H 0 -0.97 -0.82")),
    Case("element", "Cl (HCl)", lambda: _rks("H 0 0 0; Cl 0 0 1.275")),
    Case("element", "Br (HBr)", lambda: _rks("H 0 0 0; Br 0 0 1.414")),
    Case("element", "Zn (ZnH2)", lambda: _rks("Zn 0 0 0; H 0 0 1.535; H 0 0 -1.535")),
    Case("element", "Sc (ScH3)", lambda: _rks("Sc 0 0 0; H 0 1.82 0; H 1.576 -0.91 0; H -1.576 -0.91 0")),
)

_XC = ("svwn", "pbe", "pbe0", "hf", "tpss", "m062x", "wb97x", "camb3lyp")
_FUNCTIONALS = (
    *(Case("functional", xc, _with_xc(xc)) for xc in _XC),
    Case("functional", "wb97m_v with VV10, water", lambda: _rks(WATER, "wb97m_v")),
)

CASES = (*_CLASSES, *_OPTIONS, *_BASES, *_ELEMENTS, *_FUNCTIONALS)
