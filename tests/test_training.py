"""Training: losses against plain formulas, overfitting one molecule, exact resumption, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from label_helpers import write_labels
from network_helpers import TABLE
from pyscf import lib
from torch_geometric.loader import DataLoader

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from pyscf_tracegrad.model import block_traces
from pyscf_tracegrad.pretrained import load_model
from training.config import LossWeights, RunConfig, Schedule, read_config
from training.dataset import FockData, StepSampler, load_split, make_data, model_input
from training.evaluate import occupied_virtual_error
from training.labels import LabelFile, Theory
from training.loop import Trainer, learning_rate, validate
from training.losses import assemble, errors
from training.references import cache_folder, cached_reference, fill_cache

MOLECULES = {
    "water": "O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2",
    "twisted peroxide": "O 0 0 0; O 1.45 0 0.05; H -0.3 0.9 0.1; H 1.8 0.3 0.9",  # no symmetry
    "hydrogen fluoride": "H 0 0 0; F 0 0.1 0.93",
    "formaldehyde": "C 0 0 0; O 0 0 1.2; H 0 0.94 -0.59; H 0 -0.94 -0.59",
}
MODEL = ModelConfig(
    reference=ReferenceSettings(steps=1), channels=16, layers=2, invariants=24, trace_hidden=16, radial=12
)


@pytest.fixture(scope="session")
def label_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small molecules labelled by PySCF, the last one for validation, in the format of label files."""
    path = tmp_path_factory.mktemp("labels") / "small.h5"
    return write_labels(path, MOLECULES, ["train", "train", "train", "val"])


@pytest.fixture(scope="session")
def data(label_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[FockData]:
    cache = tmp_path_factory.mktemp("cache")
    found, theory = load_split([str(label_file)], "train", TABLE, MODEL, cache=cache)
    assert theory == Theory("b3lyp", "def2-svp")
    again, _ = load_split([str(label_file)], "train", TABLE, MODEL, cache=cache)  # from the cache now
    assert all(torch.allclose(a.site, b.site, atol=1e-6) for a, b in zip(found, again, strict=True))
    return found


def config(**schedule: object) -> RunConfig:
    values = {"steps": 12, "batch_size": 2, "warmup": 3, **schedule}
    return RunConfig(MODEL, Schedule(**values), LossWeights())  # type: ignore[arg-type]


def test_errors_are_those_of_a_plain_formula(data: list[FockData], tmp_path: Path) -> None:
    """Zero correction: the errors are those of F_ref, formed matrix by matrix in NumPy."""
    trainer = Trainer(config(), TABLE, Theory("b3lyp", "def2-svp"), data, tmp_path)
    batch = next(iter(DataLoader(data, batch_size=3)))
    blocks = trainer.model(model_input(batch))
    found = errors(blocks, batch)
    matrices = assemble(blocks.site - batch.target_site, blocks.pair - batch.target_pair, batch)
    for k, (d, matrix) in enumerate(zip(data, matrices, strict=True)):
        e, n = matrix.detach().double().numpy(), int(d.nao)
        occupied = int(d.n_occupied)
        c, energies = d.coefficients.view(n, n).double().numpy(), d.energies.double().numpy()
        total = 0.0
        for i in range(occupied):
            for a in range(occupied, n):
                total += (c[:, i] @ e @ c[:, a] / (energies[a] - energies[i])) ** 2
        assert found.mae[k].item() == pytest.approx(np.abs(e).mean(), rel=1e-4)
        assert found.mse[k].item() == pytest.approx((e**2).mean(), rel=1e-4)
        assert found.ov[k].item() == pytest.approx(np.sqrt(total / (occupied * (n - occupied))), rel=1e-3)
        assert found.mo[k].item() == pytest.approx(np.sqrt(((c.T @ e @ c) ** 2).mean()), rel=1e-4)


def test_traces_are_those_of_the_blocks(data: list[FockData]) -> None:
    """Sums of squared components are tr(H_pq H_pq^T) of the sub-blocks when nothing is standardised."""
    from pyscf_tracegrad.block_basis import pair_basis

    basis = pair_basis(TABLE.degrees)
    block = data[0].target_pair[0].double()
    components = torch.as_tensor(basis.forward) @ block.reshape(-1)
    traces = block_traces(components[None], torch.as_tensor(basis.shell_pair), 36)[0]
    starts = [0, 1, 2, 3, 6, 9, 14]
    for p in range(6):
        for q in range(6):
            sub = block[starts[p] : starts[p + 1], starts[q] : starts[q + 1]]
            assert traces[6 * p + q].item() == pytest.approx(torch.trace(sub @ sub.T).item(), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("centre", [False, True])
def test_untrained_model_is_at_the_reference_or_nearer(data: list[FockData], tmp_path: Path, centre: bool) -> None:
    """The decoders start at zero, so the first step starts from F_ref, or with `centre` plus the mean correction."""
    run = replace(config(), model=replace(MODEL, centre=centre))
    trainer = Trainer(run, TABLE, Theory("b3lyp", "def2-svp"), data, tmp_path)
    batch = next(iter(DataLoader(data, batch_size=3)))
    reference = torch.stack([m.abs().mean() for m in assemble(batch.target_site, batch.target_pair, batch)]).mean()
    found = validate(trainer.model, data).mae / reference.item()
    assert found < 0.999 if centre else found == pytest.approx(1.0, rel=1e-6)


def test_overfits_one_molecule(data: list[FockData], tmp_path: Path) -> None:
    """One molecule is learned to below 1 micro-hartree mean error.

    It has no symmetry: the grid of the reference breaks a symmetry by a micro-hartree, which no equivariant map can
    learn.
    """
    schedule = Schedule(steps=800, batch_size=1, warmup=20, learning_rate=3e-3, ema=0.95)
    run = RunConfig(replace(MODEL, channels=32), schedule, LossWeights(mae=0.0, mse=1e4, ov=0.0, mo=0.0, trace=0.0))
    trainer = Trainer(run, TABLE, Theory("b3lyp", "def2-svp"), data[1:2], tmp_path)
    trainer.run(None, {}, every=10_000)
    assert validate(trainer.mean.module, data[1:2]).mae < 1e-6


def test_resumed_run_equals_uninterrupted_run(data: list[FockData], tmp_path: Path) -> None:
    theory = Theory("b3lyp", "def2-svp")
    whole = Trainer(config(), TABLE, theory, data, tmp_path / "whole")
    whole.run(None, {"val": data[:1]}, every=5)
    first = Trainer(config(), TABLE, theory, data, tmp_path / "parts")
    first.run(minutes=0.0, validation={"val": data[:1]})  # stops after one step
    assert first.step == 1
    second = Trainer(config(), TABLE, theory, data, tmp_path / "parts", resume=True)
    second.run(None, {"val": data[:1]}, every=7)
    assert second.step == whole.step == 12
    for a, b in zip(whole.mean.module.parameters(), second.mean.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert load_model(tmp_path / "parts" / "model.pt").checkpoint.metadata["steps"] == "12"
    assert len((tmp_path / "parts" / "log.csv").read_text().splitlines()) >= 3


def test_resume_refuses_other_settings_and_molecules(data: list[FockData], tmp_path: Path) -> None:
    theory = Theory("b3lyp", "def2-svp")
    Trainer(config(), TABLE, theory, data, tmp_path).save()
    with pytest.raises(ValueError, match="started with other settings"):
        Trainer(config(seed=5), TABLE, theory, data, tmp_path, resume=True)
    with pytest.raises(ValueError, match="started with other training molecules"):
        Trainer(config(), TABLE, theory, data[:2], tmp_path, resume=True)


def test_sampler_is_the_same_however_it_is_sliced() -> None:
    whole = list(StepSampler(10, 3, 0, 0, 9))
    assert whole[4:] == list(StepSampler(10, 3, 0, 4, 9))
    assert sorted(sum(whole[:3], [])) != sorted(sum(whole[3:6], [])) or whole[:3] != whole[3:6]
    assert all(len(set(sum(whole[k : k + 3], []))) == 9 for k in (0, 3, 6))


def test_schedule_warms_up_and_decays() -> None:
    schedule = Schedule(steps=1000, warmup=100, learning_rate=1e-3)
    rates = [learning_rate(schedule, s) for s in range(1000)]
    assert rates[0] < 2e-5
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[-1] < 5e-6


def test_config_refuses_unknown_keys(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[model]\nchanels = 3\n")
    with pytest.raises(ValueError, match=r"unknown setting model\.'chanels'"):
        read_config(path)
    path.write_text("[model\n")
    with pytest.raises(ValueError, match=r"bad\.toml"):
        read_config(path)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[1].glob("training/configs/*.toml")), ids=lambda p: p.name
)
def test_every_config_in_the_repo_reads(path: Path) -> None:
    assert read_config(path).schedule.steps > 0


def test_ov_error_of_the_label_is_zero(label_file: Path) -> None:
    from training.labels import LabelFile

    label = LabelFile(label_file)[0]
    mol = label.molecule("def2-svp")
    overlap = mol.intor("int1e_ovlp")
    fock = label.full_fock()
    assert occupied_virtual_error(fock, fock, overlap, 5) == pytest.approx(0.0, abs=1e-12)
    assert occupied_virtual_error(fock + 0.3 * overlap, fock, overlap, 5) == pytest.approx(0.0, abs=1e-9)


def test_label_as_guess_takes_few_cycles(label_file: Path) -> None:
    """diag(F_label) -> density is right: the SCF has next to nothing left to do."""
    from training.cycles import CycleCounter
    from training.labels import LabelFile

    for label in LabelFile(label_file):
        mol = label.molecule("def2-svp")
        orbitals = diagonalise(label.full_fock(), mol.intor("int1e_ovlp"))
        dm = make_density(orbitals, aufbau(mol.nao, mol.nelectron))
        cycles, converged, energy = CycleCounter(label, mol, "b3lyp").run(dm)
        assert converged
        assert cycles <= 3
        assert energy == pytest.approx(label.energy, abs=1e-8)


def test_labels_and_reference_of_two_functionals_are_refused(label_file: Path, tmp_path: Path) -> None:
    model = replace(MODEL, reference=replace(MODEL.reference, xc="pbe"))
    with pytest.raises(ValueError, match="labels are of 'b3lyp', the reference of 'pbe'; set xc = 'b3lyp'"):
        load_split([str(label_file)], "train", TABLE, model, cache=tmp_path)


def test_references_take_the_functional_of_their_labels(label_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "pbe.h5"
    path.write_bytes(label_file.read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["xc"] = "pbe"
    fill_cache([str(path)], ReferenceSettings(steps=0), workers=1, root=tmp_path / "cache")
    labels = LabelFile(path)
    settings = ReferenceSettings(xc="pbe")
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder == cache_folder(labels.theory, settings, tmp_path / "cache")
    cached = cached_reference(labels[0], "def2-svp", settings, folder).initial
    exact = labels[0].molecule("def2-svp").RKS(xc="pbe")
    fock = lib.pack_tril(exact.get_fock(dm=exact.get_init_guess()))
    assert np.abs(cached - fock).max() < 2e-3  # a fitted, coarse one of the same functional; B3LYP's is 1e-1 away


def test_missing_split_is_named(label_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no molecule of split 'test'"):
        load_split([str(label_file)], "test", TABLE, MODEL, cache=tmp_path)


def test_element_out_of_the_table_is_refused(label_file: Path) -> None:
    from pyscf_tracegrad.orbitals import ShellTable, UnsupportedBasis
    from pyscf_tracegrad.reference import build_reference
    from training.labels import LabelFile

    label = LabelFile(label_file)[0]
    table = ShellTable.from_basis("def2-svp", (1, 6))
    reference = build_reference(label.molecule("def2-svp"), ReferenceSettings("sap", steps=0))
    with pytest.raises(UnsupportedBasis, match="the model knows H, C only"):
        make_data(label, reference, table, MODEL, "def2-svp")
