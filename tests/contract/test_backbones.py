"""What every backbone must do, written once: symmetries, batches, arms, gradients, files. Found by their modules."""

from __future__ import annotations

import copy
import dataclasses
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from network_helpers import (
    EVERY_ELEMENT,
    SAP,
    TABLE,
    ao_matrix,
    lively_model,
    molecule,
    random_model,
    random_reference,
    random_rotation,
    rotated,
    transformed,
)
from numpy.typing import NDArray
from pyscf import gto

from pyscf_tracegrad import backbones
from pyscf_tracegrad.backbones import Components
from pyscf_tracegrad.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.layers.tracegrad import TraceGrad
from pyscf_tracegrad.model import FockBlocks, FockModel, ModelInput
from pyscf_tracegrad.pretrained import correction, network_input
from pyscf_tracegrad.reference import Reference

NAMES = sorted(module.name for module in pkgutil.iter_modules(backbones.__path__))
SMALL = ModelConfig(
    reference=ReferenceSettings(steps=1), channels=8, layers=2, invariants=12, trace_hidden=16, radial=8, cutoff=18.0
)
CONFIGS = {
    f"{name}, {inputs}, {'TraceGrad' if tracegrad else 'bare'}": dataclasses.replace(
        SMALL, backbone=name, inputs=inputs, gradient=tracegrad, traces=tracegrad
    )
    for name in NAMES
    for inputs in ("all", "none")
    for tracegrad in (True, False)
}
# Parameters that no gradient can reach, by construction: the scalars of the site decoder's products couple to nothing
# unnatural, and without a reference the first layer sees scalars, which have m = 0 only.
_SITE = {f"backbone.site_decoder.{side}.bias" for side in ("left", "right")}
_FIRST = {f"backbone.layers.0.message.maps.{m}.weight" for m in range(1, SMALL.l_max + 1)}
IDLE = {("qhnet_so2", "all"): _SITE, ("qhnet_so2", "none"): _SITE | _FIRST}
WATER = "O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2"


@pytest.fixture(params=list(CONFIGS.values()), ids=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return request.param


@pytest.fixture(params=NAMES)
def backbone(request: pytest.FixtureRequest) -> ModelConfig:
    return dataclasses.replace(SMALL, backbone=request.param)


def fock(model: FockModel, mol: gto.Mole, reference: Reference) -> NDArray[np.float64]:
    return correction(model, molecule_graph(mol, TABLE, model.config.cutoff), reference)


def given(model: FockModel, mol: gto.Mole, seed: int = 0) -> ModelInput:
    graph = molecule_graph(mol, TABLE, model.config.cutoff)
    return network_input(graph, random_reference(mol, 1, seed), model.dtype)


def difference(a: FockBlocks, b: FockBlocks) -> float:
    """Largest difference between two outputs, over their size; both predict the same things."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(FockBlocks)]
    assert all((x is None) == (y is None) for x, y in pairs)
    there = [(x.detach(), y.detach()) for x, y in pairs if x is not None and x.numel()]
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in there)


def test_all_backbones_are_here() -> None:
    assert {"qhnet", "qhnet_so2"} <= set(NAMES)


@pytest.mark.parametrize("inversion", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_rotated_molecule_gives_rotated_fock(
    config: ModelConfig, dtype: torch.dtype, bound: float, inversion: bool
) -> None:
    mol = molecule()
    model, reference = lively_model(config, dtype), random_reference(mol, 1)
    before = fock(model, mol, reference)
    size = np.abs(before).max()
    for seed in range(2):
        rotation = random_rotation(seed, inversion)
        u = ao_matrix(mol, rotation)
        after = fock(model, rotated(mol, rotation), transformed(reference, u))
        assert np.abs(before - after).max() > 0.1 * size
        assert np.abs(u.T @ before @ u - after).max() < bound * size


def test_every_component_is_alive(config: ModelConfig) -> None:
    """So that the test above means something: also those which a reflection would show, and far ones."""
    model = lively_model(config)
    with torch.inference_mode():
        blocks = model(given(model, molecule()))
    for components in (blocks.site_components, blocks.pair_components):
        assert components.square().mean(0).sqrt().min() > 1e-7
        assert components.square().mean() > 1e-4


def test_translation_changes_nothing(config: ModelConfig) -> None:
    mol = molecule()
    model, reference = lively_model(config), random_reference(mol, 1)
    before, after = fock(model, mol, reference), fock(model, rotated(mol, np.eye(3), shift=3.7), reference)
    assert np.abs(before - after).max() < 1e-10 * np.abs(before).max()


def test_permuted_atoms_give_permuted_fock(config: ModelConfig) -> None:
    atoms = EVERY_ELEMENT.split("; ")
    order = [3, 5, 0, 2, 4, 1]
    mol, shuffled = molecule(), molecule("; ".join(atoms[k] for k in order))
    slices = mol.aoslice_by_atom()
    index = np.concatenate([np.arange(slices[k, 2], slices[k, 3]) for k in order])
    selection = np.eye(mol.nao)[:, index]
    model, reference = lively_model(config), random_reference(mol, 1)
    before = fock(model, mol, reference)
    after = fock(model, shuffled, transformed(reference, selection))
    assert np.abs(before[np.ix_(index, index)] - after).max() < 1e-10 * np.abs(before).max()


def test_fock_matrix_is_symmetric(config: ModelConfig) -> None:
    mol = molecule()
    found = fock(lively_model(config), mol, random_reference(mol, 1))
    assert np.abs(found - found.T).max() < 1e-12 * np.abs(found).max()


def join(first: ModelInput, second: ModelInput) -> ModelInput:
    values = {}
    for field in dataclasses.fields(ModelInput):
        a, b = getattr(first, field.name), getattr(second, field.name)
        values[field.name] = (
            torch.cat([a, b + len(first.element)], 1) if field.name == "edge_index" else torch.cat([a, b])
        )
    return ModelInput(**values)


def test_batch_equals_single(config: ModelConfig) -> None:
    model = lively_model(config)
    singles = [given(model, m) for m in (molecule(), molecule("F 0 0 0", charge=-1), molecule(WATER))]
    with torch.inference_mode():
        alone = [model(s) for s in singles]
        both = model(join(join(*singles[:2]), singles[2]))
    for name in ("site", "pair"):
        one_by_one = torch.cat([getattr(a, name) for a in alone])
        assert (one_by_one - getattr(both, name)).abs().max() < 1e-12 * one_by_one.abs().max()


def test_far_molecules_do_not_see_each_other(config: ModelConfig) -> None:
    first, second = molecule(), molecule(WATER)
    far = rotated(second, np.eye(3), shift=40.0)
    both = first + far
    n = first.nao
    model, reference = lively_model(config), random_reference(both, 1)
    found = fock(model, both, reference)
    eye = np.eye(both.nao)
    for mol, part in ((first, slice(None, n)), (far, slice(n, None))):
        alone = fock(model, mol, transformed(reference, eye[:, part]))
        assert np.abs(found[part, part] - alone).max() < 1e-12 * np.abs(found).max()
    assert not found[:n, n:].any()


def test_single_atom_has_no_edges(config: ModelConfig) -> None:
    """A spherical reference gives a spherical dF."""
    atom = molecule("F 0 0 0", charge=-1)
    spherical = Reference(np.eye(atom.nao), 0.3 * np.eye(atom.nao)[None], np.eye(atom.nao))
    found = fock(lively_model(config), atom, spherical)
    degrees = np.concatenate([np.full(2 * l + 1, l) for l in (0, 0, 0, 1, 1, 2)])
    assert np.abs(found[degrees[:, None] != degrees]).max() < 1e-12
    assert np.abs(found).max() > 1e-2
    for rows in ([3, 4, 5], [6, 7, 8], range(9, 14)):
        block = found[np.ix_(rows, rows)]
        assert np.abs(block - block[0, 0] * np.eye(len(rows))).max() < 1e-12


def test_far_pairs_go_to_the_reference_smoothly(config: ModelConfig) -> None:
    """dF of a pair, and what the one atom does to the other's, vanish at the cutoff, without a step."""
    model = lively_model(dataclasses.replace(config, cutoff=10.0))
    pairs, sites = [], []
    for distance in (9.5, 9.999, 10.001):
        mol = gto.M(atom=[("O", (0, 0, 0)), ("O", (0, 0, distance))], unit="B", basis="def2-svp", verbose=0)
        found = fock(model, mol, random_reference(mol, 1))
        pairs.append(np.abs(found[:14, 14:]).max())
        sites.append(found[:14, :14])
    assert pairs[0] > pairs[1] > pairs[2] == 0.0
    assert pairs[1] < 1e-4 * pairs[0]
    assert np.abs(sites[1] - sites[2]).max() < 1e-6 * np.abs(sites[2]).max()


def test_charge_reaches_the_network(config: ModelConfig) -> None:
    model = lively_model(config)
    graph, reference = molecule_graph(molecule(), TABLE, config.cutoff), random_reference(molecule(), 1)
    charged = dataclasses.replace(graph, charge=1)
    assert np.abs(correction(model, graph, reference) - correction(model, charged, reference)).max() > 1e-6


@pytest.mark.parametrize(
    ("inputs", "seen"), [("all", (True, True)), ("reference", (True, False)), ("none", (False,) * 2)]
)
def test_sees_the_matrices_that_it_is_told_to(backbone: ModelConfig, inputs: str, seen: tuple[bool, bool]) -> None:
    """On-site and pair blocks, of F_ref and of the response."""
    model = lively_model(dataclasses.replace(backbone, inputs=inputs))
    before = given(model, molecule())
    with torch.inference_mode():
        plain = model(before)
        for kind in ("site", "pair"):
            for field, changes in enumerate(seen):
                blocks = getattr(before, kind).clone()
                blocks[:, field] *= 2.0
                after = difference(plain, model(dataclasses.replace(before, **{kind: blocks})))
                assert after > 1e-6 if changes else after == 0.0


def test_every_parameter_gets_a_gradient(config: ModelConfig) -> None:
    model = copy.deepcopy(lively_model(config)).train()
    inputs = given(model, molecule())
    blocks = model(dataclasses.replace(inputs, charge=inputs.charge + 1.0))
    generator = torch.Generator().manual_seed(0)
    loss = torch.zeros((), dtype=torch.float64)
    for field in ("site", "pair", "site_traces", "pair_traces"):
        value = getattr(blocks, field)
        if value is not None:
            loss = loss + (value * torch.randn(value.shape, dtype=value.dtype, generator=generator)).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.numel()}
    assert all(g is None or torch.isfinite(g).all() for g in gradients.values())
    dead = {name for name, g in gradients.items() if g is None or not g.any()}
    assert dead == IDLE.get((config.backbone, config.inputs), set())


@pytest.mark.parametrize(("gradient", "traces"), [(True, True), (True, False), (False, True), (False, False)])
def test_arms_of_the_ablation(backbone: ModelConfig, gradient: bool, traces: bool) -> None:
    """`gradient` alone changes dF, `traces` alone predicts traces; the numbers of invariants are those declared."""
    model = lively_model(dataclasses.replace(backbone, gradient=gradient, traces=traces))
    modules = [module for module in model.modules() if isinstance(module, TraceGrad)]
    assert bool(modules) == (gradient or traces)
    assert all((module.scale is not None) == gradient for module in modules)
    found: list[Components] = []
    hook = model.backbone.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    inputs = given(model, molecule())
    with torch.inference_mode():
        blocks = model(inputs)
    hook.remove()
    for kind in ("node", "pair"):
        declared, invariants = getattr(model.backbone, f"{kind}_invariants"), getattr(found[0], f"{kind}_invariants")
        assert (invariants is None) if declared == 0 else (invariants.shape[1] == declared)
    n_shell_pairs = len(TABLE.degrees) ** 2
    n = {"site": len(inputs.element), "pair": 2 * inputs.edge_index.shape[1]}
    for kind, other in (("site", "node"), ("pair", "pair")):
        predicted = getattr(blocks, f"{kind}_traces")
        assert (predicted is not None) == (traces and getattr(model.backbone, f"{other}_invariants") > 0)
        assert predicted is None or predicted.shape == (n[kind], n_shell_pairs)
    assert (blocks.pair_traces is not None) == traces
    bare = copy.deepcopy(lively_model(dataclasses.replace(backbone, gradient=False, traces=False)))
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if k in bare.state_dict()})
    with torch.inference_mode():
        change = float((bare(inputs).pair - blocks.pair).abs().max())
    assert change > 1e-6 if gradient else change == 0.0


def test_inference_mode_and_training_agree(config: ModelConfig) -> None:
    """Whatever is kept in evaluation."""
    model = copy.deepcopy(lively_model(config))  # `train` changes it
    inputs = given(model, molecule())
    with torch.inference_mode():
        first, again = model(inputs), model(inputs)
    assert difference(first, again) == 0.0
    assert difference(first, model(inputs)) < 1e-12
    assert difference(first, model.train()(inputs)) < 1e-12


def test_files_copies_and_casts_give_the_same(config: ModelConfig, tmp_path: Path) -> None:
    model = lively_model(config, torch.float32)
    inputs = given(model, molecule())
    save_checkpoint(tmp_path / "model.pt", Checkpoint(model, TABLE, "b3lyp", "def2-svp"))
    loaded = load_checkpoint(tmp_path / "model.pt").model
    assert loaded.config == config
    with torch.inference_mode():
        before = model(inputs)
        # other memory may add up in another order
        assert difference(before, loaded(inputs)) < 1e-5
        assert difference(before, copy.deepcopy(model)(inputs)) < 1e-5
        assert difference(before, loaded.double().float()(inputs)) < 1e-5
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_made_in_inference_mode_works(backbone: ModelConfig) -> None:
    with torch.inference_mode():
        model = random_model(backbone)
        inputs = given(model, molecule(WATER))
        assert difference(model(inputs), model(inputs)) == 0.0


def test_one_layer_is_enough(backbone: ModelConfig) -> None:
    mol = molecule()
    model = lively_model(dataclasses.replace(backbone, layers=1))
    assert np.isfinite(fock(model, mol, random_reference(mol, 1))).all()


def test_a_reference_without_responses(backbone: ModelConfig) -> None:
    mol = molecule(WATER)
    model = lively_model(dataclasses.replace(backbone, reference=SAP))
    assert np.abs(fock(model, mol, random_reference(mol, 0))).max() > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(config: ModelConfig) -> None:
    """There and back again, with whatever is kept in evaluation."""
    model = copy.deepcopy(lively_model(config))
    inputs = given(model, molecule())
    there = ModelInput(**{f.name: getattr(inputs, f.name).cuda() for f in dataclasses.fields(ModelInput)})
    with torch.inference_mode():
        before = model(inputs)
        found = model.cuda()(there)
        values = {f.name: getattr(found, f.name) for f in dataclasses.fields(FockBlocks)}
        assert found.site.is_cuda
        assert difference(before, FockBlocks(**{k: v if v is None else v.cpu() for k, v in values.items()})) < 1e-10
        assert difference(before, model.cpu()(inputs)) < 1e-12
