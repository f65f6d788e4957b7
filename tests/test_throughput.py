"""The throughput benchmark: synthetic molecules, operation counts, memory, and a CSV that is continued."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from network_helpers import TABLE
from torch_geometric.data import Batch

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from training.bench import throughput
from training.bench.synthetic import alkane, synthetic_data
from training.bench.throughput import Job, Throughput, count_operations, in_own_process, measure, memory_bytes, summary
from training.losses import assemble
from training.rows import read_rows

TINY = """
[model]
channels = 4
layers = 1
radial = 4
invariants = 4
trace_hidden = 4
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def job(config: Path, **values: object) -> Job:
    usual = {"mode": "training", "device": "cpu", "threads": 1, "carbons": 1, "batch": 2, "seconds": 0.0}
    return Job(config=str(config), **{**usual, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("carbons", [1, 2, 5])
def test_alkanes_are_alkanes(carbons: int) -> None:
    mol = alkane(carbons, 0)
    assert sorted(mol.atom_charges().tolist()) == [1] * (2 * carbons + 2) + [6] * carbons
    distances = np.linalg.norm(mol.atom_coords()[:, None] - mol.atom_coords()[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 1.5  # bohr: no atom sits on another
    near = distances.min(axis=1)
    assert near.max() < 3.2
    assert not np.allclose(mol.atom_coords(), alkane(carbons, 1).atom_coords())


@pytest.mark.parametrize("steps", [0, 2])
def test_synthetic_molecules_are_training_data(steps: int) -> None:
    model = ModelConfig(reference=ReferenceSettings(steps=steps))
    found = synthetic_data(model, TABLE, 2, 3)
    assert [d.num_nodes for d in found] == [8, 8, 8]
    assert found[0].site.shape == (8, 1 + steps, 14, 14)
    assert found[0].pair.shape == (28, 1 + steps, 14, 14)
    batch = Batch.from_data_list(found)
    for matrix, data in zip(assemble(batch.target_site, batch.target_pair, batch), found, strict=True):
        assert matrix.shape == (2 * 14 + 6 * 5,) * 2
        assert torch.equal(matrix, matrix.T)
        assert matrix.abs().max() > 0
        assert (data.energies.diff() >= 0).all()


def test_operations_of_a_layer_are_counted_forward_and_backward() -> None:
    """y = x W: 2 n k m forward, and as much for each of the two gradients."""
    x, w = torch.rand(7, 5, requires_grad=True), torch.rand(5, 3, requires_grad=True)
    assert count_operations(lambda: None) == 0
    with torch.no_grad():
        assert count_operations(lambda: torch.mm(x, w, out=torch.empty(7, 3))) == 2 * 7 * 5 * 3
    assert count_operations(lambda: (x @ w).sum().backward()) == 3 * 2 * 7 * 5 * 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak and present memory are apart on Linux only")
def test_peak_memory_stays_and_present_memory_goes() -> None:
    blur = 2**20  # the kernel's counters lag by some pages
    before = memory_bytes(peak=False)
    ballast = np.ones(40_000_000)
    size = ballast.nbytes
    assert memory_bytes(peak=False) > before + size - blur
    del ballast
    assert memory_bytes(peak=True) > before + size - blur
    assert memory_bytes(peak=False) < before + size / 2


def test_training_and_inference_of_a_tiny_model(config: Path) -> None:
    training, inference = (measure(job(config, mode=mode)) for mode in ("training", "inference"))
    assert (training.config, training.n_atoms, training.batch) == ("tiny", 5, 2)
    assert training.parameters == inference.parameters > 1000
    assert training.operations > inference.operations > 0
    assert training.step > inference.step > 0
    assert 0 < inference.floor < inference.step
    single = measure(job(config, mode="inference", batch=1))
    assert 2 * single.operations == pytest.approx(inference.operations, rel=1e-3)
    assert single.key != inference.key


def test_a_process_that_dies_is_an_error_with_its_reason() -> None:
    with pytest.raises(RuntimeError, match="the process was killed"):
        in_own_process(os._exit, 1, 1)


def test_a_failed_measurement_is_a_row(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Throughput:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(throughput, "in_own_process", fail)
    row = throughput.run(job(config))
    assert row.error == "CUDA out of memory. Tried to allocate"
    assert math.isnan(row.step)
    assert row.error in summary([row])


def test_command_line_measures_what_is_missing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first measurement has a real process; whatever else is asked for is recorded only."""
    out, asked = tmp_path / "rows.csv", list[Job]()

    def run(*options: str) -> None:
        assert throughput.main(["--config", str(config), "--carbons", "1", "--seconds", "0", *options]) == 0

    run("--batch", "1", "--modes", "inference", "--out", str(out))
    (row,) = read_rows(out, Throughput)
    assert not row.error
    assert row.step > 0
    assert row.memory > 1e5
    assert f"| tiny | qhnet_so2 | {row.parameters / 1e6:.1f} | inference | cpu x 1 | 5 | 1 |" in capsys.readouterr().out

    def record(wanted: Job) -> Throughput:
        asked.append(wanted)
        return dataclasses.replace(row, batch=wanted.batch, mode=wanted.mode)

    monkeypatch.setattr(throughput, "run", record)
    run("--batch", "1", "2", "--modes", "inference", "--out", str(out))
    assert [(j.batch, j.mode) for j in asked] == [(2, "inference")]
    config.write_text(TINY.replace("channels = 4", "channels = 8"))
    run("--batch", "1", "--modes", "inference", "--out", str(out))
    assert len(asked) == 2  # other settings are another measurement
    assert len(read_rows(out, Throughput)) == 3


def test_wrong_options_are_refused(config: Path) -> None:
    for options in (["--batch", "0"], ["--device", "tpu"], ["--carbons", "0"]):
        with pytest.raises(SystemExit):
            throughput.main(["--config", str(config), *options])
