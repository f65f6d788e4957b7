"""What is shipped: archives with the package and its weights only, and a wheel that works where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import pyscf_tracegrad

ROOT = Path(__file__).parents[1]
MEGABYTES = 25

# Run in an empty folder by the new environment's Python.
SCRIPT = """
import sys
from pathlib import Path
from pyscf import gto
import pyscf_tracegrad
assert Path(pyscf_tracegrad.__file__).is_relative_to(sys.prefix), pyscf_tracegrad.__file__
mol = gto.M(atom="O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692", basis="def2-svp", verbose=0)
minao = mol.RKS(xc="b3lyp").run()
for refine in ("auto", False):
    mf = mol.RKS(xc="b3lyp")
    dm, report = pyscf_tracegrad.tracegrad_guess(mf, strict=True, refine=refine, report=True)
    mf.kernel(dm0=dm)
    assert report.route == "network" and mf.converged and mf.cycles < minao.cycles, report
    assert abs(mf.e_tot - minao.e_tot) < 1e-8
print(pyscf_tracegrad.__version__)
"""


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Output of a command without the settings of this process's Python."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    """Builds both archives, and installs the wheel with what it requires into a new virtual environment."""
    dist = tmp_path / "dist"
    run([sys.executable, "-m", "build", "--outdir", dist, ROOT], tmp_path)
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert max(wheel.stat().st_size, source.stat().st_size) < MEGABYTES * 10**6
    names = zipfile.ZipFile(wheel).namelist()
    version = pyscf_tracegrad.__version__
    assert {name.split("/")[0] for name in names} == {
        "pyscf_tracegrad",
        "pyscf",
        f"pyscf_tracegrad-{version}.dist-info",
    }
    assert [name for name in names if name.startswith("pyscf/")] == ["pyscf/tracegrad/__init__.py"]
    assert {"pyscf_tracegrad/weights/qhnet_so2.pt", "pyscf_tracegrad/weights/qhnet_so2.md"} < set(names)
    with tarfile.open(source) as archive:
        folders = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 2}
    assert folders == {"pyscf_tracegrad", "namespace", "pyscf_tracegrad.egg-info"}
    run([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    run([*pip, "--constraint", ROOT / "constraints.txt", wheel], tmp_path)
    assert run([python, "-c", SCRIPT], tmp_path).strip() == version


def test_one_version() -> None:
    """The package, its citation and its changelog name the same version."""
    version = pyscf_tracegrad.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_names_whole_works() -> None:
    """Every work that the README asks to cite, with all its authors, its year and where it is found."""
    works = {}
    for work in (ROOT / "CITATION.cff").read_text().split("\n  - type: article\n")[1:]:
        assert re.search(r"^    year: 20\d\d$", work, re.MULTILINE)
        family, given = (re.findall(rf"{name}-names: \S", work) for name in ("family", "given"))
        assert len(family) == len(given)
        works[re.findall(r"(?:url: https://arxiv\.org/abs/|doi: )(\S+)", work)[0]] = len(family)
    assert works == {"2405.05722": 4, "2306.04922": 5, "10.1063/5.0006074": 49}
    cited = (ROOT / "README.md").read_text().partition("## Cite")[2]
    assert all(work in cited for work in works)
