"""A geometry optimisation of glycolaldehyde (8 atoms) from each start: `python examples/03-optimisation.py`.

ASE's BFGS on PySCF's gradients, from a bent geometry to a largest force of 0.05 eV/angstrom. Needs the extra `data`.
The gradients cost the same from every start and are not counted. A few minutes on one core.
"""

from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from pyscf.data import nist
from series import Series, compare, molecule, options

from data.settings import Source
from data.smiles import embed
from data.structure import Seed
from data.xtb import relax


class PySCF(Calculator):
    """Energy (eV) and forces (eV/angstrom) by the SCFs of a series."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, series: Series) -> None:
        super().__init__()
        self.series = series

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """One SCF and its gradient."""
        super().calculate(atoms, properties, system_changes)
        mf = self.series.run(molecule(self.atoms.numbers, self.atoms.positions / nist.BOHR))
        gradient = mf.nuc_grad_method().kernel()
        self.results = {
            "energy": mf.e_tot * nist.HARTREE2EV,
            "forces": -gradient * nist.HARTREE2EV / nist.BOHR,
        }


def main() -> None:
    """Print the table."""
    options(__doc__).parse_args()
    source = Source(smiles=("OCC=O",))
    start = relax(embed(Seed("glycolaldehyde", smiles=source.smiles[0]), np.random.default_rng(0)))
    bent = start.positions + np.random.default_rng(1).normal(scale=0.08, size=start.positions.shape)

    def drive(series: Series) -> None:
        atoms = Atoms(start.atomic_numbers, bent * nist.BOHR, calculator=PySCF(series))
        if not BFGS(atoms, logfile=None).run(fmax=0.05, steps=60):
            raise RuntimeError("the optimisation did not end within 60 steps")

    compare("Geometry optimisation of glycolaldehyde", drive)


if __name__ == "__main__":
    main()
