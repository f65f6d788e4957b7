"""What surrounds a guess: threads, processes, bad input, damaged weights, a bare file system, every element."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyscf import gto, lib
from threadpoolctl import threadpool_info

from pyscf_tracegrad import OutsideDomain, load_model, pretrained, tracegrad_guess
from pyscf_tracegrad.errors import BadMolecule, CheckpointError
from pyscf_tracegrad.pretrained import PretrainedModel

BASIS = "def2-svp"
WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
FLUORIDE = "H 0 0 0; F 0 0 0.92"
TIMEOUT = 500  # seconds; a process that hangs is killed then, a slow one on a busy machine is not


def fluoride(**keywords: Any) -> gto.Mole:
    return gto.M(**{"atom": FLUORIDE, "basis": BASIS, "verbose": 0, **keywords})


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = lib.num_threads(), torch.get_num_threads()
    lib.num_threads(2)
    torch.set_num_threads(2)
    yield
    lib.num_threads(before[0])
    torch.set_num_threads(before[1])


def thread_counts() -> Any:
    pools = {p["filepath"]: p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}
    return lib.num_threads(), torch.get_num_threads(), pools


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("make", [lambda m: m, lambda m: m.RKS(xc="pbe"), lambda m: m.UHF(), lambda m: m.DHF()])
def test_thread_counts_are_left_alone(make: Any) -> None:
    mol = fluoride(basis="sto-3g")
    tracegrad_guess(mol)  # loads all libraries
    before = thread_counts()
    assert before[:2] == (2, 2)
    tracegrad_guess(make(mol))
    assert thread_counts() == before


def test_default_dtype_and_gradients_are_left_alone(water: gto.Mole) -> None:
    tracegrad_guess(water)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("kind", ["RKS", "RHF", "UKS"])
def test_two_threads_give_what_one_gives(kind: str, water: gto.Mole) -> None:
    molecules = [water, fluoride()]
    expected = [tracegrad_guess(getattr(mol, kind)()) for mol in molecules]
    barrier = threading.Barrier(2, timeout=TIMEOUT)

    def guess(mol: gto.Mole) -> Any:
        mf = getattr(mol, kind)()
        barrier.wait()
        return tracegrad_guess(mf, strict=True)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(guess, molecules, timeout=TIMEOUT))
    for dm, other in zip(found, expected, strict=True):
        assert np.abs(dm - other).max() < 1e-10


POOL = f"""
import multiprocessing, sys
import numpy as np
from pyscf import gto
from pyscf_tracegrad import tracegrad_guess

BONDS = (0.9, 0.95)

def guess(bond):
    # no degenerate orbitals: with threads those turn freely, and single precision rounds them otherwise each time
    mol = gto.M(atom=f"O 0 0 0; H 0 0 {{bond}}; H 0.9 0 -0.3", basis={BASIS!r}, verbose=0)
    return np.asarray(tracegrad_guess(mol.RKS(xc="b3lyp"), strict=True))

def in_pool():
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        return pool.map_async(guess, BONDS).get({TIMEOUT - 20})

def alone():
    return [guess(bond) for bond in BONDS]

if __name__ == "__main__":
    steps = [alone, in_pool] if sys.argv[2] == "parent first" else [in_pool, alone]
    first, second = [step() for step in steps]
    print(max(np.abs(a - b).max() for a, b in zip(first, second)))
"""


@pytest.mark.parametrize(
    ("method", "threads", "order"),
    [
        ("fork", "1", "parent first"),
        # GNU's OpenMP, and PySCF with it, hangs in a child of a process whose threads have started
        pytest.param("fork", "2", "children first", marks=pytest.mark.slow),
        ("spawn", "2", "parent first"),
    ],
)
def test_processes_give_what_one_gives(method: str, threads: str, order: str, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), method, order],
        env=os.environ | counts,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) < 1e-10


@pytest.mark.parametrize(("refine", "bound"), [("auto", 5e-6), (False, 1e-10)])
def test_degenerate_orbitals_of_two_threads_turn_little(refine: Any, bound: float) -> None:
    mol = gto.M(atom="H 0 0 0; F 0 0 0.9", basis=BASIS, verbose=0)
    with lib.with_omp_threads(2):
        first, *others = (np.asarray(tracegrad_guess(mol.RKS(xc="b3lyp"), refine=refine)) for _ in range(3))
    assert max(np.abs(other - first).max() for other in others) < bound


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ("H 0 0 0; F 0 0 0", r"atoms 0 \(H\) and 1 \(F\) are at one place"),
        ([("H", (0, 0, 0)), ("F", (0, 0, np.nan))], r"atom 1 \(F\) has no finite coordinates"),
        ([("H", (0, 0, np.inf)), ("F", (0, 0, 0))], r"atom 0 \(H\) has no finite coordinates"),
    ],
)
def test_molecule_that_cannot_be_is_refused_in_words(strict: bool, atoms: Any, message: str) -> None:
    for kind in ("RHF", "UKS", "ROHF", "GHF"):
        mf = getattr(fluoride(atom=atoms), kind)()
        for call in (lambda m: tracegrad_guess(m, strict=strict), lambda m: m.get_init_guess(key="tracegrad")):
            with pytest.raises(BadMolecule, match=message):
                call(mf)


def test_wrong_parity_is_refused_in_pyscfs_words() -> None:
    with pytest.raises(RuntimeError, match=r"Electron number 10 and spin 1 are not consistent"):
        fluoride(spin=1)
    mol = fluoride()
    mol.spin = 1  # after it was built
    _, report = tracegrad_guess(mol, report=True)
    assert report.route == "minao"
    assert "Electron number 10 and spin 1 are not consistent" in report.reason
    with pytest.raises(OutsideDomain, match=r"Electron number 10 and spin 1 are not consistent"):
        tracegrad_guess(mol, strict=True)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "no checksum", "no text"])
def test_damaged_weights_are_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    checksum = path.with_name("model.pt.sha256")
    shutil.copy(pretrained.SHIPPED, path)
    digest = pretrained.SHIPPED.with_name(pretrained.SHIPPED.name + ".sha256").read_text().split()[0]
    checksum.write_text(f"{digest}  model.pt\n")
    assert load_model(path).checkpoint.basis == BASIS
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        for place in range(len(data) // 2, len(data) // 2 + 8):
            data[place] ^= 0xFF
        path.write_bytes(data)
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no text":
        checksum.write_bytes(b"\xff\xfe\x80")
    else:
        checksum.unlink()
        path.touch()
    os.utime(path, ns=(0, 0))  # another file than the one just loaded
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        load_model(path)
    monkeypatch.setattr(pretrained, "SHIPPED", path)
    mf = fluoride().RKS(xc="b3lyp")
    with pytest.raises(OutsideDomain, match=r"model\.pt") as raised:
        tracegrad_guess(mf, strict=True)
    assert isinstance(raised.value.__cause__, CheckpointError)
    mf.verbose = 2
    assert tracegrad_guess(mf, report=True)[1].route == "reference"
    assert "Using the reference Fock matrix instead" in "".join(capfd.readouterr())


@pytest.mark.parametrize("basis", [BASIS, "6-31g"])
def test_weights_that_are_not_numbers_do_no_harm(basis: str) -> None:
    """Whatever serves, it is finite and says that the network did not."""
    checkpoint = load_model().checkpoint
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    broken = PretrainedModel(dataclasses.replace(checkpoint, model=model))
    mol = fluoride(basis=basis)
    dm, report = tracegrad_guess(mol, broken, report=True)
    assert report.route != "network"
    assert report.notes
    assert np.isfinite(dm).all()
    assert np.trace(dm @ mol.intor("int1e_ovlp")) == pytest.approx(10, abs=0.05)  # minao's own count is 9.98


def test_no_cache_folder_is_needed(tmp_path: Path) -> None:
    """Homes and caches below a file: nobody, not even root, can write there."""
    blocked = tmp_path / "file"
    blocked.touch()
    homes = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "MPLCONFIGDIR")
    code = (
        "from pyscf import gto; from pyscf_tracegrad import tracegrad_guess; "
        f"mol = gto.M(atom={FLUORIDE!r}, basis={BASIS!r}, verbose=0); "
        "print(tracegrad_guess(mol.RKS(xc='b3lyp'), strict=True, report=True)[1].route)"
    )
    environment = os.environ | dict.fromkeys(homes, str(blocked / "home"))
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=TIMEOUT,
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "network"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


QUICK = ("H", "Ce", "He", "Li", "Ne", "Na", "Cr", "Cu", "Kr", "I", "Pt", "Rn")
SYMBOLS = tuple(gto.elements.ELEMENTS[1:87])


# PySCF 2.14's minao raises LinAlgError for these with crenbl; the core Hamiltonian's density starts them.
NO_MINAO = ("Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho")


def minao_raises(mf: Any) -> bool:
    try:
        mf.get_init_guess(key="minao")
    except np.linalg.LinAlgError:
        return True
    return False


@pytest.mark.parametrize("symbol", [pytest.param(s, marks=[] if s in QUICK else [pytest.mark.slow]) for s in SYMBOLS])
def test_every_element_has_a_guess(symbol: str) -> None:
    """The hydrides of the elements, with an effective core potential where the basis has one."""
    heavy = gto.charge(symbol) > 36
    basis = BASIS if gto.charge(symbol) not in range(58, 72) else "crenbl"
    electrons = gto.charge(symbol) + 1
    mol = gto.M(
        atom=f"{symbol} 0 0 0; H 0 0 {2.0 if heavy else 1.6}",
        basis={symbol: basis, "H": BASIS},
        ecp={symbol: basis} if heavy else {},
        spin=electrons % 2,
        verbose=0,
    )
    mf = mol.UHF() if mol.spin else mol.RHF()
    assert bool(mol.has_ecp()) == heavy
    minao_fails = minao_raises(mf)
    dm, report = tracegrad_guess(mf, refine=3, strict=not minao_fails, report=True)
    assert report.route == ("minao" if minao_fails else "reference")
    assert minao_fails == (symbol in NO_MINAO)
    total = dm if dm.ndim == 2 else dm[0] + dm[1]
    assert np.trace(total @ mf.get_ovlp()) == pytest.approx(mol.nelectron, abs=1e-7)
