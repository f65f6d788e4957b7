"""Structures of one molecule are kept together, wherever they are from, and a set that would part them is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyscf import gto
from pyscf.data.elements import ELEMENTS

from data.apart import check_split
from data.errors import SetFileError
from data.generate import main
from data.molecules import divided, known_names, molecule_names
from data.settings import Source, Split, read_set
from data.smiles import embed
from data.sources import read_sources
from data.splits import _by_hash, assign
from data.structure import Seed, Structure

SETS = Path(__file__).parents[1] / "data" / "sets"
ATOMS = {
    "water": "O 0 0 0; H 0 0.757 0.587; H 0 -0.757 0.587",
    "ammonia": "N 0 0 0; H 0.94 0 0.38; H -0.47 0.814 0.38; H -0.47 -0.814 0.38",
    "methane": "C 0 0 0; H .63 .63 .63; H -.63 -.63 .63; H -.63 .63 -.63; H .63 -.63 -.63",
    "hydrogen fluoride": "H 0 0 0; F 0 0 0.92",
}
ETHANOL = "CCO"


def by_atoms(name: str, atoms: str, charge: int = 0, seed: int = 0) -> Structure:
    """Its own parent, as a frame of a file; seed: of a displacement, in another order of the atoms."""
    mol = gto.M(atom=atoms, charge=charge, spin=None)
    rng = np.random.default_rng(seed)
    order = rng.permutation(mol.natm) if seed else np.arange(mol.natm)
    moved = mol.atom_coords() + (rng.normal(scale=0.05, size=(mol.natm, 3)) if seed else 0.0)
    return Structure(name, mol.atom_charges()[order].astype(np.int64), moved[order], charge)


def by_smiles(name: str, smiles: str, keep: bool = True) -> Structure:
    made = embed(Seed(name, smiles=smiles), np.random.default_rng(1))
    return made if keep else replace(made, smiles="")


def write_xyz(path: Path, frames: list[Structure]) -> None:
    with path.open("w") as file:
        for s in frames:
            pairs = zip(s.atomic_numbers, s.positions, strict=True)
            lines = [f"{ELEMENTS[z]} {x[0]:.8f} {x[1]:.8f} {x[2]:.8f}" for z, x in pairs]
            file.write("\n".join([str(s.n_atoms), f"charge={s.charge}", *lines, ""]))


def test_frames_of_trajectories_without_parents_stay_together() -> None:
    structures = [by_atoms(f"{name}_{k}", atoms, seed=k) for name, atoms in ATOMS.items() for k in range(1, 9)]
    for seed in range(3):
        found = assign(Split("molecule", val=0.25, test=0.25, seed=seed), structures)
        parts = [set(found[k : k + 8]) for k in range(0, 32, 8)]
        assert sorted(map(sorted, parts)) == [["test"], ["train"], ["train"], ["val"]]
        order = np.random.default_rng(seed).permutation(32)
        again = assign(Split("molecule", val=0.25, test=0.25, seed=seed), [structures[k] for k in order])
        assert again == [found[k] for k in order]
    assert set(assign(Split("molecule", val=0.25), structures[:8])) == {"train"}


def test_one_molecule_from_several_sources_is_one() -> None:
    structures = [
        by_smiles("smiles", "N"),
        by_atoms("xyz", ATOMS["ammonia"], seed=2),
        by_smiles("sdf", ETHANOL),
        by_smiles("ase", ETHANOL, keep=False),
        by_smiles("ether", "COC"),
        by_smiles("nitro", "C[N+](=O)[O-]"),
        by_smiles("nitro_xyz", "C[N+](=O)[O-]", keep=False),
        by_smiles("R", "C[C@H](O)F"),
        by_smiles("S", "C[C@@H](O)F", keep=False),
    ]
    assert molecule_names(structures) == ["smiles"] * 2 + ["ase"] * 2 + ["ether"] + ["nitro"] * 2 + ["R"] * 2
    assert known_names(structures) == [s.name for s in structures]


@pytest.mark.parametrize(
    ("neutral", "ion"),
    [
        ("N", "[NH4+]"),
        ("C", "[CH3-]"),
        ("O", "[OH-]"),
        ("CC(=O)O", "CC(=O)[O-]"),
        ("CC=O", "CC=[OH+]"),
        ("CC=O", "C=C[O-]"),
    ],
)
def test_ions_go_with_the_molecule_that_they_are_a_proton_more_or_less_of(neutral: str, ion: str) -> None:
    others = [by_smiles("a", "CO"), by_smiles("b", "CN"), by_smiles("c", "COC")]
    pair = [by_smiles("n", neutral), by_smiles("i", ion, keep=False)]
    assert molecule_names([*others, *pair]) == ["a", "b", "c", "i", "i"]


def test_tautomers_are_two_molecules_unless_a_stray_ion_may_be_of_either() -> None:
    tautomers = [by_smiles("aldehyde", "CC=O"), by_smiles("enol", "OC=C")]
    assert molecule_names(tautomers) == ["aldehyde", "enol"]
    carbanion = by_atoms("methanide", "C 0 0 0; H 1 0 0.3; H -0.5 0.87 0.3; H -0.5 -0.87 0.3", charge=-1)
    own = replace(carbanion, name="ion", parent="methane")
    # an ion whose parent is there needs no other
    assert molecule_names([by_smiles("methane", "C"), own, *tautomers]) == ["methane", "methane", "aldehyde", "enol"]


def test_a_frame_with_a_broken_bond_goes_with_all_of_its_sum_formula() -> None:
    whole, isomer = by_smiles("ethanol", ETHANOL), by_smiles("ether", "COC")
    positions = whole.positions.copy()
    positions[np.flatnonzero(whole.atomic_numbers == 1)[0]] += 5.0
    broken = replace(whole, name="broken", parent="broken", positions=positions, smiles="")
    assert molecule_names([whole, isomer]) == ["ethanol", "ether"]
    assert molecule_names([whole, isomer, broken]) == ["broken"] * 3
    assert [parts for _, parts in divided([whole, broken], ["train", "val"])] == [{"train", "val"}]


def test_splits_without_a_conflict_are_as_they_always_were() -> None:
    """Two structures of one molecule in one split move no other, whatever the identity says."""
    structures = [
        by_smiles(f"m{k}", smiles) for k, smiles in enumerate(("C", "CC", "CO", "CN", "CF", "C#N", "C=O", "O"))
    ]
    structures.append(by_atoms("water", ATOMS["water"]))
    kept = 0
    for seed in range(12):
        split = Split("molecule", val=0.25, seed=seed)
        by_source = _by_hash(split, known_names(structures))
        found = assign(split, structures)
        assert found[-1] == found[-2]
        if by_source[-1] == by_source[-2]:
            assert found == by_source
            kept += 1
    assert 0 < kept < 12


def test_the_recorded_split_of_the_walk_through() -> None:
    set_file = read_set(SETS / "twenty.toml")
    made = [
        replace(embed(seed, np.random.default_rng(0)), name=f"{seed.name}_eq0", parent=seed.name)
        for _, seed in read_sources(set_file)
    ]
    found = assign(set_file.split, made)
    assert [s.parent for s, part in zip(made, found, strict=True) if part == "val"] == [
        "mol0006",
        "mol0008",
        "mol0011",
        "mol0014",
    ]
    assert found == _by_hash(set_file.split, [s.parent for s in made])


@pytest.mark.slow
def test_the_split_of_a_set_like_the_shipped_one_is_as_it_always_was() -> None:
    set_file = read_set(SETS / "shipped-like.toml")
    structures = [seed.structure for _, seed in read_sources(set_file) if seed.structure is not None]
    assert assign(set_file.split, structures) == _by_hash(set_file.split, known_names(structures))


def recipes(*pairs: tuple[Source, Structure | str]) -> list[tuple[Source, Seed]]:
    return [
        (source, Seed(f"s{k}", smiles=what) if isinstance(what, str) else Seed(what.name, structure=what))
        for k, (source, what) in enumerate(pairs)
    ]


WATER = by_atoms("xyz_water", ATOMS["water"])
PLAIN, FRAMES = Source(smiles=("O",)), Source(smiles=("O",), frames=2)
ALL_IONS = Source(smiles=("O",), ions="protonate")


@pytest.mark.parametrize(
    ("split", "pairs", "message"),
    [
        (Split("random"), ((FRAMES, "CO"),), "'random' would put structures of s0 into several splits"),
        (
            Split("random"),
            ((PLAIN, "CO"), (PLAIN, "O"), (PLAIN, WATER)),
            "s1 and xyz_water, one molecule, into",
        ),
        (Split("size", train_atoms=3, val_atoms=4), ((ALL_IONS, "O"),), "structures of s0 into train and val"),
        (
            Split("size", train_atoms=3, val_atoms=4),
            ((PLAIN, WATER), (PLAIN, "[OH3+]")),
            "xyz_water and s1, one molecule, into train and val",
        ),
    ],
)
def test_a_set_that_would_part_a_molecule_is_refused(
    split: Split, pairs: tuple[tuple[Source, Structure | str], ...], message: str
) -> None:
    with pytest.raises(SetFileError, match=message):
        check_split(split, recipes(*pairs))
    check_split(replace(split, kind="molecule"), recipes(*pairs))
    check_split(replace(split, mixed=True), recipes(*pairs))
    check_split(Split("train"), recipes(*pairs))


def test_a_molecule_of_an_official_test_set_may_not_train_from_another_source() -> None:
    official = assign(Split("qh9-id"), [replace(WATER, gdb_index=k) for k in range(1, 40)])
    tested, trained = (official.index(part) + 1 for part in ("test", "train"))
    twin = by_atoms("twin", ATOMS["water"], seed=3)
    for split in (Split("qh9-id"), Split("random")):
        with pytest.raises(SetFileError, match="xyz_water and twin, one molecule"):
            check_split(split, recipes((PLAIN, replace(WATER, gdb_index=tested)), (PLAIN, twin)))
    check_split(Split("qh9-id"), recipes((PLAIN, replace(WATER, gdb_index=trained)), (PLAIN, twin)))
    # stereoisomers have a QM9 index each, and the official splits go by it
    both = ((PLAIN, replace(WATER, gdb_index=tested)), (PLAIN, replace(twin, gdb_index=trained)))
    check_split(Split("qh9-id"), recipes(*both))
    check_split(Split("random"), recipes((PLAIN, "O"), (PLAIN, "CO")))


def test_generate_refuses_before_it_makes_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_xyz(tmp_path / "traj.xyz", [by_atoms("", ATOMS["water"], seed=k) for k in range(1, 5)])
    text = '[split]\nkind = "random"\nval = 0.25\n[[source]]\nkind = "xyz"\nunit = "bohr"\nfiles = ["traj.xyz"]\n'
    (tmp_path / "set.toml").write_text(text)
    assert main([str(tmp_path / "set.toml"), "-o", str(tmp_path / "set.h5")]) != 0
    errors = capsys.readouterr().err
    assert "error: split.kind 'random' would put traj_1 and traj_2, one molecule, into several splits" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.toml", "traj.xyz"]
