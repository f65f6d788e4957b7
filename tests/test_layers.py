"""Parts of the network: TraceGrad's closed form, bond frames, bases of blocks, standardisation, linear maps."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn import o3

import pyscf_tracegrad
from pyscf_tracegrad.block_basis import pair_basis, site_basis
from pyscf_tracegrad.blocks import PairDecoder, PairEmbedding, SiteDecoder, SiteEmbedding, gather_blocks, scatter_blocks
from pyscf_tracegrad.layers import wigner
from pyscf_tracegrad.layers.degrees import block_diagonal, bond_rotations, degrees
from pyscf_tracegrad.layers.linear import DegreeLinear, SO2Linear
from pyscf_tracegrad.layers.norm import EquivariantNorm
from pyscf_tracegrad.layers.tracegrad import InvariantMLP, TraceGrad
from pyscf_tracegrad.layers.wigner import frame_rotations, polar_rotation

CORE = ("layers", "backbones", "blocks", "block_basis", "o3", "projection", "standardise", "model", "config")
SHELLS = (0, 0, 0, 1, 1, 2)
L = 4
DIM = (L + 1) ** 2


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("in_bond_frame", [False, True])
def test_tracegrad_closed_form_equals_autograd(in_bond_frame: bool) -> None:
    torch.manual_seed(0)
    layer = TraceGrad(L, 8, invariants=20, outputs=36, in_bond_frame=in_bond_frame).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    feature = double(5, DIM, 8).requires_grad_()
    z, gradient = layer.invariant(feature)
    (expected,) = torch.autograd.grad(z.sum(), feature)
    assert expected.abs().max() > 1e-3
    assert (gradient - expected).abs().max() < 1e-10


def test_invariant_mlp_vjp_equals_autograd() -> None:
    torch.manual_seed(1)
    mlp = InvariantMLP(7, 11, 5).double()
    u = double(4, 7).requires_grad_()
    z, slope = mlp(u)
    (expected,) = torch.autograd.grad(z.sum(), u)
    assert (slope - expected).abs().max() < 1e-12


def test_tracegrad_runs_and_trains_without_double_backward() -> None:
    layer = TraceGrad(L, 4, invariants=8, outputs=36, in_bond_frame=False)
    feature = torch.randn(3, DIM, 4)
    with torch.inference_mode():
        layer(feature)
    out, z = layer(feature)
    (out.square().sum() + z.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


def test_frames_represent_rotations_exactly() -> None:
    directions = torch.nn.functional.normalize(double(20, 3), dim=1)
    rotations = frame_rotations(directions, L)
    polar = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert (rotations[1] @ polar - directions).abs().max() < 1e-14
    points = double(20, 3, seed=1)
    turned = torch.einsum("nij,nj->ni", rotations[1], points)
    for l in range(L + 1):
        expected = o3.spherical_harmonics(l, turned, normalize=True)
        got = torch.einsum("nij,nj->ni", rotations[l], o3.spherical_harmonics(l, points, normalize=True))
        assert (got - expected).abs().max() < 1e-13


@pytest.mark.parametrize("vector", [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -2.0, 0.0)])
def test_frames_on_the_axes_are_orthogonal(vector: tuple[float, float, float]) -> None:
    for matrix in bond_rotations(torch.tensor([vector]), L):
        identity = torch.eye(matrix.shape[1], dtype=torch.float64)
        assert (matrix[0] @ matrix[0].T - identity).abs().max() < 1e-13


@pytest.mark.parametrize("l", range(7))
def test_the_constant_turn_does_not_hang_on_the_last_digits_of_a_least_squares(
    l: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAPACK's differ from process to process, and every training with them."""
    turn, lstsq = wigner._turn.__wrapped__, torch.linalg.lstsq
    clean = turn(l)
    points = double(50, 3, seed=7)
    before, after = (o3.spherical_harmonics(l, x, normalize=True) for x in (points, points @ wigner._AXES.T))
    assert torch.allclose(before @ clean.T, after, rtol=0, atol=1e-14)

    def noisy(*arguments: torch.Tensor) -> object:
        found = lstsq(*arguments)
        noise = 1e-13 * double(*found.solution.shape, seed=l)
        return type(found)((found.solution + noise, *found[1:]))

    monkeypatch.setattr(torch.linalg, "lstsq", noisy)
    assert torch.equal(turn(l), clean)


def test_wigner_3j_values_are_frozen() -> None:
    """Phases and norms that the shipped weights were trained with; a change in e3nn would silently break them."""
    values = o3.wigner_3j(1, 1, 2, dtype=torch.float64)
    assert values.square().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert values[1, 1, 2].item() == pytest.approx(0.3651483716701107, abs=1e-7)
    assert o3.wigner_3j(1, 1, 1, dtype=torch.float64)[0, 1, 2].item() == pytest.approx(0.4082482904638631, abs=1e-7)
    assert o3.wigner_3j(1, 2, 3, dtype=torch.float64)[1, 2, 3].item() == pytest.approx(0.29277002188456, abs=1e-7)


def test_block_bases_are_complete_and_orthonormal() -> None:
    pair, site = pair_basis(SHELLS), site_basis(SHELLS)
    assert pair.sizes == [46, 10, 84, 42, 12, 2]
    assert site.matrices.shape == (105, 196)
    for matrix in (pair.forward, pair.reverse):
        assert np.abs(matrix @ matrix.T - np.eye(196)).max() < 1e-14
    assert np.abs(site.matrices @ site.matrices.T - np.eye(105)).max() < 1e-12
    symmetric = np.random.default_rng(0).normal(size=(14, 14))
    symmetric += symmetric.T
    assert np.abs(site.matrices.T @ (site.matrices @ symmetric.ravel()) - symmetric.ravel()).max() < 1e-12


def test_pair_components_turn_as_so2() -> None:
    """About the bond by an angle: component k turns by k times it, even and odd scalars stay."""
    basis, angle = pair_basis(SHELLS), torch.tensor([0.7], dtype=torch.float64)
    turn = block_diagonal([polar_rotation(l, angle) for l in SHELLS])[0].numpy()
    block = np.random.default_rng(1).normal(size=(14, 14))
    before, after = (basis.forward @ b.ravel() for b in (block, turn @ block @ turn.T))
    start = basis.sizes[0] + basis.sizes[1]
    assert np.abs(before[:start] - after[:start]).max() < 1e-13
    for k, size in enumerate(basis.sizes[2:], start=1):
        c, s = before[start : start + size // 2], before[start + size // 2 : start + size]
        got_c, got_s = after[start : start + size // 2], after[start + size // 2 : start + size]
        sign = np.sign(got_s @ c - got_c @ s) * np.sign(np.sin(k * 0.7))
        assert np.abs(got_c - (np.cos(k * 0.7) * c - sign * np.sin(k * 0.7) * s)).max() < 1e-13
        assert np.abs(got_s - (sign * np.sin(k * 0.7) * c + np.cos(k * 0.7) * s)).max() < 1e-13
        start += size


@pytest.mark.parametrize("l_max", [2, 4])
def test_so2_linear_commutes_with_turns_about_the_bond(l_max: int) -> None:
    table = degrees(l_max)
    layer = SO2Linear(l_max, 3, 5).double()
    turn = block_diagonal([polar_rotation(l, torch.tensor([1.1], dtype=torch.float64)) for l in range(l_max + 1)])[0]
    turn = turn[table.m_major][:, table.m_major]
    x = double(4, table.dim, 3)
    assert (layer(turn @ x) - turn @ layer(x)).abs().max() < 1e-12


def test_degree_linear_is_e3nn_linear() -> None:
    """The same map as e3nn's, in our layout."""
    layer = DegreeLinear(L, 3, 2).double()
    rotation = o3.rand_matrix().double()
    big = block_diagonal([o3.Irrep(l, (-1) ** l).D_from_matrix(rotation)[None] for l in range(L + 1)])[0]
    x = double(4, DIM, 3)
    assert str(layer.irreps_in) == "3x0e+3x1o+3x2e+3x3o+3x4e"
    assert (layer(big @ x) - big @ layer(x)).abs().max() < 1e-5  # e3nn's generators are float32


def test_norm_makes_unit_rms() -> None:
    out = EquivariantNorm(L, 6).double()(100 * double(3, DIM, 6))
    weights = torch.tensor([1 / (5 * (2 * l + 1)) for l in degrees(L).of_row], dtype=torch.float64)
    assert torch.allclose(out.square().mean(2) @ weights, torch.ones(3, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize("shells", [(0, 1), SHELLS, (0, 0, 1, 2, 3)])
def test_embeddings_and_decoders_fit_any_shells(shells: tuple[int, ...]) -> None:
    """Also where the blocks reach higher or lower degrees than the features."""
    l_max = max(4, 2 * max(shells))
    pair, site = pair_basis(shells), site_basis(shells)
    width = sum(2 * l + 1 for l in shells)
    features = PairEmbedding(pair, l_max, 3, 2)(torch.randn(5, 2, width**2))
    assert PairDecoder(pair, l_max, 3)(features).shape == (5, width**2)
    features = SiteEmbedding(site, l_max, 3, 2)(torch.randn(5, 2, len(site.matrices)))
    assert SiteDecoder(site, l_max, 3, 4)(features, torch.randn(5, 4)).shape == (5, len(site.matrices))


def test_gather_and_scatter_are_inverse() -> None:
    slots = torch.tensor([[0, 1, 2], [4, -1, 3]])
    edges = torch.tensor([[0], [1]])
    matrix = double(5, 5)
    matrix = matrix + matrix.T
    site = gather_blocks(matrix[None], slots, torch.arange(2), torch.arange(2))[:, 0]
    pair = gather_blocks(matrix[None], slots, *edges)[:, 0]
    assert torch.equal(site[1, 1], torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(scatter_blocks(site, pair, edges, slots, 5), matrix)


@pytest.mark.parametrize("module", CORE)
def test_network_core_never_imports_pyscf(module: str) -> None:
    """torch and e3nn only: nothing in the core, nor what it imports, takes PySCF or a file."""
    package = Path(pyscf_tracegrad.__file__).parent
    found = sorted((package / module).glob("*.py")) or [package / f"{module}.py"]
    allowed = (*CORE, "errors")
    for path in found:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                first, _, rest = name.partition(".")
                assert first not in ("pyscf", "h5py", "training"), f"{path.name} imports {name}"
                assert first != "pyscf_tracegrad" or rest.split(".")[0] in allowed, f"{path.name} imports {name}"
