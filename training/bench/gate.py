"""Calibration of the gate: what its signals say where the network's density is worse than minao's.

    python -m training.bench.gate --data STRUCTURES.npz --labels FILE... --out GATE.csv [--plot ROC.png]

B3LYP/def2-SVP from the bare density of the network, whatever the gate says, from F_ref's and from minao's. Cases:
ordinary molecules that are not in training (validation molecules of the label files, small neutral structures), and
bad ones made from these: bonds stretched, atoms pushed into each other, odd valences, chains, charges, and ordinary
molecules under a model with noise on its weights. The seed decides on all of it.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyscf.data import nist, radii
from scipy.sparse import csgraph

from pyscf_tracegrad.density import diagonalise
from pyscf_tracegrad.gate import measure_network
from training.bench import robustness
from training.bench.common import Level, add_run_options, message, run_all
from training.bench.molecules import Molecule, read_labels, read_npz
from training.bench.roc import NOISE, ORDINARY, Outcome, Row, plot, read_rows, summary, write_rows
from training.command import command, make_parser, positive

if TYPE_CHECKING:  # torch is loaded by the work, not by the command's help
    from pyscf_tracegrad.pretrained import PretrainedModel

Array = NDArray[np.float64]

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SMALL = 7  # atoms of what bad molecules are made from, at most
_MAX_TRIES = 10000


@dataclass(frozen=True)
class Case:
    """A molecule under the model. noise: on the weights, in units of the rms of each parameter; seed: of the noise.
    model: path of its file; the shipped one if empty.
    """

    group: str
    molecule: Molecule
    noise: float = 0.0
    seed: int = 0
    model: str = ""


def bonds(molecule: Molecule) -> list[tuple[int, int]]:
    """Pairs of atoms nearer than 1.25 times the sum of their covalent radii."""
    reach = 1.25 * nist.BOHR * radii.COVALENT[list(molecule.numbers)]
    x = molecule.positions
    near = np.linalg.norm(x[:, None] - x[None], axis=2) < reach[:, None] + reach[None]
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(near, 1))]


def fragments(molecule: Molecule, without: tuple[int, int] | None = None) -> NDArray[np.int64]:
    """Number of the connected fragment of each atom, a bond left out."""
    graph = np.zeros((molecule.n_atoms, molecule.n_atoms))
    for bond in bonds(molecule):
        graph[bond] = bond != without
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def chain_bonds(molecule: Molecule, element: int | None = None) -> list[tuple[int, int]]:
    """Bonds that are in no ring; those of one element if given."""
    found = [b for b in bonds(molecule) if element is None or element in {molecule.numbers[k] for k in b}]
    parts = {b: fragments(molecule, b) for b in found}
    return [b for b, part in parts.items() if part[b[0]] != part[b[1]]]


def scale_bond(molecule: Molecule, bond: tuple[int, int], factor: float) -> Molecule:
    """One bond longer or shorter by a factor; the fragment of its second atom moves."""
    part = fragments(molecule, bond)
    x = molecule.positions.copy()
    x[part == part[bond[1]]] += (factor - 1.0) * (x[bond[1]] - x[bond[0]])
    name = f"{molecule.name} {bond[0]}-{bond[1]} x{factor:g}"
    return replace(molecule, name=name, positions=x)


def push(first: Molecule, second: Molecule, distance: float, rng: np.random.Generator) -> Molecule:
    """Two molecules whose nearest atoms are so far apart (angstrom), the second one turned at random."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    a = first.positions - first.positions.mean(0)
    b = (second.positions - second.positions.mean(0)) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shifts = np.arange(20.0, 0.0, -0.005)
    nearest = [np.linalg.norm(a[:, None] - (b + s * direction)[None], axis=2).min() for s in shifts]
    shift = shifts[int(np.argmax(np.array(nearest) <= distance))]
    numbers, x = (*first.numbers, *second.numbers), np.concatenate([a, b + shift * direction])
    return Molecule(f"{first.name} + {second.name} at {distance:g}", numbers, x, first.charge + second.charge)


def remove_hydrogens(molecule: Molecule, rng: np.random.Generator) -> Molecule:
    """Two hydrogen atoms less."""
    gone = set(rng.choice([k for k, z in enumerate(molecule.numbers) if z == 1], 2, replace=False).tolist())
    kept = [k for k in range(molecule.n_atoms) if k not in gone]
    numbers = tuple(molecule.numbers[k] for k in kept)
    return replace(molecule, name=f"{molecule.name} - 2 H", numbers=numbers, positions=molecule.positions[kept])


def add_hydrogens(molecule: Molecule, rng: np.random.Generator) -> Molecule:
    """Two hydrogen atoms more, each 1.05 angstrom from a heavy atom and not within 0.7 angstrom of any atom."""
    heavy = [k for k, z in enumerate(molecule.numbers) if z != 1]
    x = molecule.positions
    for _ in range(_MAX_TRIES):
        step = rng.normal(size=3)
        place = x[rng.choice(heavy)] + 1.05 * step / np.linalg.norm(step)
        if np.linalg.norm(x - place, axis=1).min() >= 0.7:
            x = np.concatenate([x, place[None]])
        if len(x) == molecule.n_atoms + 2:
            return replace(molecule, name=f"{molecule.name} + 2 H", numbers=(*molecule.numbers, 1, 1), positions=x)
    raise ValueError(f"{molecule.name}: no place for two more hydrogen atoms")


def polygon(name: str, number: int, count: int, side: float) -> Molecule:
    """Equal atoms at the corners of a regular polygon, or of a line for two; side in angstrom."""
    angles = 2.0 * np.pi * np.arange(count) / count
    corners = np.stack([np.cos(angles), np.sin(angles), 0.0 * angles], axis=1)
    return Molecule(name, (number,) * count, 0.5 * side / np.sin(np.pi / count) * corners)


def hydride(name: str, centre: int, directions: Sequence[Sequence[float]], length: float) -> Molecule:
    """A heavy atom with hydrogen atoms in these directions; length in angstrom."""
    x = np.array([[0.0, 0.0, 0.0], *directions], dtype=float)
    x[1:] *= length / np.linalg.norm(x[1:], axis=1)[:, None]
    return Molecule(name, (centre,) + (1,) * len(directions), x)


def odd_molecules() -> list[Molecule]:
    """Valences that no molecule of a training set has."""
    poles, plane = [[0.0, 0, 1], [0.0, 0, -1]], [[1.0, 0, 0], [-1.0, 0, 0], [0.0, 1, 0], [0.0, -1, 0]]
    triangle = [[math.cos(t), math.sin(t), 0.0] for t in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]
    tetrahedron = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    return [
        hydride("CH6", 6, poles + plane, 1.15),
        hydride("NH5", 7, poles + triangle, 1.1),
        hydride("OH4", 8, tetrahedron, 1.05),
        hydride("CH2 linear", 6, poles, 1.05),
        hydride("CH2", 6, [[1, 0, 1], [-1, 0, 1]], 1.1),
        polygon("H4", 1, 4, 1.2),
        polygon("O4", 8, 4, 1.35),
        polygon("N6", 7, 6, 1.32),
        polygon("C4", 6, 4, 1.4),
        polygon("F4", 9, 4, 1.7),
    ]


def polyyne(carbons: int) -> Molecule:
    """H-(C#C)n-H, straight."""
    steps = [1.06, *(1.21 if k % 2 == 0 else 1.37 for k in range(carbons - 1)), 1.06]
    z = np.concatenate([[0.0], np.cumsum(steps)])
    numbers = (1, *(6,) * carbons, 1)
    return Molecule(f"polyyne C{carbons}", numbers, np.stack([0.0 * z, 0.0 * z, z], axis=1))


def alkane(carbons: int) -> Molecule:
    """All-trans alkane: a zigzag of carbon atoms (1.53 angstrom), tetrahedral angles, C-H 1.09."""
    across, along = 1.53 / math.sqrt(3.0), 1.53 * math.sqrt(2.0 / 3.0)
    sign = np.where(np.arange(carbons) % 2, 1.0, -1.0)
    chain = np.stack([0.5 * across * sign, 0.0 * sign, along * np.arange(carbons)], axis=1)
    side = 1.09 * np.array([1.0 / math.sqrt(3.0), math.sqrt(2.0 / 3.0), 0.0])
    hydrogens = [x + side * [s, y, 0.0] for x, s in zip(chain, sign, strict=True) for y in (1.0, -1.0)]
    back = 1.09 / 1.53 * np.array([-across * sign[0], 0.0, -along])
    hydrogens += [chain[0] + back, chain[-1] + 1.09 / 1.53 * np.array([-across * sign[-1], 0.0, along])]
    numbers = (6,) * carbons + (1,) * len(hydrogens)
    return Molecule(f"alkane C{carbons}", numbers, np.concatenate([chain, hydrogens]))


def bad_cases(ordinary: Sequence[Molecule], seed: int = 0, long: bool = False) -> list[Case]:
    """Molecules that the network was not made for, most of them made from small ordinary ones."""
    rng = np.random.default_rng(seed)
    small = [m for m in ordinary if 2 < m.n_atoms <= SMALL and max(m.numbers) > 1 and not fragments(m).any()]

    def some(count: int, pool: Sequence[Molecule]) -> list[Molecule]:
        return [pool[k] for k in rng.permutation(len(pool))[:count]]

    found: dict[str, list[Molecule]] = {"stretched": [], "clash": [], "pushed": []}
    for m in some(6, [m for m in small if chain_bonds(m)]):
        bond = chain_bonds(m)[rng.integers(len(chain_bonds(m)))]
        found["stretched"] += [scale_bond(m, bond, factor) for factor in (1.5, 2.0, 3.0)]
    for m in some(3, [m for m in small if chain_bonds(m, 1)]):
        bond = chain_bonds(m, 1)[rng.integers(len(chain_bonds(m, 1)))]
        found["clash"] += [scale_bond(m, bond, factor) for factor in (0.4, 0.5, 0.6)]
    tiny = [m for m in small if m.n_atoms <= 4]
    for first, second in zip(some(3, tiny), some(3, tiny), strict=True):
        found["pushed"] += [push(first, second, distance, rng) for distance in (1.0, 1.25, 1.5)]
    hydrogenated = [m for m in small if m.numbers.count(1) >= 2]
    found["valence"] = [remove_hydrogens(m, rng) for m in some(4, hydrogenated)]
    found["valence"] += [add_hydrogens(m, rng) for m in some(4, small)] + odd_molecules()
    found["diatomic"] = [polygon("F2", 9, 2, 1.41), polygon("N2", 7, 2, 1.1), polygon("O2", 8, 2, 1.21)]
    for m in some(4, small):
        found.setdefault("charge", []).extend(replace(m, name=f"{m.name} {q:+d}", charge=q) for q in (2, -2))
    found["chain"] = [polyyne(8), polyyne(12), alkane(8)] + ([polyyne(98), alkane(32)] if long else [])
    return [Case(group, m) for group, molecules in found.items() for m in molecules]


def noise_cases(ordinary: Sequence[Molecule], count: int = 8) -> list[Case]:
    """The first small ordinary molecules, each under models with noise of its own."""
    small = [m for m in ordinary if m.n_atoms <= SMALL][:count]
    return [Case(f"{NOISE} {x:.0%}", m, x, 100 * i + k) for k, m in enumerate(small) for i, x in enumerate(NOISES)]


def with_noise(model: PretrainedModel, level: float, seed: int) -> PretrainedModel:
    """The model with gaussian noise on its weights; one that serves ions in any case."""
    import torch

    network = copy.deepcopy(model.checkpoint.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters() if level else ():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(level * parameter.square().mean().sqrt() * noise)
    return replace(model, checkpoint=replace(model.checkpoint, model=network, serve_ions=True))


def density(fock: Array, overlap: Array, electrons: int) -> Array:
    """Closed-shell density (nao, nao) of a Fock matrix, Aufbau."""
    occupied = diagonalise(fock, overlap).coefficients[:, : electrons // 2]
    return 2.0 * occupied @ occupied.T


def run_scf(mf: Any, dm: Array) -> Outcome:
    """SCF from a density; integrals and grid of the object are kept."""
    mf.kernel(dm0=dm)
    return Outcome(int(mf.cycles), bool(mf.converged), float(mf.e_tot))


def run_task(cases: tuple[Case, ...]) -> list[Row]:
    """Rows of the cases of one molecule."""
    mf, known = Level("gate").make_mf(cases[0].molecule), dict[str, Outcome]()
    return [_run_case(case, mf, known) for case in cases]


def _run_case(case: Case, mf: Any, known: dict[str, Outcome]) -> Row:
    """known: SCFs that do not depend on the model's weights. What raises becomes a row with the message."""
    from pyscf_tracegrad.pretrained import load_model

    start, name, mol = Outcome(), case.molecule.name, mf.mol
    row = Row(case.group, name, case.molecule.n_atoms, case.molecule.charge, {}, start, start, start)
    try:
        minao = mf.get_init_guess(mol, "minao")
        if "minao" not in known:
            known["minao"] = run_scf(mf, minao)
        row = replace(row, minao=known["minao"])
        prediction = with_noise(load_model(case.model or None), case.noise, case.seed).predict(mol)
        fock, ovlp = prediction.reference.fock, prediction.overlap
        signals = measure_network(prediction)
        row = replace(row, signals=signals.values())
        if "reference" not in known:
            known["reference"] = run_scf(mf, density(fock, ovlp, mol.nelectron))
        row = replace(row, reference=known["reference"])
        return replace(row, network=run_scf(mf, density(prediction.fock, ovlp, mol.nelectron)))
    except Exception as error:  # noqa: BLE001  (a failure is a row of the table, whatever it is)
        return replace(row, error=message(error))


def make_tasks(cases: Sequence[Case]) -> list[tuple[Case, ...]]:
    """Cases of the same molecule together."""
    names = dict.fromkeys(case.molecule.name for case in cases)
    return [tuple(case for case in cases if case.molecule.name == name) for name in names]


def select(a: argparse.Namespace) -> list[Case]:
    """All cases, in the order in which they run: the slow ones last."""
    molecules, trained = read_npz(a.data), read_labels(a.labels, split=None)
    counts = {"neutral": a.structures, "ions": 0, "radicals": 0}
    structures = robustness.select(molecules, counts, 9, a.structures // 4, trained, a.seed)
    validation = sorted(read_labels(a.labels), key=lambda m: m.n_atoms)[: a.validation]
    cases = [Case(ORDINARY[1], m) for m in structures] + noise_cases(structures)
    cases += bad_cases(structures, a.seed, a.long) + [Case(ORDINARY[0], m) for m in validation]
    return sorted(cases, key=lambda c: (c.molecule.n_atoms > 9, c.group == ORDINARY[0]))


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.gate", __doc__)
    parser.add_argument("--data", required=True, help="structures (ragged npz)")
    parser.add_argument("--labels", nargs="+", required=True, help="label files, for their validation molecules")
    parser.add_argument("--model", default="", help="model file; default: the shipped one")
    parser.add_argument("--validation", type=positive, default=25, help="so many of the smallest validation molecules")
    parser.add_argument("--structures", type=positive, default=25, help="so many ordinary structures")
    parser.add_argument("--long", action="store_true", help="chains of 100 atoms as well")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    parser.add_argument("--margin", type=float, default=1.5, help="of the suggested limits")
    parser.add_argument("--plot", type=Path, help="picture of the ROC curves; needs matplotlib")
    add_run_options(parser)
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    rows = read_rows(a.out)
    if not a.summary_only:
        done = {row.key for row in rows}
        cases = [replace(c, model=a.model) for c in select(a) if (c.group, c.molecule.name) not in done]
        tasks = make_tasks(cases)
        rows += run_all(run_task, tasks, a.out, a.workers, a.threads, write_rows)
    print(summary(rows, a.margin))
    if a.plot:
        plot(rows, a.plot)


if __name__ == "__main__":
    sys.exit(main())
