"""GFN2-xTB by tblite: relaxation and Langevin dynamics, through ASE.

tblite runs on as many OpenMP threads as the process has; for positions that are the same to the last digit, run it on
the same number of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pyscf.data import nist

from data.errors import MoleculeError
from data.structure import Array, Structure

HEAVIEST = 86  # GFN2-xTB's parameters end with radon
FORCE = 0.02  # eV/angstrom, largest force on an atom of a relaxed geometry; 4e-4 hartree/bohr
TIMESTEP = 0.5  # fs; an O-H bond vibrates in 9
FRICTION = 0.02  # 1/fs: the momenta are forgotten within 50 fs
EQUILIBRATION = 500.0  # fs at least, to heat up a molecule at rest at its minimum
_MAX_STEPS = 1000


def energy(structure: Structure) -> float:
    """GFN2-xTB energy at the structure's charge, closed shell, hartree. Raises MoleculeError where it fails."""
    with _failures(structure):
        return float(_atoms(structure).get_potential_energy()) / nist.HARTREE2EV


def relax(structure: Structure, fmax: float = FORCE, steps: int = _MAX_STEPS) -> Structure:
    """The nearest minimum of GFN2-xTB at the structure's charge: BFGS in Cartesian coordinates.

    fmax: largest force on an atom, eV/angstrom. Raises MoleculeError where it is not reached in `steps` steps, or where
    GFN2-xTB fails on the way.
    """
    from ase.optimize import BFGS

    with _failures(structure):
        atoms = _atoms(structure)
        if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=steps):
            raise MoleculeError(f"{structure.name}: the relaxation with GFN2-xTB took more than {steps} steps")
    return structure.moved(atoms.get_positions() / nist.BOHR)


def snapshots(
    structure: Structure, frames: int, temperature: float, interval: float, rng: np.random.Generator
) -> list[Array]:
    """Positions (n_atoms, 3), bohr, of `frames` snapshots of a Langevin trajectory with GFN2-xTB.

    temperature: kelvin. interval: fs from one to the next; the first is taken after as much, at least 500 fs, from a
    start at `structure` with momenta of Maxwell and Boltzmann. rng: of these momenta and of the thermostat. The centre
    of mass stays where it is, the molecule may turn. Raises MoleculeError where GFN2-xTB fails on the way.
    """
    from ase import units
    from ase.constraints import FixCom
    from ase.md.langevin import Langevin

    if structure.n_atoms == 1:
        raise MoleculeError(f"{structure.name}: a single atom has no snapshots; set frames = 0 for its source")
    positions = []
    with _failures(structure):
        atoms = _atoms(structure)
        atoms.set_constraint(FixCom())
        spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
        atoms.set_momenta(spread[:, None] * rng.standard_normal((structure.n_atoms, 3)))
        dynamics = Langevin(
            atoms,
            TIMESTEP * units.fs,
            temperature_K=temperature,
            friction=FRICTION / units.fs,
            fixcm=False,
            rng=rng,
            logfile=None,
        )
        for k in range(frames):
            time = interval if k else max(interval, EQUILIBRATION)
            dynamics.run(max(1, round(time / TIMESTEP)))
            positions.append(atoms.get_positions() / nist.BOHR)
    return positions


def _atoms(structure: Structure) -> Any:
    from ase import Atoms
    from tblite.ase import TBLite

    atoms = Atoms(structure.atomic_numbers, structure.positions * nist.BOHR)
    atoms.calc = TBLite(method="GFN2-xTB", charge=structure.charge, multiplicity=1, verbosity=0)
    return atoms


@contextmanager
def _failures(structure: Structure) -> Iterator[None]:
    from ase.calculators.calculator import CalculatorError

    try:
        yield
    except (CalculatorError, np.linalg.LinAlgError, FloatingPointError) as error:
        reason = " ".join(str(error).split())
        raise MoleculeError(f"{structure.name}: GFN2-xTB fails at charge {structure.charge} ({reason})") from None
