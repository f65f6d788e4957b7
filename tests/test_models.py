"""Which model answers: what stands in the record beside it, and the first that covers a calculation."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyscf import gto, scf

import pyscf_tracegrad
from pyscf_tracegrad import OutsideDomain, load_model, models, predict_fock, register, tracegrad_guess
from pyscf_tracegrad.__main__ import main
from pyscf_tracegrad.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.errors import CheckpointError
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.models import SHIPPED, check_files, choose_model, model_sources, read_record, record_file
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.orbitals import ShellTable
from pyscf_tracegrad.pretrained import PretrainedModel

ROOT = Path(__file__).parent.parent
SMALL = ModelConfig(channels=8, layers=1, invariants=8, trace_hidden=8, radial=8)


def untrained(basis: str = "def2-svp", xc: str = "pbe", elements: tuple[int, ...] = (1, 9)) -> Checkpoint:
    table = ShellTable.from_basis(basis, elements)
    return Checkpoint(FockModel(SMALL, table.degrees, len(elements)).eval(), table, xc, basis)


@pytest.fixture(scope="module")
def pbe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file for PBE/def2-SVP."""
    path = tmp_path_factory.mktemp("models") / "pbe.pt"
    save_checkpoint(path, untrained())
    return path


@pytest.fixture(autouse=True)
def _as_registered() -> Iterator[None]:
    yield
    register()


def fluoride(xc: str = "pbe", basis: str = "def2-svp", atoms: str = "H 0 0 0; F 0 0 0.92") -> Any:
    return gto.M(atom=atoms, basis=basis, verbose=0).RKS(xc=xc)


# Records.


def test_record_of_the_shipped_model_is_its_own() -> None:
    record, checkpoint = read_record(SHIPPED), load_model().checkpoint
    assert (record.xc, record.basis, record.shells) == (checkpoint.xc, checkpoint.basis, checkpoint.shells)
    digest = models.checksum_file(SHIPPED).read_text().split()[0]
    assert json.loads(record_file(SHIPPED).read_text())["sha256"] == digest


@pytest.mark.parametrize("damage", ["missing", "of another file", "no JSON", "no text", "no record"])
def test_a_record_that_is_not_of_the_file_is_not_believed(damage: str, pbe: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, load_checkpoint(pbe))
    record = json.loads(record_file(path).read_text())
    if damage == "missing":
        record_file(path).unlink()
    elif damage == "of another file":
        record_file(path).write_text(json.dumps(record | {"sha256": "0", "xc": "hf"}))
    else:
        text = {"no JSON": b"{", "no text": b"\xff\xfe", "no record": b"[1]"}[damage]
        record_file(path).write_bytes(text)
    assert read_record(path).xc == "pbe"


# What a user may give.


def test_sources_are_paths_models_and_lists_of_them(tmp_path: Path) -> None:
    model = load_model()
    assert model_sources(None) == ()
    assert model_sources("shipped") == (SHIPPED,)
    assert model_sources([str(tmp_path / "a.pt"), (tmp_path / "b.pt", model)]) == (
        tmp_path / "a.pt",
        tmp_path / "b.pt",
        model,
    )
    for wrong in (3, {"a": 1}, ["a.pt", 2.5]):
        with pytest.raises(TypeError, match="model takes the path of a model file"):
            model_sources(wrong)
    with pytest.raises(CheckpointError, match=r"lost\.pt: no such file"):
        check_files([tmp_path / "lost.pt"])


def test_the_first_with_basis_and_functional_is_chosen(pbe: Path) -> None:
    mol = fluoride().mol
    sources = (SHIPPED, pbe)
    assert choose_model(sources, mol, lambda xc: xc == "pbe").source == pbe
    assert choose_model(sources, mol, lambda xc: xc == "b3lyp").source == SHIPPED
    assert choose_model(sources, mol, lambda _: False).source == SHIPPED
    other = choose_model(sources, fluoride(basis="6-31g").mol)
    assert (other.source, other.native, other.same_theory) == (SHIPPED, False, False)
    with pytest.raises(OutsideDomain, match="the model knows H, F only"):
        choose_model((pbe, SHIPPED), fluoride(atoms="H 0 0 0; Cl 0 0 1.3").mol)
    assert choose_model((pbe, SHIPPED), fluoride(atoms="O 0 0 0; H 0 0 1; H 0 1 0").mol).source == SHIPPED


# The models of a call, of the key, of the config file.


def test_a_call_is_answered_by_the_model_that_it_names(pbe: Path, water: gto.Mole) -> None:
    """A path and a loaded model are the same; what is not named is not asked."""
    mf = fluoride()
    for model in (pbe, str(pbe), load_model(pbe), ["shipped", pbe]):
        report = tracegrad_guess(mf, model, start="network", refine=False, report=True)[1]
        assert (report.route, report.transfer) == ("network", "native")
        mf.get_init_guess(key="tracegrad", model=model, start="network", refine=False)
        assert mf.init_guess_report.route == "network"
    assert report.model == str(pbe)
    assert predict_fock(mf.mol, pbe).shape == (mf.mol.nao, mf.mol.nao)
    with pytest.raises(OutsideDomain, match="the model knows H, F only"):
        tracegrad_guess(water, pbe, start="network", strict=True)


def test_what_is_no_model_is_refused_or_told(capfd: pytest.CaptureFixture[str]) -> None:
    mf = fluoride("b3lyp")
    with pytest.raises(TypeError, match="model takes the path of a model file"):
        mf.get_init_guess(key="tracegrad", model=3)
    mf.verbose = 2
    mf.get_init_guess(key="tracegrad", model="THIS IS NOT A MODEL")
    assert mf.init_guess_report.route == "reference"
    assert "THIS IS NOT A MODEL: no such file" in "".join(capfd.readouterr())
    with pytest.raises(OutsideDomain, match="THIS IS NOT A MODEL"):
        mf.get_init_guess(key="tracegrad", model="THIS IS NOT A MODEL", strict=True)


def test_the_key_takes_models_and_the_shipped_one_after_them(pbe: Path) -> None:
    register(model=pbe)
    assert scf.hf.SCF._tracegrad_options == GuessOptions(model=(pbe, SHIPPED))
    for xc, name in (("pbe", str(pbe)), ("b3lyp", "shipped")):
        mf = fluoride(xc)
        mf.get_init_guess(key="tracegrad", start="network", refine=False)
        assert mf.init_guess_report.model == name
    register(model=[pbe], shipped=False)
    mf = fluoride("b3lyp")
    mf.get_init_guess(key="tracegrad")
    assert (mf.init_guess_report.route, mf.init_guess_report.model) == ("reference", "")
    register()
    assert scf.hf.SCF._tracegrad_options == GuessOptions()


def test_wrong_models_of_the_key_are_refused_and_change_nothing(pbe: Path, tmp_path: Path) -> None:
    register(model=pbe)
    with pytest.raises(CheckpointError, match="no such file"):
        register(model=tmp_path / "lost.pt")
    with pytest.raises(TypeError, match="model takes"):
        register(model=3)
    with pytest.raises(ValueError, match="leaves no model"):
        register(shipped=False)
    assert scf.hf.SCF._tracegrad_options.model == (pbe, SHIPPED)


def test_a_path_is_registered_and_passed_over_without_torch(pbe: Path) -> None:
    code = (
        "import sys, pyscf_tracegrad; from pyscf import gto\n"
        f"pyscf_tracegrad.register(model={str(pbe)!r})\n"
        "mf = gto.M(atom='H 0 0 0; F 0 0 0.92', basis='6-31g', verbose=0).RKS(xc='lda')\n"
        "mf.get_init_guess(key='tracegrad', refine=1)\n"
        "print(mf.init_guess_report.route, 'torch' in sys.modules)\n"
    )
    assert python(code) == "reference False"


def python(code: str, **environment: str) -> str:
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def test_autoload_writes_the_paths_and_the_key_uses_them(
    pbe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, second = tmp_path / "config.py", tmp_path / "it's é second.pt"
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(config))
    shutil.copy(pbe, second)
    monkeypatch.chdir(tmp_path)
    assert main(["autoload", "--model", str(pbe), "--model", second.name]) == 0
    assert f"model {second}" in capsys.readouterr().out
    assert main(["autoload", "--status"]) == 0
    assert f"model {pbe}" in capsys.readouterr().out
    out = python(
        "from pyscf import gto; import sys\n"
        "mf = gto.M(atom='H 0 0 0; F 0 0 0.92', basis='def2-svp', verbose=0).RKS(xc='pbe')\n"
        "assert 'pyscf_tracegrad' not in sys.modules\n"
        "mf.get_init_guess(key='tracegrad', start='network', refine=False)\n"
        "print(mf.init_guess_report.model)\n"
        "from pyscf.scf import hf; print(len(hf.SCF._tracegrad_options.model))\n"
    )
    assert out.splitlines() == [str(pbe), "3"]
    for arguments in (["--model", "lost.pt"], ["--default", "--model", str(tmp_path)]):
        assert main(["autoload", *arguments]) == 2
        assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["autoload", "--remove", "--model", str(pbe)])
    assert main(["autoload", "--remove"]) == 0
    assert not config.exists()


def test_a_model_of_the_config_file_that_is_gone_ends_nothing(
    pbe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, gone = tmp_path / "config.py", tmp_path / "gone.pt"
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(config))
    shutil.copy(pbe, gone)
    assert main(["autoload", "--default", "--model", str(gone)]) == 0
    gone.unlink()
    out = python(
        "from pyscf import gto; import sys\n"
        "mf = gto.M(atom='H 0 0 0; H 0 0 0.8', basis='sto-3g', verbose=2).RKS(xc='b3lyp')\n"
        "mf.stdout = sys.stdout; mf.kernel()\n"
        "print(mf.converged, mf.init_guess_report.route)\n"
    )
    assert out.count("WARN") == 1
    assert "gone.pt: no such file" in out
    assert out.splitlines()[-1] == "True reference"


# Files that were made to do harm, or were never models.


@pytest.mark.parametrize("name", ["../../evil", "os", "..", "", "__init__", "qhnet.os", "nonsense"])
def test_a_checkpoint_names_no_module_but_a_backbone(name: str, tmp_path: Path) -> None:
    import hashlib

    import torch

    path = tmp_path / "model.pt"
    save_checkpoint(path, untrained())
    data = torch.load(path, weights_only=True)
    data["config"]["backbone"] = name
    torch.save(data, path)
    models.checksum_file(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match="no backbone"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_is_refused_without_a_word_of_torch(protocol: int, tmp_path: Path) -> None:
    import hashlib
    import pickle

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"format": "pyscf_tracegrad-model"}, protocol=protocol))
    models.checksum_file(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match="not a checkpoint of pyscf_tracegrad"):
        load_checkpoint(path)


def test_an_answer_that_is_not_finite_is_refused(water: gto.Mole) -> None:
    import copy

    import torch

    checkpoint = load_model().checkpoint
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(OutsideDomain, match="not finite"):
        predict_fock(water, PretrainedModel(dataclasses.replace(checkpoint, model=model)))
    with pytest.raises(TypeError, match="predict_fock takes a Mole, not RHF"):
        predict_fock(water.RHF())


# What the package says of itself.


def test_names_are_the_public_ones() -> None:
    import pyscf_tracegrad as package

    assert [name for name in dir(package) if not name.startswith("__")] == sorted(package.__all__)
    assert "__version__" in dir(package)
    assert all(hasattr(package, name) for name in dir(package))
    assert "load_model" in dir(package)


def test_versions_are_shown_without_loading_anything() -> None:
    out = python("import sys, pyscf_tracegrad\npyscf_tracegrad.show_versions()\nprint('torch' in sys.modules)")
    lines = [line.split() for line in out.splitlines()]
    shown = {line[0]: line[1] for line in lines[:-1]}
    assert shown["pyscf_tracegrad"] == pyscf_tracegrad.__version__
    assert {"pyscf", "numpy", "scipy", "torch", "e3nn", "Python", "PySCF's"} <= set(shown)
    assert lines[-1] == ["False"]
    text = io.StringIO()
    pyscf_tracegrad.show_versions(text)
    assert "numpy" in text.getvalue()


def test_version_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"pyscf_tracegrad {pyscf_tracegrad.__version__}\n"


def test_modules_of_the_namespace_are_those_of_the_package() -> None:
    out = python(
        "import pyscf.tracegrad.gate, pyscf.tracegrad.orbitals.layout, sys\n"
        "from pyscf.tracegrad.errors import OutsideDomain\n"
        "import pyscf_tracegrad.gate, pyscf_tracegrad.orbitals\n"
        "assert pyscf.tracegrad.gate is pyscf_tracegrad.gate\n"
        "assert sys.modules['pyscf.tracegrad.orbitals.layout'] is sys.modules['pyscf_tracegrad.orbitals.layout']\n"
        "assert OutsideDomain is pyscf_tracegrad.OutsideDomain\n"
        "assert pyscf_tracegrad.gate.__spec__.name == pyscf_tracegrad.gate.__name__ == 'pyscf_tracegrad.gate'\n"
        "assert 'torch' not in sys.modules\n"
        "try:\n"
        "    import pyscf.tracegrad.nothing\n"
        "except ModuleNotFoundError:\n"
        "    print('none')\n",
        PYSCF_EXT_PATH=str(ROOT / "namespace"),
    )
    assert out == "none"
