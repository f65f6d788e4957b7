"""What the survey calculates: small, hard, each a few seconds of one core from PySCF's own guess."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from training.bench.common import Level
from training.bench.molecules import Molecule
from training.bench.survey.geometries import (
    atom,
    bent,
    benzene,
    beryllium_insertion,
    butadiene,
    cyclobutadiene,
    diatomic,
    ethylene,
    hydrogens,
    place,
    polygon,
    rectangle,
    trimethylenemethane,
)

_SVP, _DZ, _AUG, _POPLE = "def2-svp", "cc-pvdz", "aug-cc-pvdz", "6-31++g**"


@dataclass(frozen=True)
class Case:
    """A molecule at a level, in a group of the table."""

    group: str
    molecule: Molecule
    level: Level

    @property
    def name(self) -> str:
        """What `--only` is matched with, as in a shell."""
        return f"{self.group}/{self.molecule.name}/{self.level.name}"

    @property
    def fingerprint(self) -> str:
        """Of everything that a result depends on and the code of the package is not."""
        m = self.molecule
        content = repr((m.numbers, m.positions.round(8).tolist(), m.charge, m.spin, self.level))
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def level(kind: str, xc: str, basis: str, symmetry: bool | str = False, **settings: Any) -> Level:
    """A level that is named by what it is."""
    said = ",".join(
        [
            *(["symmetry"] if symmetry is True else [symmetry] if symmetry else []),
            *(k if isinstance(v, dict) else f"{k}={v}" for k, v in settings.items()),
        ]
    )
    theory = f"{kind}hf" if xc == "hf" else f"{kind}ks-{xc}"
    name = f"{theory}/{basis}".lower() + (f",{said}" if said else "")
    return Level(name, xc, basis, kind=kind, symmetry=symmetry, settings=tuple(settings.items()))


def named(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Cases whose group, or group/molecule/level, matches a pattern, as in a shell."""
    return [c for c in cases if any(fnmatchcase(c.name, p) or c.group == p for p in patterns)]


def _cross(group: str, molecules: Sequence[Molecule], levels: Sequence[Level]) -> Iterator[Case]:
    return (Case(group, molecule, one) for molecule in molecules for one in levels)


_RHF, _PBE, _B3LYP = level("R", "hf", _DZ), level("R", "pbe", _DZ), level("R", "b3lyp", _SVP)

_AT_STRETCH = {1.5: (_RHF,), 2.0: (_RHF, _PBE, _B3LYP), 3.0: (_RHF, _PBE)}
_BONDS = (
    ("H", "H", 0.741),
    ("Li", "H", 1.595),
    ("H", "F", 0.917),
    ("F", "F", 1.412),
    ("N", "N", 1.098),
    ("C", "O", 1.128),
    ("C", "C", 1.243),
    ("B", "H", 1.232),
    ("Li", "Li", 2.673),
    ("Na", "Cl", 2.361),
)


def _stretched() -> Iterator[Case]:
    """Bonds of 1.5, 2 and 3 times their length by closed-shell methods, as every scan does."""
    for factor, levels in _AT_STRETCH.items():
        pairs = [diatomic(a, b, factor * length) for a, b, length in _BONDS]
        both = [*pairs, bent("H2O", "O", "H", factor * 0.958, 104.5), bent("CH2", "C", "H", factor * 1.107, 102.4)]
        scaled = [replace(m, name=f"{m.name}-x{factor}") for m in both]
        yield from _cross("stretched", scaled, levels)
    hydrogen = [replace(diatomic("H", "H", r), name=f"H2-{r:.2f}A") for r in (3.0, 3.3, 3.7, 4.5)]
    yield from _cross("stretched", hydrogen, (_RHF, _PBE))


def _symmetric() -> Iterator[Case]:
    """Frontier orbitals that are degenerate, or nearly, by the symmetry of the molecule."""
    squares = [hydrogens(f"H4-square-{a}", rectangle(a, a)) for a in (0.75, 1.229, 2.0)]
    rectangles = [hydrogens(f"H4-{a}x1.229", rectangle(a, 1.229)) for a in (1.18, 1.5)]
    rings = [hydrogens(f"H6-ring-{r}", polygon(6, r)) for r in (1.0, 2.0)]
    chains = [hydrogens(f"H6-chain-{r}", [[0, 0, k * r] for k in range(6)]) for r in (1.0, 2.0)]
    small = [*squares, *rectangles, *rings, *chains, *map(beryllium_insertion, (0.0, 2.0, 2.5, 2.75, 3.0, 4.0))]
    square = cyclobutadiene(1.45, 1.45)
    carbon = [*map(ethylene, (0.0, 45.0, 75.0, 90.0)), cyclobutadiene(1.566, 1.343)]
    yield from _cross("symmetric", small, (_RHF, level("R", "pbe", _SVP)))
    yield from _cross("symmetric", [*carbon, bent("O3", "O", "O", 1.272, 116.8)], (_RHF, _PBE, _B3LYP))
    yield from _cross("symmetric", [square], (_RHF, _B3LYP))
    large = [butadiene(), square, benzene("C6H6-x1.5", stretch=1.5)]
    yield from _cross("symmetric", large, (level("R", "hf", "sto-3g"), level("R", "b3lyp", "sto-3g")))


# Metal: spin (unpaired electrons) of the atom, of the cation; bond length and spin of hydride, oxide and dimer.
_METALS = {
    "Sc": (1, 2, (1.775, 0), (1.668, 1), (2.65, 4)),
    "Ti": (2, 3, (1.78, 3), (1.62, 2), (1.943, 2)),
    "V": (3, 4, (1.73, 4), (1.589, 3), (1.77, 2)),
    "Cr": (6, 5, (1.655, 5), (1.615, 4), (1.679, 0)),
    "Mn": (5, 6, (1.73, 6), (1.646, 5), (3.4, 10)),
    "Fe": (4, 5, (1.61, 3), (1.616, 4), (2.02, 6)),
    "Co": (3, 2, (1.53, 2), (1.629, 3), (2.0, 4)),
    "Ni": (2, 1, (1.47, 1), (1.627, 2), (2.154, 2)),
    "Cu": (1, 0, (1.463, 0), (1.724, 1), (2.22, 0)),
    "Zn": (0, 1, (1.595, 1), (1.72, 0), (4.19, 0)),
}
_UHF, _UPBE, _UB3LYP = (level("U", xc, _SVP) for xc in ("hf", "pbe", "b3lyp"))


def _metal_atoms() -> Iterator[Case]:
    """3d atoms and cations in their ground terms, and in another multiplicity."""
    neutral = [atom(symbol, spin=spin) for symbol, (spin, *_) in _METALS.items()]
    cations = [atom(symbol, 1, spin) for symbol, (_, spin, *_) in _METALS.items()]
    other = [replace(m, name=f"{m.name}-spin{m.spin + 2}", spin=m.spin + 2) for m in neutral if m.spin in {2, 3}]
    yield from _cross("3d atoms", neutral, [level("RO", "hf", _SVP), _UHF, _UB3LYP])
    yield from _cross("3d atoms", [*cations, *other], [_UHF, _UPBE])


def _metal_molecules() -> Iterator[Case]:
    """Hydrides, oxides and dimers of the 3d metals near their bond lengths."""
    hydrides, oxides, dimers = list[Molecule](), list[Molecule](), list[Molecule]()
    for symbol, (_, _, hydride, oxide, dimer) in _METALS.items():
        hydrides.append(diatomic(symbol, "H", hydride[0], spin=hydride[1]))
        oxides.append(diatomic(symbol, "O", oxide[0], spin=oxide[1]))
        dimers.append(diatomic(symbol, symbol, dimer[0], spin=dimer[1]))
    yield from _cross("3d hydrides", hydrides, [_UHF, _UB3LYP])
    yield from _cross("3d hydrides", hydrides[1::3], [level("RO", "hf", _SVP)])
    yield from _cross("3d oxides", oxides, [_UHF, _UPBE])
    yield from _cross("3d oxides", oxides[1::3], [_UB3LYP])
    yield from _cross("3d dimers", dimers, [_UHF, _UPBE])
    yield from _cross("3d dimers", [m for m in dimers if not m.spin], [level("R", "hf", _SVP), _B3LYP])


def _diradicals() -> Iterator[Case]:
    """Molecules with two electrons in two orbitals as closed shells, and with broken spin symmetry."""
    small = [diatomic("O", "O", 1.208), diatomic("N", "H", 1.036), diatomic("C", "C", 1.369), diatomic("B", "B", 1.59)]
    small += [diatomic("P", "H", 1.42), diatomic("Si", "Si", 2.246), diatomic("S", "S", 1.889)]
    small += [bent("CH2", "C", "H", 1.077, 134.0)]
    rings = [benzene(f"C6H4-{x}", without) for x, without in (("ortho", (0, 1)), ("meta", (0, 2)), ("para", (0, 3)))]
    yield from _cross("diradicals", small, (_RHF, _PBE, _B3LYP))
    yield from _cross("diradicals", rings, (level("R", "hf", "6-31g"), level("R", "pbe", "6-31g")))
    yield from _cross("diradicals", [trimethylenemethane()], (level("R", "hf", "6-31g*"), level("R", "b3lyp", _SVP)))
    broken = [level("U", "hf", _DZ, init_guess_breaksym=1), level("U", "pbe", _DZ, init_guess_breaksym="mix")]
    far = [replace(diatomic(a, b, r), name=f"{a}2-{r}A") for a, b, r in (("H", "H", 2.0), ("N", "N", 2.2))]
    yield from _cross("diradicals", [small[0], small[2], ethylene(90.0), *far], broken)


def _anions() -> Iterator[Case]:
    """Anions in bases with diffuse functions: bound, weakly bound, dipole-bound, not bound."""
    bound = [atom("F", -1), atom("Cl", -1), diatomic("O", "H", 0.964, -1), diatomic("C", "N", 1.177, -1)]
    bound += [bent("NO2-", "N", "O", 1.25, 116.0, -1), bent("NH2-", "N", "H", 1.03, 102.0, -1), atom("H", -1)]
    formate = [[0, 0, 0], [0, 0, -1.13], [1.142, 0, 0.532], [-1.142, 0, 0.532]]
    bound += [diatomic("O", "O", 1.35, -1, 1), diatomic("S", "S", 2.0, -1, 1), place("HCO2-", "CHOO", formate, -1)]
    weak = [diatomic("Li", "H", 1.67, -1, 1), place("HCN-", "HCN", [[0, 0, -1.066], [0, 0, 0], [0, 0, 1.154]], -1, 1)]
    carbonate = place("CO3--", "COOO", [[0, 0, 0], *polygon(3, 1.30)], -2)
    twice = [atom("O", -2), atom("S", -2), diatomic("C", "C", 1.28, -2), carbonate]
    yield from _cross("anions", [*bound, *weak, *twice], (level("", "hf", _AUG), level("", "b3lyp", _POPLE)))
    yield from _cross("anions", [*weak, *twice], (level("", "pbe", _AUG),))


def _general() -> Iterator[Case]:
    """Small open shells by generalised and restricted open-shell methods."""
    triangle = place("Li3", ["Li"] * 3, polygon(3, 1.617), spin=1)
    triplet = replace(diatomic("H", "H", 0.529), name="H2-triplet", spin=2)
    small = [triplet, triangle, diatomic("O", "H", 0.97, spin=1), diatomic("O", "O", 1.208, spin=2)]
    small += [diatomic("N", "O", 1.151, spin=1), bent("CH2-triplet", "C", "H", 1.077, 134.0, spin=2)]
    yield from _cross("general", small, (level("G", "hf", _DZ), level("G", "pbe", "6-31g")))
    restricted = (level("RO", "pbe", _DZ), level("RO", "b3lyp", _SVP))
    yield from _cross("restricted open", [*small[1:], diatomic("C", "N", 1.172, spin=1), atom("C", spin=2)], restricted)
    singlets = [hydrogens(f"H4-square-{a}", rectangle(a, a)) for a in (0.75, 1.229)]
    yield from _cross("restricted open", singlets, (level("RO", "hf", _DZ),))


def _options() -> Iterator[Case]:
    """Point groups, fixed irreducible representations, smearing, level shifts."""
    carbon, oxygen, nitrogen = diatomic("C", "C", 1.25), diatomic("O", "O", 1.208), diatomic("N", "N", 2.2)
    water = replace(bent("H2O", "O", "H", 2.5, 104.5), name="H2O-2.5A")
    yield from _cross("options", [carbon, oxygen, nitrogen, water], [level("R", m, _DZ, True) for m in ("hf", "pbe")])
    opened = [atom("C", spin=2), atom("V", spin=3), atom("Fe", spin=4), diatomic("N", "O", 1.165, spin=1)]
    yield from _cross("options", opened, [level("U", m, _SVP, True) for m in ("hf", "pbe")])
    fixed = {"A1g": 4, "A1u": 4, "E1ux": 2, "E1uy": 2}
    yield Case("options", carbon, level("R", "hf", _DZ, True, irrep_nelec=fixed))
    copper = {"A1g": (5, 4), "A1u": (2, 2), "E1ux": (2, 2), "E1uy": (3, 2)}
    copper |= {"E1gx": (1, 1), "E1gy": (1, 1), "E2gx": (1, 0), "E2gy": (1, 1)}
    yield Case("options", atom("Cu", spin=3), level("RO", "hf", "6-31g", "Dooh", irrep_nelec=copper))
    for molecule, kind, xc in ((carbon, "R", "hf"), (nitrogen, "R", "pbe"), (atom("V", spin=3), "U", "pbe")):
        yield Case("options", molecule, level(kind, xc, _SVP, smearing=0.01))
        yield Case("options", molecule, level(kind, xc, _SVP, level_shift=0.3))


CASES = tuple(
    case
    for make in (_stretched, _symmetric, _metal_atoms, _metal_molecules, _diradicals, _anions, _general, _options)
    for case in make()
)
