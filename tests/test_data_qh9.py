"""Databases of others: QH9's SQLite files and Hamiltonians with overlap, written here in their schema and read back."""

import re
import sqlite3
from collections import Counter
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyscf import dft, gto, lib
from pyscf.data.nist import BOHR
from scipy.linalg import eigh

from data import hamiltonians, qh9, splits
from data.errors import SetFileError
from training.labels import LabelFile

Array = NDArray[np.float64]

# QH9-Stable starts with methane, ammonia, water, acetylene, hydrogen cyanide, formaldehyde; angstrom
WATER = "O 0.02 0.11 -0.04; H 0.75 -0.50 0.12; H -0.71 -0.52 -0.17"
FORMALDEHYDE = "C 0.01 0.03 0.02; O 1.13 0.36 0.21; H -0.77 0.79 0.05; H -0.34 -1.01 -0.16"
AMMONIA = "N 0.02 0.03 0.10; H 0.95 0.06 -0.27; H -0.42 0.86 -0.28; H -0.51 -0.77 -0.29"
MOLECULES = {1: AMMONIA, 2: WATER, 5: FORMALDEHYDE}  # by position


@cache
def converged(atoms: str, xc: str) -> tuple[gto.Mole, Array, float]:
    mol = gto.M(atom=atoms, basis="def2-svp", verbose=0)
    mf = dft.RKS(mol, xc=xc)
    mf.conv_tol_grad = 1e-7
    energy = mf.kernel()
    return mol, mf.get_fock(dm=mf.make_rdm1()), float(energy)


def atoms_of(mol: gto.Mole) -> bytes:
    return mol.atom_charges().astype(np.int32).tobytes()


def stable(path: Path, first: int = 0, unit: str = "Angstrom", xc: str = "b3lyp5", n: int = 3) -> Path:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE data (id INTEGER PRIMARY KEY, N INTEGER, Z BLOB, pos BLOB, Ham BLOB)")
        for k, atoms in list(MOLECULES.items())[:n]:
            mol, fock, _ = converged(atoms, xc)
            row = (k + first, mol.natm, atoms_of(mol), mol.atom_coords(unit=unit).tobytes(), fock.tobytes())
            db.execute("INSERT INTO data VALUES (?, ?, ?, ?, ?)", row)
    db.close()
    return path


def dynamic(path: Path, energy_unit: float = 1.0) -> Path:
    """Three molecules of ten geometries each; geometry 3 of each is not converged."""
    columns = "id INTEGER, geo_id INTEGER, N INTEGER, Z BLOB, pos BLOB, ekin, epot, etot, time, Ham BLOB, converged"
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE data ({columns})")
        for m, atoms in enumerate((WATER, AMMONIA, FORMALDEHYDE)):
            mol, fock, energy = converged(atoms, "b3lyp5")
            for k in range(10):
                values = (700 + m, k, mol.natm, atoms_of(mol), mol.atom_coords().tobytes(), 0.0, energy * energy_unit)
                db.execute(
                    "INSERT INTO data VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*values, 0.0, 0.0, fock.tobytes(), k != 3),
                )
    db.close()
    return path


@pytest.fixture
def stable_db(tmp_path: Path) -> Path:
    return stable(tmp_path / "QH9Stable.db")


def test_stable_becomes_a_label_file(stable_db: Path, tmp_path: Path) -> None:
    n, skipped = qh9.convert(stable_db, tmp_path / "labels.h5")
    assert (n, skipped) == (3, Counter())
    labels = LabelFile(tmp_path / "labels.h5")
    assert (labels.theory.xc, labels.theory.basis) == ("b3lyp5", "def2-svp")
    assert labels.names == ["000002", "000003", "000006"]  # positions 1, 2, 5
    official = splits.stable_id().names(splits.STABLE_SIZE)
    assert labels.splits == [official[k] for k in MOLECULES]
    for label, atoms in zip(labels, MOLECULES.values(), strict=True):
        mol, fock, _ = converged(atoms, "b3lyp5")
        assert np.isnan(label.energy)
        assert np.allclose(label.positions, mol.atom_coords(), atol=1e-12)
        assert np.abs(label.full_fock() - fock).max() < 2e-6  # float32
        # the density of the stored matrix, in PySCF's order, gives the matrix again
        mol = label.molecule("def2-svp")
        occupied = eigh(label.full_fock(), mol.intor("int1e_ovlp"))[1][:, : mol.nelectron // 2]
        assert np.abs(dft.RKS(mol, xc="b3lyp5").get_fock(dm=2 * occupied @ occupied.T) - fock).max() < 1e-5


def test_the_label_file_names_the_licence(stable_db: Path, tmp_path: Path) -> None:
    import h5py

    qh9.convert(stable_db, tmp_path / "labels.h5", "ood")
    with h5py.File(tmp_path / "labels.h5") as file:
        assert "CC BY-NC-SA 4.0" in file.attrs["source"]
        assert "ood" in file.attrs["source"]
        assert list(file["gdb_index"]) == [2, 3, 6]
        assert np.isnan(file["gradient_norm"]).all()
        assert list(file["split"].asstr()) == ["train"] * 3


def test_the_functional_is_found_from_the_matrices(tmp_path: Path) -> None:
    qh9.convert(stable(tmp_path / "a.db", xc="b3lypg", n=1), tmp_path / "labels.h5")
    assert LabelFile(tmp_path / "labels.h5").theory.xc == "b3lypg"
    with pytest.raises(SetFileError, match="not a converged Fock matrix of B3LYP"):
        qh9.convert(stable(tmp_path / "b.db", xc="pbe", n=1), tmp_path / "labels.h5")


def test_parts_and_limit(stable_db: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.h5"
    assert qh9.convert(stable_db, out, "all", limit=2)[0] == 2
    assert qh9.convert(stable_db, out, "ood", parts=["train"])[0] == 3
    with pytest.raises(SetFileError, match="no row to convert"):
        qh9.convert(stable_db, out, "ood", parts=["test"])
    assert len(LabelFile(out)) == 3  # the older file is untouched


def test_dynamic_by_molecule(tmp_path: Path) -> None:
    n, skipped = qh9.convert(dynamic(tmp_path / "QH9Dynamic.db"), tmp_path / "labels.h5")
    assert n == 27
    assert skipped == {"not converged": 3}
    labels = LabelFile(tmp_path / "labels.h5")
    assert labels.names[:4] == ["mol00001_md1", "mol00001_md2", "mol00001_md3", "mol00001_md5"]
    parts = splits.dynamic_molecules(3).names(3)
    assert labels.splits == [part for part in parts for _ in range(9)]
    assert np.allclose(labels[0].positions, converged(WATER, "b3lyp5")[0].atom_coords())
    assert labels[0].energy == pytest.approx(converged(WATER, "b3lyp5")[2], abs=1e-12)


def test_dynamic_by_geometry_counts_all_rows(tmp_path: Path) -> None:
    qh9.convert(dynamic(tmp_path / "QH9Dynamic.db", energy_unit=27.2), tmp_path / "labels.h5", "geometry")
    labels = LabelFile(tmp_path / "labels.h5")
    names = splits.dynamic_geometries([10, 10, 10]).names(30)
    assert labels.splits == [name for k, name in enumerate(names) if k % 10 != 3]
    assert all(np.isnan(label.energy) for label in labels)  # electronvolts are no total energy in hartree


def test_the_unit_is_checked(tmp_path: Path) -> None:
    with pytest.raises(SetFileError, match=r"3\.\d\d bohr apart; its positions are not in angstrom"):
        qh9.convert(stable(tmp_path / "a.db", unit="Bohr"), tmp_path / "labels.h5")
    path = dynamic(tmp_path / "b.db")
    with sqlite3.connect(path) as db:
        pos = (converged(WATER, "b3lyp5")[0].atom_coords() * BOHR).tobytes()
        db.execute("UPDATE data SET pos = ? WHERE id = 700", (pos,))
    db.close()
    with pytest.raises(SetFileError, match="its positions are not in bohr"):
        qh9.convert(path, tmp_path / "labels.h5")
    assert not (tmp_path / "labels.h5").exists()


def test_an_order_that_is_not_qh9s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetFileError, match="row 2 has 4 atoms"):
        qh9.convert(stable(tmp_path / "a.db", first=1), tmp_path / "labels.h5")
    path = dynamic(tmp_path / "b.db")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE data SET id = 700 WHERE id = 702")
    db.close()
    with pytest.raises(SetFileError, match="do not follow each other"):
        qh9.convert(path, tmp_path / "labels.h5")


def test_complete_sets_have_the_official_splits_whether_they_count_from_0_or_1() -> None:
    gdb, n_atoms = splits.stable_gdb_index(), splits.stable_n_atoms()
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE data (id INTEGER PRIMARY KEY, N INTEGER)")
        db.executemany("INSERT INTO data VALUES (?, ?)", enumerate(n_atoms.tolist()))
        from_0 = qh9.plan_stable(db, "ood")
        db.execute("DELETE FROM data")
        db.executemany("INSERT INTO data VALUES (?, ?)", enumerate(n_atoms.tolist(), start=1))
        from_1 = qh9.plan_stable(db, "ood")
    assert [e[1:] for e in from_0] == [e[1:] for e in from_1]
    assert [e.gdb_index for e in from_0] == gdb.tolist()
    assert Counter(e.part for e in from_0) == {"train": 104001, "val": 17495, "test": 9335}
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE data (id, N, converged)")
        positions = np.searchsorted(gdb, splits.dynamic_gdb_index())
        db.executemany("INSERT INTO data VALUES (?, ?, 1)", enumerate(n_atoms[positions].tolist()))
        entries = qh9.plan_dynamic(db, "mol", Counter())
        assert [e.gdb_index for e in entries] == splits.dynamic_gdb_index().tolist()
        assert entries[0].parent == "009707"
        assert Counter(e.part for e in entries) == {"train": 2398, "val": 299, "test": 301}
        db.execute("UPDATE data SET N = N + 1 WHERE id = 17")
        with pytest.raises(SetFileError, match="molecule 17 has"):
            qh9.plan_dynamic(db, "mol", Counter())


def test_broken_rows_are_left_out_and_named(stable_db: Path, tmp_path: Path) -> None:
    with sqlite3.connect(stable_db) as db:
        fock = converged(WATER, "b3lyp5")[1].copy()
        fock[0, 1] += 1e-3
        db.execute("UPDATE data SET Ham = ? WHERE id = 2", (fock.tobytes(),))
        db.execute("UPDATE data SET Ham = ? WHERE id = 5", (fock.tobytes(),))
    db.close()
    n, skipped = qh9.convert(stable_db, tmp_path / "labels.h5")
    assert n == 1
    assert sorted(skipped) == [
        "000003: the Hamiltonian is not symmetric, or NaN",
        "000006: a Hamiltonian of 4608 bytes, but 38 AOs take 11552",
    ]


def test_files_that_are_not_qh9s(tmp_path: Path, stable_db: Path) -> None:
    out = tmp_path / "labels.h5"
    with pytest.raises(SetFileError, match="no such file"):
        qh9.convert(tmp_path / "none.db", out)
    (tmp_path / "text.db").write_text("SQLite it is not, " * 100)
    with pytest.raises(SetFileError, match="not an SQLite database"):
        qh9.convert(tmp_path / "text.db", out)
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE data (id INTEGER PRIMARY KEY, smiles TEXT)")
    db.close()
    with pytest.raises(SetFileError, match=re.escape("['id', 'smiles']")):
        qh9.convert(tmp_path / "other.db", out)
    with pytest.raises(SetFileError, match="its splits are id, ood, all, not mol"):
        qh9.convert(stable_db, out, "mol")


# Hamiltonians with overlap: frames of a molecule with d and f shells, written in the order of another program

BASIS = "def2-tzvp"


def frames(n: int = 3) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """(Z, R in angstrom, H, S): core Hamiltonians stand for Fock matrices, which need the same order."""
    rng = np.random.default_rng(0)
    mol = gto.M(atom=WATER, basis=BASIS, verbose=0)
    positions = mol.atom_coords(unit="Angstrom") + rng.normal(0, 0.03, (n, 3, 3))
    mols = [mol.set_geom_(x, unit="Angstrom", inplace=False) for x in positions]
    focks = np.array([m.intor("int1e_kin") + m.intor("int1e_nuc") for m in mols])
    return mol.atom_charges(), positions, focks, np.array([m.intor("int1e_ovlp") for m in mols])


def shell_orders(name: str) -> dict[int, list[tuple[int, int]]]:
    """(position in PySCF's shell, sign) in the order of the other program, from tables of their manuals, by hand."""
    tables = {
        "pyscf": {1: [0, 1, 2], 2: [0, 1, 2, 3, 4], 3: [0, 1, 2, 3, 4, 5, 6]},
        "ascending m": {1: [1, 2, 0], 2: [0, 1, 2, 3, 4], 3: [0, 1, 2, 3, 4, 5, 6]},
        "psi4": {1: [2, 0, 1], 2: [2, 3, 1, 4, 0], 3: [3, 4, 2, 5, 1, 6, 0]},
        "orca": {1: [2, 0, 1], 2: [2, 3, 1, 4, 0], 3: [3, 4, 2, 5, 1, 6, 0]},
        "fhi-aims": {1: [1, 2, 0], 2: [0, 1, 2, 3, 4], 3: [0, 1, 2, 3, 4, 5, 6]},
    }
    signs = {"orca": {3: (6, 0)}, "fhi-aims": {1: (0,), 2: (3,), 3: (4, 6)}}.get(name, {})
    return {l: [(k, -1 if k in signs.get(l, ()) else 1) for k in order] for l, order in tables[name].items()}


def scramble(matrices: Array, name: str) -> Array:
    mol = gto.M(atom=WATER, basis=BASIS, verbose=0)
    orders = shell_orders(name)
    index, sign = [], []
    for shell in range(mol.nbas):
        l, start = mol.bas_angular(shell), mol.ao_loc[shell]
        for contraction in range(mol.bas_nctr(shell)):
            for k, s in orders[l] if l else [(0, 1)]:
                index.append(start + contraction * (2 * l + 1) + k)
                sign.append(s)
    return np.asarray(matrices[:, index][:, :, index] * np.outer(sign, sign))


def write_npz(path: Path, name: str) -> Path:
    Z, R, H, S = frames()
    np.savez(path, Z=Z, R=R, H=scramble(H, name), S=scramble(S, name), E=np.array([[-76.1], [-76.2], [-76.3]]))
    return path


@pytest.mark.parametrize("convention", ["pyscf", "ascending m", "psi4", "orca", "fhi-aims"])
def test_the_order_of_the_aos_is_found(tmp_path: Path, convention: str) -> None:
    _, R, H, S = frames()
    rows = list(hamiltonians.read_rows(write_npz(tmp_path / "md17_water.npz", convention), BASIS, "angstrom"))
    for k, row in enumerate(rows):
        assert np.abs(lib.unpack_tril(row.fock) - H[k]).max() < 2e-6
        assert np.allclose(row.structure.positions * BOHR, R[k])
    assert [row.energy for row in rows] == [-76.1, -76.2, -76.3]
    assert [row.structure.name for row in rows] == ["md17_water_md1", "md17_water_md2", "md17_water_md3"]
    assert {row.structure.parent for row in rows} == {"md17_water"}
    mol = rows[0].structure.molecule(BASIS)
    assert hamiltonians.find_convention(scramble(H, convention)[0], scramble(S, convention)[0], mol).name == convention


def test_an_ase_database(tmp_path: Path) -> None:
    from ase import Atoms
    from ase.db import connect

    Z, R, H, S = frames()
    H, S = scramble(H, "orca"), scramble(S, "orca")
    with connect(str(tmp_path / "water.db")) as db:
        for k in range(3):
            db.write(Atoms(Z, R[k]), data={"energy": np.array([-76.0]), "hamiltonian": H[k], "overlap": S[k]})
    rows = list(hamiltonians.read_rows(tmp_path / "water.db", BASIS, "angstrom"))
    assert np.abs(lib.unpack_tril(rows[2].fock) - frames()[2][2]).max() < 2e-6
    assert rows[0].energy == -76.0


def test_what_the_overlap_does_not_confirm_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", "orca")
    with pytest.raises(SetFileError, match="check the basis and the unit"):
        list(hamiltonians.read_rows(path, BASIS, "bohr"))
    with pytest.raises(SetFileError, match=r"but def2-svp has 24 AOs; other basis\?"):
        list(hamiltonians.read_rows(path, "def2-svp", "angstrom"))
    Z, R, H, S = frames()
    reversed_shells = S[:, ::-1, ::-1]
    np.savez(tmp_path / "b.npz", Z=Z, R=R, H=H, S=reversed_shells)
    with pytest.raises(SetFileError, match=r"b.npz, frame 0: no known order"):
        list(hamiltonians.read_rows(tmp_path / "b.npz", BASIS, "angstrom"))
    S[2] = scramble(S, "psi4")[2]
    np.savez(tmp_path / "c.npz", Z=Z, R=R, hamiltonian=H, overlap=S)
    with pytest.raises(SetFileError, match="frame 2: the overlap is not in the pyscf order"):
        list(hamiltonians.read_rows(tmp_path / "c.npz", BASIS, "angstrom"))
    np.savez(tmp_path / "d.npz", Z=Z, R=R, H=H)
    with pytest.raises(SetFileError, match=r"d.npz: no array"):
        list(hamiltonians.read_rows(tmp_path / "d.npz", BASIS, "angstrom"))
    with pytest.raises(SetFileError, match=r"none.db: .*no such file"):
        list(hamiltonians.read_rows(tmp_path / "none.db", BASIS, "angstrom"))


def test_an_overlap_that_fits_two_orders_is_refused() -> None:
    # one atom: every order has the unit matrix within a shell; only a Fock matrix of its symmetry is the same in all
    mol = gto.M(atom="Ne", basis="def2-svp", verbose=0)
    S = mol.intor("int1e_ovlp")
    spherical = mol.intor("int1e_kin")
    assert hamiltonians.find_convention(spherical, S, mol).name == "pyscf"
    with pytest.raises(SetFileError, match=r"does not tell pyscf and ascending m and .* apart"):
        hamiltonians.find_convention(spherical + np.diag(np.arange(mol.nao) * 0.1), S, mol)


def test_unknown_degrees_are_refused() -> None:
    mol = gto.M(atom="Ne", basis={"Ne": [[5, [1.0, 1.0]]]}, verbose=0)
    with pytest.raises(SetFileError, match="degree 5"):
        hamiltonians.reorder(hamiltonians.CONVENTIONS[0], mol)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """(exit status, standard error) of data.hamiltonians."""
    status = hamiltonians.main(["--unit", "angstrom", *map(str, arguments)])
    return status, capsys.readouterr().err


def test_what_the_command_line_cannot_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_npz(tmp_path / "a.npz", "orca"), tmp_path / "a.h5"
    (tmp_path / "file").touch()
    for xc, basis, to, message in (
        ("pbe", BASIS, tmp_path, "a folder"),
        ("pbe", BASIS, path, "or the file that is read"),
        ("pbe", BASIS, tmp_path / "file" / "a.h5", "file"),
        ("pbe", "foo", out, "a.npz, frame 0: theory.basis 'foo' has no functions for H"),
        ("pbx", BASIS, out, "theory.xc 'pbx' is not a functional"),
    ):
        status, error = command(capsys, path, "-o", to, "--xc", xc, "--basis", basis)
        assert (status, error.count("\n")) == (2, 1)
        assert message in error
        assert not out.exists()
    assert command(capsys, path, "-o", out, "--xc", "pbe", "--basis", BASIS) == (0, "")
    assert len(LabelFile(out)) == 3


@pytest.mark.parametrize("short", ["H", "S", "E", "Z"])
def test_arrays_of_different_lengths_are_refused(tmp_path: Path, short: str) -> None:
    Z, R, H, S = frames()
    arrays = {"R": R, "H": H, "S": S, "E": np.zeros(3), "Z": np.tile(Z, (3, 1))}
    np.savez(tmp_path / "a.npz", **{key: a[:2] if key == short else a for key, a in arrays.items()})
    with pytest.raises(SetFileError, match=r"a.npz: .*not as many of each: R \(3, 3, 3\)"):
        list(hamiltonians.read_rows(tmp_path / "a.npz", BASIS, "angstrom"))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-100])
    with pytest.raises(SetFileError, match=r"a.npz: not a readable database"):
        list(hamiltonians.read_rows(tmp_path / "a.npz", BASIS, "angstrom"))
