"""Cycles, Fock builds and wall time of four starting guesses on three molecules that the model was not trained on.

PySCF's default settings, B3LYP/def2-SVP. Wall time is that of `mf.kernel()`, the guess included; the model is loaded
before; builds are those of PySCF's own operator, the one inside the guess included. At the end the parts of one guess,
beside one SCF cycle of the same molecule. Takes about two minutes on two cores that have nothing else to do.
"""

import sys
import time
from pathlib import Path

from pyscf import gto

import pyscf_tracegrad

GUESSES = ("minao", "atom", "1e", "tracegrad")
MOLECULES = sorted((Path(__file__).parent / "molecules").glob("*.xyz"))


def run(mol: gto.Mole, guess: str) -> tuple[int, int, float, float]:
    """Cycles, Fock builds, seconds and energy of one SCF."""
    mf = mol.RKS(xc="b3lyp")
    mf.init_guess = guess
    builds = 0
    get_veff = mf.get_veff

    def counted(*args, **keywords):  # noqa: ANN002, ANN003, ANN202
        nonlocal builds
        builds += 1
        return get_veff(*args, **keywords)

    mf.get_veff = counted
    start = time.perf_counter()
    mf.kernel()
    return mf.cycles, builds, time.perf_counter() - start, mf.e_tot


def show(text: str) -> None:
    """What is running now, on a terminal only: one line that the next one takes the place of."""
    if sys.stderr.isatty():
        print(f"\r{text.ljust(50)}\r", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Print the table."""
    n_scfs = len(MOLECULES) * len(GUESSES)
    print(f"{n_scfs} SCFs of {len(MOLECULES)} molecules: about two minutes on two idle cores\n", flush=True)
    pyscf_tracegrad.load_model()
    print("| molecule | " + " | ".join(f"{g}: cycles, builds, s" for g in GUESSES) + " |")
    print("|---" * (1 + len(GUESSES)) + "|")
    ratios: dict[str, list[tuple[float, float]]] = {g: [] for g in GUESSES}
    notes = []
    for path in MOLECULES:
        mol = gto.M(atom=str(path), basis="def2-svp", verbose=0)
        results = {}
        for guess in GUESSES:
            show(f"{path.stem}: {guess} ...")
            results[guess] = run(mol, guess)
        show("")
        cells = [f"{cycles}, {builds}, {seconds:.1f}" for cycles, builds, seconds, _ in results.values()]
        print(f"| {path.stem} ({mol.natm} atoms, {mol.nao} AOs) | " + " | ".join(cells) + " |", flush=True)
        spread = max(r[3] for r in results.values()) - min(r[3] for r in results.values())
        if spread > 1e-7:
            notes.append(f"{path.stem}: energies differ by {spread:.1e} hartree")
        for guess, (cycles, _, seconds, _) in results.items():
            ratios[guess].append((cycles / results["minao"][0], seconds / results["minao"][2]))
    means = [[sum(r[k] for r in ratios[g]) / len(MOLECULES) for g in GUESSES] for k in (0, 1)]
    print("| mean ratio to minao: cycles, s | " + " | ".join(f"{c:.2f}, {s:.2f}" for c, s in zip(*means)) + " |")  # noqa: B905
    print("".join(f"\n{note}" for note in notes), end="")
    split()


def split() -> None:
    """Print the parts of one guess of the molecule with most AOs, and one SCF cycle."""
    mol = max((gto.M(atom=str(p), basis="def2-svp", verbose=0) for p in MOLECULES), key=lambda m: m.nao)
    mf = mol.RKS(xc="b3lyp")
    times = []
    mf.callback = lambda _: times.append(time.perf_counter())
    mf.kernel()
    cycle = (times[-1] - times[0]) / (len(times) - 1)
    _, report = pyscf_tracegrad.tracegrad_guess(mol.RKS(xc="b3lyp"), report=True)
    print(f"\nOne guess, {mol.natm} atoms, in units of one SCF cycle ({cycle:.2f} s): {report}")
    for part, seconds in report.seconds.items():
        print(f"  {part:16s}{seconds / cycle:6.3f}")
    print(f"  {'all':16s}{sum(report.seconds.values()) / cycle:6.3f}")


if __name__ == "__main__":
    main()
