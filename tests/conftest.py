"""Small molecules that several tests share. One thread: they are too small for more."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when numpy, PySCF and torch are imported, so before that

from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import hypothesis  # noqa: E402  (the thread counts come first)
import pytest  # noqa: E402
from pyscf import gto, lib  # noqa: E402

if TYPE_CHECKING:
    from training.dataset import FockData

WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
FORMALDEHYDE = "C 0 0 -0.5297; O 0 0 0.6741; H 0 0.9353 -1.1140; H 0 -0.9353 -1.1140"
# carbamoyl fluoride, slightly bent: every element of the model, no symmetry
EVERY_ELEMENT = (
    "C 0.0 0.02 0.0; O 0.12 1.17 0.05; N 1.06 -0.83 -0.03; F -1.19 -0.62 0.04; H 1.98 -0.42 0.08; H 0.93 -1.83 -0.09"
)


# An example that is slow because the machine is busy is no fault.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


def _molecule(atoms: str) -> gto.Mole:
    return gto.M(atom=atoms, basis="def2-svp", verbose=0)


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> None:
    """Also where numpy was imported by a plugin before this file."""
    lib.num_threads(1)


@pytest.fixture
def water() -> gto.Mole:
    return _molecule(WATER)


@pytest.fixture
def formaldehyde() -> gto.Mole:
    return _molecule(FORMALDEHYDE)


@pytest.fixture
def every_element() -> gto.Mole:
    """Carbamoyl fluoride: H C N O F."""
    return _molecule(EVERY_ELEMENT)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with label files and references for the tests of training, whose helpers load torch: not before."""
    from training_helpers import shared_folder

    return shared_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def data(workspace: Path) -> list[FockData]:
    """Training molecules of the workspace."""
    from training_helpers import load

    return load(workspace / "labels.h5", workspace)
