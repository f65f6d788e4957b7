"""What a series of SCFs costs from each start. Shared by the examples 03 to 05; PySCF's default settings,
B3LYP/def2-SVP.

minao:                        every SCF from PySCF's default guess
last density:                 each from the density of the one before, as PySCF's scanners do; the first from minao
tracegrad:                    every SCF from this package's guess
tracegrad, then last density: each from the density of the one before; the first from this package's guess
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pyscf import gto

import pyscf_tracegrad

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `data`, which is no installed package


def options(doc: str) -> argparse.ArgumentParser:
    """Command line of an example, told by its docstring."""
    program = f"python examples/{Path(sys.argv[0]).name}"
    return argparse.ArgumentParser(prog=program, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


STARTS = ("minao", "last density", "tracegrad", "tracegrad, then last density")


@dataclass
class Series:
    """SCFs of one molecule at one geometry after the other, from one start; adds up what they cost.

    builds: Fock builds with PySCF's own operator, those of the guess included. seconds: wall time of guess and SCF.
    """

    start: str
    scfs: int = 0
    cycles: int = 0
    builds: int = 0
    seconds: float = 0.0
    energies: list[float] = field(default_factory=list)
    _last: Any = None

    def run(self, mol: gto.Mole) -> Any:
        """Converged SCF object of the next geometry."""
        mf = mol.RKS(xc="b3lyp")
        begin = time.perf_counter()
        dm0, builds = self._guess(mf)
        mf.kernel(dm0=dm0)
        self.seconds += time.perf_counter() - begin
        if not mf.converged:
            raise RuntimeError(f"the SCF from {self.start} did not converge")
        self._last = mf.make_rdm1()
        self.scfs += 1
        self.cycles += mf.cycles
        self.builds += mf.cycles + 2 + builds
        self.energies.append(mf.e_tot)
        return mf

    def _guess(self, mf: Any) -> tuple[Any, int]:
        """Starting density, and the exact Fock builds that it took."""
        if self.start.endswith("last density") and self._last is not None:
            return self._last, 0
        if self.start.startswith("tracegrad"):
            dm, report = pyscf_tracegrad.tracegrad_guess(mf, report=True)
            return dm, report.exact_builds
        return mf.get_init_guess(mf.mol, "minao"), 0


def molecule(numbers: Sequence[int], positions: Any) -> gto.Mole:
    """Silent molecule; positions (n_atoms, 3) in bohr."""
    atoms = list(zip(map(int, numbers), np.asarray(positions), strict=True))
    return gto.M(atom=atoms, unit="Bohr", basis="def2-svp", verbose=0)


def each(structures: Sequence[Any]) -> Callable[[Series], None]:
    """A drive for `compare`: one SCF of each structure (`data.structure.Structure`), in order."""

    def drive(series: Series) -> None:
        for structure in structures:
            series.run(molecule(structure.atomic_numbers, structure.positions))

    return drive


def compare(title: str, drive: Callable[[Series], object]) -> list[Series]:
    """Let `drive` run its series from each start, and print what they cost beside minao's."""
    pyscf_tracegrad.load_model()
    Series("tracegrad").run(molecule((1, 1), [[0, 0, 0], [0, 0, 1.4]]))  # what is loaded once counts for nobody
    print(
        f"{title}\n\n| start | SCFs | cycles | Fock builds | guess and SCF, s | of minao's builds | of minao's time |"
    )
    print("|---" * 7 + "|")
    done: list[Series] = []
    for start in STARTS:
        series = Series(start)
        drive(series)
        done.append(series)
        ratios = f"{series.builds / done[0].builds:.2f} | {series.seconds / done[0].seconds:.2f}"
        print(
            f"| {start} | {series.scfs} | {series.cycles} | {series.builds} | {series.seconds:.1f} | {ratios} |",
            flush=True,
        )
    spread = max(abs(a - b) for s in done for a, b in zip(s.energies, done[0].energies, strict=False))
    print(f"\nLargest difference of energies to those from minao: {spread:.1e} hartree")
    return done
