"""How the key gets into PySCF and gpu4pyscf, and out again: who served, with which options, and what is left behind."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import gto, scf
from pyscf.pbc import gto as pbc_gto
from pyscf.scf import hf

import pyscf_tracegrad
from pyscf_tracegrad import autoload, register, set_default, unregister, unset_default
from pyscf_tracegrad import scf as hook
from pyscf_tracegrad.__main__ import main
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.report import GuessReport

ROOT = Path(__file__).parent.parent


@pytest.fixture
def mol() -> gto.Mole:
    return gto.M(atom="H 0 0 0; H 0 0 0.8", basis="sto-3g", verbose=0)


@pytest.fixture
def mf(mol: gto.Mole) -> Any:
    return mol.RHF()


@dataclass
class Served:
    """Stands in for `serve`: the density of minao times 0.9, which no guess of PySCF is."""

    hosts: list[Any] = field(default_factory=list)
    options: list[GuessOptions] = field(default_factory=list)

    def __call__(self, mf: Any, mol: gto.Mole, options: GuessOptions, minao: Callable[[], Any]) -> Any:
        del minao
        self.hosts.append(mf)
        self.options.append(options)
        mf.init_guess_report = GuessReport("reference", gradient=0.0)
        return scf.hf.init_guess_by_minao(mol) * 0.9


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served()
    monkeypatch.setattr(hook, "serve", served)
    yield served
    unregister()
    register()


# The options.


def test_register_sets_the_defaults_of_the_key(mf: Any, served: Served) -> None:
    mf.get_init_guess(key="tracegrad")
    register(strict=True, refine=3, transfer="fock")
    mf.get_init_guess(key="TraceGrad")
    assert served.options == [GuessOptions(), GuessOptions(strict=True, refine=3, transfer="fock")]


def test_a_call_overrides_them(mf: Any, served: Served) -> None:
    register(refine=3, transfer="fock")
    mf.get_init_guess(key="TRACEGRAD", strict=True, transfer="density")
    mf.get_init_guess(key="tracegrad", refine=False)
    mf.get_init_guess(key="tracegrad")
    assert served.options == [
        GuessOptions(strict=True, refine=3, transfer="density"),
        GuessOptions(refine=False, transfer="fock"),
        GuessOptions(refine=3, transfer="fock"),
    ]


def test_wrong_options_are_refused_and_change_nothing(mf: Any, served: Served) -> None:
    register(refine=3)
    with pytest.raises(ValueError, match="transfer"):
        register(transfer="orbitals")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="refine"):
        mf.get_init_guess(key="tracegrad", refine=-1)
    assert served.options == []
    mf.get_init_guess(key="tracegrad")
    assert served.options == [GuessOptions(refine=3)]


def test_a_wrapper_around_ours_neither_hides_nor_keeps_it(
    mf: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = hf.SCF.get_init_guess

    def outer(self: Any, mol: Any = None, key: Any = "minao", **keywords: Any) -> Any:
        return inner(self, mol, key, **keywords)

    monkeypatch.setattr(hf.SCF, "get_init_guess", outer)
    mf.get_init_guess(key="tracegrad")
    assert len(served.hosts) == 1
    unregister()
    assert np.array_equal(mf.get_init_guess(key="tracegrad"), mf.get_init_guess(key="minao"))
    assert len(served.hosts) == 1


# The report on the object.


def test_pyscf_knows_the_report(mol: gto.Mole, capfd: pytest.CaptureFixture[str]) -> None:
    assert "init_guess_report" in hf.SCF._keys
    mf = mol.RHF()
    mf.verbose = 2
    mf.init_guess = "tracegrad"
    mf.kernel()
    mf.kernel()  # PySCF looks for unknown attributes at the start
    assert "init_guess_report" not in "".join(capfd.readouterr())
    unregister()
    assert "init_guess_report" not in hf.SCF._keys


def test_the_report_does_not_get_in_the_way(mf: Any, mol: gto.Mole, served: Served) -> None:
    mf.init_guess = "tracegrad"
    mf.kernel()
    report = mf.init_guess_report
    assert report == GuessReport("reference", gradient=0.0)
    assert mf.copy().init_guess_report is report
    again = pickle.loads(pickle.dumps(mf))  # noqa: S301  (our own)
    assert (again.init_guess, again.init_guess_report) == ("tracegrad", report)
    mf.reset(mol)
    assert mf.get_init_guess(key=mf.init_guess).shape == (mol.nao, mol.nao)
    assert len(served.hosts) == 2
    scanner = mf.as_scanner()
    assert scanner(mol) == pytest.approx(mf.e_tot, abs=1e-8)
    assert scanner("H 0 0 0; H 0 0 0.9") != pytest.approx(mf.e_tot, abs=1e-4)


# The default.


def cell() -> Any:
    return pbc_gto.M(atom="He 0 0 0", a=np.eye(3) * 4, basis="sto-3g", verbose=0)


def test_default_is_for_objects_made_before_and_after(mol: gto.Mole, served: Served) -> None:
    before, chosen = mol.RHF(), mol.RHF()
    chosen.init_guess = "atom"
    set_default()
    after = mol.RKS(xc="pbe").density_fit().newton()
    for made in (before, after, mol.UHF(), mol.ROHF(), mol.RHF().sfx2c1e()):
        assert made.init_guess == "tracegrad"
    assert type(before.init_guess) is str
    before.kernel()
    after.kernel()
    assert len(served.hosts) == 2
    chosen.kernel()
    assert len(served.hosts) == 2
    set_default(False)
    assert (before.init_guess, after.init_guess, chosen.init_guess) == ("minao", "minao", "atom")
    assert vars(hf.SCF)["init_guess"] == "minao"


@pytest.mark.parametrize(
    "make",
    [
        lambda mol: mol.DHF(),
        lambda mol: mol.X2C(),
        lambda _: cell().RHF(),
        lambda _: cell().KRHF(),
        lambda _: cell().KRKS(xc="pbe").density_fit(),
    ],
    ids=["dhf", "x2c", "pbc", "kpoints", "kpoints-df"],
)
def test_other_classes_keep_their_default(
    make: Any, mol: gto.Mole, served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    set_default()
    mf = make(mol)
    assert mf.init_guess == "minao"
    mf.verbose = 2
    mf.max_cycle = 1
    mf.get_init_guess(key=mf.init_guess)
    assert served.hosts == []
    assert "tracegrad" not in "".join(capfd.readouterr())
    mf.init_guess = "tracegrad"  # asked for: served, or refused with a reason
    mf.get_init_guess(key=mf.init_guess)
    assert served.hosts == [mf]


def test_pyscfs_own_atoms_keep_their_default(served: Served) -> None:
    set_default()
    gto.M(atom="He 0 0 0", basis="6-31g", verbose=0).RHF().get_init_guess(key="atom")
    assert served.hosts == []


def test_default_survives_register_but_not_unregister(mol: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    set_default()
    set_default()
    register(strict=True)
    assert mol.RHF().init_guess == "tracegrad"
    unset_default()
    assert mol.RHF().init_guess == "minao"
    set_default()
    unregister()
    assert mol.RHF().init_guess == "minao"
    monkeypatch.setattr(hf.SCF, "init_guess", "atom")
    set_default()  # registers as well
    assert "init_guess_report" in hf.SCF._keys
    assert (mol.RHF().init_guess, mol.DHF().init_guess) == ("tracegrad", "atom")
    set_default(False)
    assert mol.RHF().init_guess == "atom"


# gpu4pyscf, by a module that has what matters here of it.

GPU = '''
import functools
import numpy as np
from pyscf import lib
from pyscf.scf import hf as hf_cpu

class DeviceArray:
    """Like cupy's: no numpy array, and none without being asked."""
    def __init__(self, host):
        self.host = host
    def __array__(self, *_, **__):
        raise TypeError("implicit conversion to a NumPy array")

def return_device_array(fn):
    @functools.wraps(fn)
    def filter_ret(*args, **kwargs):
        ret = fn(*args, **kwargs)
        return DeviceArray(np.asarray(ret)) if isinstance(ret, np.ndarray) else ret
    return filter_ret

class SCF(lib.StreamObject):
    init_guess = hf_cpu.SCF.init_guess
    _keys = {"mol", "init_guess"}
    def __init__(self, mol):
        self.mol = mol
        self.verbose = mol.verbose
    get_init_guess = return_device_array(hf_cpu.SCF.get_init_guess)
    def init_guess_by_minao(self, mol=None):
        return DeviceArray(hf_cpu.init_guess_by_minao(mol or self.mol))

class RHF(SCF):
    def to_cpu(self):
        return hf_cpu.RHF(self.mol)

class Periodic(SCF):
    __module__ = "gpu4pyscf.pbc.scf.hf"
    to_cpu = NotImplemented
'''


@pytest.fixture
def import_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Imports the stand-in of gpu4pyscf.scf.hf, as late as a test wants."""

    def load() -> Any:
        module = types.ModuleType("gpu4pyscf.scf.hf")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(GPU, vars(module))  # noqa: S102
        return module

    yield load
    unregister()  # while the module is there


@pytest.mark.parametrize("order", ["gpu4pyscf first", "gpu4pyscf last"])
def test_gpu4pyscf_is_served_in_either_order(
    order: str, mol: gto.Mole, served: Served, import_gpu: Callable[[], Any]
) -> None:
    if order == "gpu4pyscf first":
        unregister()
        gpu = import_gpu()
        register(refine=2)
    else:
        register(refine=2)
        gpu = import_gpu()
    mf = gpu.RHF(mol)
    dm = mf.get_init_guess(mol, "TraceGrad", strict=True)
    assert isinstance(dm, gpu.DeviceArray)
    assert np.array_equal(dm.host, hf.init_guess_by_minao(mol) * 0.9)
    assert [type(host) for host in served.hosts] == [hf.RHF]
    assert served.options == [GuessOptions(refine=2, strict=True)]
    assert mf.init_guess_report == GuessReport("reference", gradient=0.0)
    assert "init_guess_report" in gpu.SCF._keys
    assert np.array_equal(mf.get_init_guess(mol, "minao").host, hf.init_guess_by_minao(mol))

    unregister()
    for made in (gpu.RHF(mol), hf.RHF(mol)):
        dm = made.get_init_guess(mol, "tracegrad")
        assert np.array_equal(getattr(dm, "host", dm), hf.init_guess_by_minao(mol))
        assert "init_guess_report" not in vars(made)
    assert isinstance(gpu.RHF(mol).get_init_guess(mol, "tracegrad"), gpu.DeviceArray)
    assert len(served.hosts) == 1
    assert "init_guess_report" not in gpu.SCF._keys

    register()
    gpu.RHF(mol).get_init_guess(mol, "tracegrad")
    assert len(served.hosts) == 2


@pytest.mark.parametrize("order", ["gpu4pyscf first", "gpu4pyscf last"])
def test_gpu4pyscfs_fallback_and_errors(
    order: str, mol: gto.Mole, import_gpu: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(mf: Any, mol: gto.Mole, options: GuessOptions, minao: Callable[[], Any]) -> Any:
        del mol
        mf.init_guess_report = GuessReport("minao", notes=("no",))
        if options.strict:
            raise pyscf_tracegrad.OutsideDomain("no")
        return minao()

    monkeypatch.setattr(hook, "serve", refuse)
    if order == "gpu4pyscf first":
        unregister()
    gpu = import_gpu()
    register()
    for make in (gpu.RHF, gpu.Periodic):
        mf = make(mol)
        dm = mf.get_init_guess(mol, "tracegrad")
        assert isinstance(dm, gpu.DeviceArray)
        assert np.array_equal(dm.host, hf.init_guess_by_minao(mol))
        assert mf.init_guess_report.notes == ("no",)
        del mf.init_guess_report
        with pytest.raises(pyscf_tracegrad.OutsideDomain, match="no"):
            mf.get_init_guess(mol, "tracegrad", strict=True)
        assert mf.init_guess_report.notes == ("no",)


@pytest.mark.parametrize("order", ["gpu4pyscf first", "gpu4pyscf last"])
def test_default_is_gpu4pyscfs_too(order: str, mol: gto.Mole, import_gpu: Callable[[], Any]) -> None:
    if order == "gpu4pyscf last":
        set_default()
    gpu = import_gpu()
    if order == "gpu4pyscf first":
        set_default()
    assert gpu.RHF(mol).init_guess == "tracegrad"
    assert gpu.Periodic(mol).init_guess == "minao"
    set_default(False)
    assert gpu.RHF(mol).init_guess == "minao"
    assert vars(gpu.SCF)["init_guess"] == "minao"


def test_gpu4pyscf_is_never_imported_by_us() -> None:
    assert python("import sys, pyscf_tracegrad; print('gpu4pyscf' in sys.modules)") == "False"


# `from pyscf import tracegrad`


def test_namespace_is_the_same_api() -> None:
    """By PYSCF_EXT_PATH, PySCF's way to extensions that are not installed; installed or not, it is this module."""
    out = python(
        "from pyscf import tracegrad; import sys, pyscf, pyscf_tracegrad\n"
        "assert 'torch' not in sys.modules\n"
        "same = [getattr(tracegrad, name) is getattr(pyscf_tracegrad, name) for name in pyscf_tracegrad.__all__]\n"
        "assert tracegrad.__all__ == pyscf_tracegrad.__all__ and len(same) > 5 and all(same)\n"
        "assert tracegrad.errors.OutsideDomain is tracegrad.OutsideDomain\n"
        "assert hasattr(pyscf.scf.hf.SCF, '_tracegrad_options') and not hasattr(tracegrad, 'nothing')\n"
        "print(tracegrad.__file__)",
        PYSCF_EXT_PATH=str(ROOT / "namespace"),
    )
    assert Path(out) == ROOT / "namespace/pyscf/tracegrad/__init__.py"


# The lines in PySCF's config file.


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


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.py"
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(path))
    return path


MOLECULE = "from pyscf import gto; mol = gto.M(atom='H 0 0 0; H 0 0 0.8', basis='sto-3g', verbose=2)\n"


def test_autoload_registers_at_the_first_key(config: Path) -> None:
    config.write_text("scf_hf_SCF_max_cycle = 7\n")
    assert main(["autoload"]) == 0
    config.write_text(config.read_text() + "scf_hf_SCF_conv_tol = 1e-4\nscf_hf_SCF_init_guess = 'atom'\n")
    out = python(
        MOLECULE + "import sys\n"
        "mf = mol.RHF()\n"
        "assert (mf.max_cycle, mf.conv_tol, mf.init_guess) == (7, 1e-4, 'atom')  # lines before ours and after\n"
        "mf.kernel(); assert 'pyscf_tracegrad' not in sys.modules\n"
        "mf.get_init_guess(key='TraceGrad', start='minao', refine=False)\n"
        "print(type(mf.init_guess_report).__name__)\n"
        "import pyscf_tracegrad; from pyscf.scf import hf\n"
        "assert hf.SCF.get_init_guess.__code__.co_filename == pyscf_tracegrad.scf.__file__  # the stub is gone\n"
        "pyscf_tracegrad.unregister()\n"
        "assert hf.SCF.get_init_guess.__code__.co_filename == hf.__file__\n"
        "assert abs(mf.get_init_guess(key='tracegrad') - mf.get_init_guess(key='minao')).max() == 0\n"
    )
    assert out == "GuessReport"


@pytest.mark.usefixtures("config")
def test_autoload_costs_nothing_at_import() -> None:
    code = "import pyscf, sys; print(sorted(sys.modules))"
    without = python(code)
    main(["autoload", "--default"])
    assert python(code) == without
    names = "from pyscf import __config__; print([name for name in vars(__config__) if 'tracegrad' in name])"
    assert python(names) == "[]"
    finders = (
        "import sys, pyscf; print([f for f in sys.meta_path if getattr(f, '__module__', '') == 'pyscf.__config__'])"
    )
    assert python(finders) == "[]"


@pytest.mark.usefixtures("config")
def test_autoload_default() -> None:
    subprocess.run([sys.executable, "-m", "pyscf_tracegrad", "autoload", "--default"], check=True, cwd=ROOT)
    out = python(
        MOLECULE + "import sys, numpy; from pyscf.pbc import gto as pbc_gto\n"
        "cell = pbc_gto.M(atom='He 0 0 0', a=numpy.eye(3) * 4, basis='sto-3g', verbose=2)\n"
        "assert 'pyscf_tracegrad' not in sys.modules\n"
        "for mf in (cell.RHF(), mol.RHF(), mol.GHF(), mol.UKS()): print(mf.init_guess)\n"
        "import pyscf_tracegrad; pyscf_tracegrad.unset_default(); print(mol.RHF().init_guess)\n"
    )
    assert out.split() == ["minao", "tracegrad", "tracegrad", "tracegrad", "minao"]


@pytest.mark.usefixtures("config")
def test_autoload_with_gpu4pyscf_between(tmp_path: Path) -> None:
    """gpu4pyscf takes the stub over."""
    main(["autoload"])
    folder = tmp_path / "gpu4pyscf/scf"
    folder.mkdir(parents=True)
    (folder / "hf.py").write_text(GPU)
    out = python(
        MOLECULE + "from gpu4pyscf.scf import hf; import sys\n"
        "assert 'pyscf_tracegrad' not in sys.modules\n"
        "mf = hf.RHF(mol); dm = mf.get_init_guess(mol, 'tracegrad', start='minao', refine=False)\n"
        "print(type(dm).__name__, type(mf.init_guess_report).__name__)\n"
        "import pyscf_tracegrad; pyscf_tracegrad.unregister(); del mf.init_guess_report\n"
        "dm = mf.get_init_guess(mol, 'tracegrad')\n"
        "print(type(dm).__name__, 'init_guess_report' in vars(mf))\n",
        PYTHONPATH=str(tmp_path),
    )
    assert out.splitlines() == ["DeviceArray GuessReport", "DeviceArray False"]


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize("option", [[], ["--default"]])
def test_autoload_outlives_the_package(option: list[str]) -> None:
    main(["autoload", *option])
    out = python(
        "import sys; sys.modules['pyscf_tracegrad'] = None\n" + MOLECULE + "mol.stdout = sys.stdout\n"
        "mf = mol.RHF(); key = 'tracegrad'; " + ("mf.kernel()" if option else "mf.init_guess = key; mf.kernel()") + "\n"
        "assert mf.converged\n"
        "assert abs(mf.get_init_guess(key=key) - mf.get_init_guess(key='minao')).max() == 0\n"
    )
    assert "pyscf_tracegrad cannot be imported" in out
    assert "Using the minao guess instead" in out


@pytest.mark.parametrize(
    "content",
    [None, b"", b"VERBOSE = 4\n", b"VERBOSE = 4", b"VERBOSE = 4\r\n# \xc3\xa9\r\n", b"\n\n  \n", b"if 1:\n  A = 2"],
)
def test_autoload_keeps_the_rest_of_the_file(
    content: bytes | None, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def found() -> bytes | None:
        return config.read_bytes() if config.exists() else None

    if content is not None:
        config.write_bytes(content)
    assert main(["autoload", "--remove"]) == 0
    assert main(["autoload", "--status"]) == 0
    assert found() == content
    assert "is not in it" in capsys.readouterr().out
    assert main(["autoload"]) == 0
    once = found()
    assert once is not None
    assert once.startswith(content or b"")
    compile(once, "config", "exec")
    assert "(changed)" in capsys.readouterr().out
    assert main(["autoload"]) == 0
    assert found() == once
    assert "(changed)" not in capsys.readouterr().out
    assert main(["autoload", "--default"]) == 0
    assert found() != once
    assert "default" in capsys.readouterr().out
    assert main(["autoload"]) == 0
    assert found() == once
    assert main(["autoload", "--remove"]) == 0
    assert found() == content
    assert list(config.parent.iterdir()) == ([] if content is None else [config])


def test_autoload_keeps_what_is_written_after_its_lines(config: Path) -> None:
    config.write_bytes(b"A = 1")
    main(["autoload"])
    config.write_bytes(config.read_bytes() + b"B = 2\n")
    main(["autoload", "--default"])
    assert config.read_bytes().endswith(autoload.END.encode() + b"B = 2\n")
    main(["autoload", "--remove"])
    assert config.read_bytes() == b"A = 1\nB = 2\n"


def test_autoload_follows_a_link_and_keeps_the_mode(config: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.py"
    real.write_text("A = 1\n")
    real.chmod(0o640)
    config.symlink_to(real)
    main(["autoload"])
    assert config.is_symlink()
    assert autoload.status(real) == "on"
    assert real.stat().st_mode & 0o777 == 0o640


def test_config_file_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYSCF_CONFIG_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert autoload.config_file() == tmp_path / ".pyscf_conf.py"
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(tmp_path / "other.py"))
    assert autoload.config_file() == tmp_path / "other.py"


def test_config_file_of_a_folder_is_mentioned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYSCF_CONFIG_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".pyscf_conf.py").write_text("")
    assert main(["autoload", "--status"]) == 0
    assert str(tmp_path / ".pyscf_conf.py") in capsys.readouterr().out


def test_autoload_says_what_it_cannot_write(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(arguments: list[str]) -> str:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    config.write_text("A = 1\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # a superuser may write everything
        assert error_of(["autoload"]) == f"error: cannot write {config}: Permission denied\n"
    assert config.read_text() == "A = 1\n"
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(tmp_path / "missing/config.py"))
    assert "cannot write" in error_of(["autoload", "--default"])
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(tmp_path))
    assert "cannot read" in error_of(["autoload"])
    monkeypatch.setenv("PYSCF_CONFIG_FILE", str(config))
    config.write_text(autoload.BEGIN)
    assert "do not pair" in error_of(["autoload", "--remove"])
    assert config.read_text() == autoload.BEGIN
