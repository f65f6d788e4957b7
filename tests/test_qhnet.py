"""The published backbone: its layers against plain formulas, its size, what it keeps, its config."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn import o3
from network_helpers import TABLE, lively_model, molecule, random_reference
from torch import Tensor, nn

from pyscf_tracegrad.backbones import BackboneSpec, make_backbone
from pyscf_tracegrad.backbones.qhnet import PairInput
from pyscf_tracegrad.block_basis import pair_basis, site_basis
from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.layers.bernstein import BernsteinBasis, bump_cutoff
from pyscf_tracegrad.layers.couplings import ExactTensorProduct, tensor_product
from pyscf_tracegrad.layers.degrees import block_diagonal, bond_rotations
from pyscf_tracegrad.layers.element_weights import ElementWeights
from pyscf_tracegrad.layers.expansion import BOTTLENECK, BlockEmbedding, Expansion, block_couplings
from pyscf_tracegrad.layers.norm_gate import IrrepsLinear, NormGate
from pyscf_tracegrad.layers.qhnet import EdgeInvariants, Edges, edge_harmonics, shifted_softplus
from pyscf_tracegrad.layers.rows import Rows
from pyscf_tracegrad.layers.tracegrad import TraceGrad
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.pretrained import network_input
from pyscf_tracegrad.projection import BlockProjection
from training.config import read_config

ROOT = Path(__file__).parent.parent
SHELLS = (0, 0, 0, 1, 1, 2)
ROWS = Rows(4, (1, 2, 3))
SMALL = ModelConfig(
    "qhnet", ReferenceSettings(steps=1), channels=8, layers=2, radial=8, invariants=12, trace_hidden=16, cutoff=18.0
)
PUBLISHED = replace(
    SMALL, channels=128, layers=5, radial=16, cutoff=28.3459, inputs="none", gradient=False, traces=False
)


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spec() -> BackboneSpec:
    return BackboneSpec(len(TABLE.elements), SHELLS, site_basis(SHELLS), pair_basis(SHELLS))


def triples(l_max: int, natural_only: bool) -> int:
    """Couplings l1 x l2 -> l3 of natural irreps, to natural ones or also to the unnatural 1, 2, 3."""
    found = 0
    for l1, l2, l3 in product(range(l_max + 1), repeat=3):
        natural = (l1 + l2 + l3) % 2 == 0
        found += abs(l1 - l2) <= l3 <= l1 + l2 and (natural or (l3 in (1, 2, 3) and not natural_only))
    return found


def test_couplings_of_a_block_are_the_published_ones() -> None:
    """3s2p1d: 19 couplings of shell types, 56 of shells, 14 with a bias; the unnatural irreps are p-p, p-d and d-d."""
    couplings = block_couplings(SHELLS, 4)
    assert couplings.rows == ROWS
    assert couplings.counts == (14, 16, 11, 4, 1, 5, 4, 1)
    assert [str(o3.Irrep(l, p)) for l, p in ROWS.irreps] == ["0e", "1o", "2e", "3o", "4e", "1e", "2o", "3e"]
    expansion = Expansion(couplings, 8)
    assert (expansion.n_weights, expansion.n_biases) == (1792, 14)
    gram = couplings.matrix @ couplings.matrix.T
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-14
    assert (
        np.abs(np.diag(gram) * np.repeat(np.array(ROWS.sizes), np.array(ROWS.sizes) * couplings.counts) - 1).max()
        < 1e-12
    )


def test_shells_that_need_more_degrees_are_refused() -> None:
    with pytest.raises(ValueError, match="need features with l_max = 6, not 4"):
        block_couplings((0, 1, 2, 3), 4)
    assert block_couplings((0, 1), 4).rows == Rows(4, (1,))
    assert block_couplings((0, 0), 2).rows == Rows(2)


def test_expansion_equals_a_slow_sum() -> None:
    n, channels = 3, 5
    couplings = block_couplings(SHELLS, 4)
    layer = Expansion(couplings, channels).double()
    nn.init.normal_(layer.mix.weight)
    feature, weights = double(n, ROWS.total, channels), double(n, 1806, seed=1)
    found = layer(feature, weights)
    starts = [0, 1, 2, 3, 6, 9]
    expected = torch.zeros(n, 14, 14, dtype=torch.float64)
    used = dict.fromkeys(ROWS.irreps, 0)
    offsets = np.cumsum([0, *[BOTTLENECK * count for count in couplings.counts]])
    row_starts = np.cumsum([0, *ROWS.sizes])
    for (a, l1), (b, l2) in product(enumerate(SHELLS), repeat=2):
        for big in range(abs(l1 - l2), l1 + l2 + 1):
            irrep = (big, (-1) ** (l1 + l2))
            k, c = ROWS.irreps.index(irrep), used[irrep]
            used[irrep] += 1
            rows = feature[:, row_starts[k] : row_starts[k + 1]]
            bottleneck = torch.einsum("nmc,cw->nmw", rows, layer.mix.weight[k] / math.sqrt(channels))
            w = weights[:, offsets[k] : offsets[k + 1]].reshape(n, BOTTLENECK, couplings.counts[k])[:, :, c]
            coupled = torch.einsum("nmw,nw->nm", bottleneck, w)
            if big == 0:
                coupled = coupled + weights[:, 1792 + c, None]
            symbols = o3.wigner_3j(l1, l2, big, dtype=torch.float64)
            block = torch.einsum("ijm,nm->nij", symbols, coupled) / 32
            expected[:, starts[a] : starts[a] + 2 * l1 + 1, starts[b] : starts[b] + 2 * l2 + 1] += block
    assert found.abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-13


def test_block_embedding_takes_an_expanded_block_apart() -> None:
    """With unit maps: the coefficients that a block is made of, over the norm of their symbols."""
    couplings = block_couplings(SHELLS, 4)
    layer = BlockEmbedding(couplings, 16, 1).double()
    for key, linear in layer.maps.items():
        nn.init.eye_(linear.weight)
        assert linear.weight.shape == (16, couplings.counts[int(key)])
    coefficients = double(2, 196)
    features = layer((coefficients @ torch.as_tensor(couplings.matrix)).view(2, 1, 14, 14))
    start = row = 0
    for size, count in zip(ROWS.sizes, couplings.counts, strict=True):
        part = coefficients[:, start : start + size * count].reshape(2, size, count) / math.sqrt(size)
        assert (features[:, row : row + size, :count] - part).abs().max() < 1e-13
        assert not features[:, row : row + size, count:].any()
        start, row = start + size * count, row + size


def test_pair_input_turns_components_back_into_blocks() -> None:
    blocks, vectors = double(3, 2, 14, 14), double(3, 3, seed=1)
    rotations = bond_rotations(vectors, 2)
    shell_rotation = block_diagonal([rotations[l] for l in SHELLS])
    layer = PairInput(spec(), block_couplings(SHELLS, 4), 8, 2)
    layer.embedding = nn.Identity()  # type: ignore[assignment]
    components = BlockProjection(site_basis(SHELLS), pair_basis(SHELLS)).pair(blocks, shell_rotation)
    there, back = layer(components, shell_rotation).chunk(2)
    assert (there - blocks).abs().max() < 1e-12
    assert (back - blocks.transpose(2, 3)).abs().max() < 1e-12


def test_norm_gate_equals_a_slow_loop() -> None:
    channels = 3
    layer = NormGate(ROWS, channels).double()
    x = double(4, ROWS.total, channels)
    starts = np.cumsum([0, *ROWS.sizes])
    for n in range(4):
        norms = np.zeros((5, channels))
        for c in range(channels):
            norms[0, c] = x[n, 0, c]
            for l in range(1, 5):
                rows = [
                    r
                    for k, (degree, _) in enumerate(ROWS.irreps)
                    if degree == l
                    for r in range(starts[k], starts[k + 1])
                ]
                norms[l, c] = math.sqrt(sum(float(x[n, r, c]) ** 2 for r in rows))
        a, b = (linear.weight.detach().numpy() for linear in (layer.mlp[0], layer.mlp[2]))
        hidden = a @ norms.ravel() + layer.mlp[0].bias.detach().numpy()
        gates = (b @ (hidden / (1 + np.exp(-hidden))) + layer.mlp[2].bias.detach().numpy()).reshape(5, channels)
        expected = x[n].numpy() * gates[ROWS.degree_of_row]
        expected[0] = gates[0]
        assert np.abs(layer(x)[n].detach().numpy() - expected).max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_gate_has_a_gradient_at_zero(dtype: torch.dtype) -> None:
    x = torch.zeros(2, ROWS.total, 3, dtype=dtype, requires_grad=True)
    layer = NormGate(ROWS, 3).to(dtype)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


def test_irreps_linear_is_e3nn_linear() -> None:
    layer, theirs = (
        IrrepsLinear(ROWS, 3, 2).double(),
        o3.Linear(ROWS.with_channels(3), ROWS.with_channels(2), biases=True).double(),
    )
    nn.init.normal_(layer.bias)
    with torch.no_grad():
        theirs.weight.copy_(layer.weight.flatten())
        theirs.bias.copy_(layer.bias)
    x = double(4, ROWS.total, 3)
    assert (ROWS.to_e3nn(layer(x)) - theirs(ROWS.to_e3nn(x))).abs().max() < 1e-12
    assert torch.equal(ROWS.from_e3nn(ROWS.to_e3nn(x)), x)


def slow_product(layer: ExactTensorProduct, irreps: list[o3.Irreps], x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """e3nn's normalisation: sqrt((2l+1) / paths to that irrep), and the root of the published sqrt((2l+1) / paths)."""
    first, second, out = irreps
    n, channels = len(x), first[0].mul
    paths = [
        (i, j, k)
        for i, j, k in product(range(len(first)), range(len(second)), range(len(out)))
        if out[k].ir in first[i].ir * second[j].ir
    ]
    assert len(paths) == layer.n_paths
    parts = [torch.zeros(n, channels, ir.dim, dtype=torch.float64) for _, ir in out]
    weights = weights.expand(n, -1).reshape(n, len(paths), channels)
    for p, (i, j, k) in enumerate(paths):
        a = x[:, first.slices()[i]].reshape(n, channels, -1)
        b = y[:, second.slices()[j]].reshape(n, second[j].mul, -1).expand(-1, channels, -1)
        symbols = o3.wigner_3j(first[i].ir.l, second[j].ir.l, out[k].ir.l, dtype=torch.float64)
        same = sum(path[2] == k for path in paths)
        dim = out[k].ir.dim
        norm = math.sqrt(dim / same * math.sqrt(dim / len(paths)))
        parts[k] += norm * weights[:, p, :, None] * torch.einsum("nui,nuj,ijk->nuk", a, b, symbols)
    return torch.cat([part.flatten(1) for part in parts], 1)


@pytest.mark.parametrize(("mode", "paths"), [("uvu", triples(4, True)), ("uuu", triples(4, False))])
def test_tensor_product_is_exact_after_float32(mode: str, paths: int) -> None:
    """42 published paths with the harmonics; 59 of the 65 with unnatural parity kept apart."""
    channels = 2
    first, harmonics = Rows(4).with_channels(channels), Rows(4).with_channels(1)
    irreps = [first, harmonics, first] if mode == "uvu" else [first, first, ROWS.with_channels(channels)]
    layer = ExactTensorProduct(*(str(i) for i in irreps), mode, shared=False)
    assert torch.get_default_dtype() == torch.float32
    assert layer.n_paths == paths == {"uvu": 42, "uuu": 59}[mode]
    x, y, weights = double(3, irreps[0].dim), double(3, irreps[1].dim, seed=1), double(3, layer.weight_numel, seed=2)
    expected = slow_product(layer, irreps, x, y, weights)
    rounded = layer(x.float(), y.float(), weights.float())
    assert rounded.dtype == torch.float32
    assert (rounded - expected).abs().max() < 1e-5
    assert (layer(x, y, weights) - expected).abs().max() < 1e-13
    assert copy.deepcopy(layer) is layer


def test_products_are_made_once() -> None:
    names = [str(Rows(1).with_channels(2))] * 3
    assert tensor_product(*names, "uuu") is tensor_product(*names, "uuu")


def test_edge_invariants_are_those_of_both_ends() -> None:
    """Scalars of dst, of src (not of dst twice), inner products over 2l+1."""
    x = double(4, 25, 3)
    edges = Edges(torch.tensor([0, 1]), torch.tensor([2, 3]), double(2, 4), double(4, 25))
    found = EdgeInvariants(Rows(4))(x, edges)
    assert found.shape == (4, 6 * 3)
    for row, (dst, src) in enumerate([(0, 2), (1, 3), (2, 0), (3, 1)]):
        expected = [x[dst, 0], x[src, 0]]
        expected += [
            (x[dst, l * l : (l + 1) ** 2] * x[src, l * l : (l + 1) ** 2]).sum(0) / (2 * l + 1) for l in range(1, 5)
        ]
        assert (found[row] - torch.cat(expected)).abs().max() < 1e-13
        assert (int(edges.dst[row]), int(edges.src[row])) == (dst, src)


def test_harmonics_point_from_src_to_dst() -> None:
    """l = 1 is sqrt(3) times the unit vector, (y, z, x)."""
    positions = double(2, 3)
    vectors = positions[1:] - positions[:1]
    found = edge_harmonics(vectors, 4)[:, 1:4]
    for row, (dst, src) in enumerate([(0, 1), (1, 0)]):
        unit = nn.functional.normalize(positions[dst] - positions[src], dim=0)
        assert (found[row] - math.sqrt(3) * unit[[1, 2, 0]]).abs().max() < 1e-13


def test_bernstein_basis_equals_the_plain_formula() -> None:
    """0.5 per Angstrom at the start, distances in bohr."""
    cutoff, n = 28.3459, 16
    basis = BernsteinBasis(n, cutoff).double()
    for r in (0.9, 2.1, 7.0, 20.0, 28.3):
        found = basis(torch.tensor([r], dtype=torch.float64))[0]
        x = math.exp(-0.5 * 0.529177210903 * r)
        cut = math.exp(-(r**2) / ((cutoff - r) * (cutoff + r)))
        expected = [cut * math.comb(15, k) * x ** (15 - k) * (1 - x) ** k for k in range(n)]
        assert np.abs(found.detach().numpy() - expected).max() < 1e-7  # the parameter was made in float32
        assert found.sum().item() == pytest.approx(cut)
    assert not basis(torch.tensor([cutoff, 40.0])).any()
    basis.float()(torch.tensor([1e-3, 3.0, 28.34])).sum().backward()
    assert basis.decay.grad is not None
    assert torch.isfinite(basis.decay.grad)


def test_cutoff_is_smooth() -> None:
    r = torch.linspace(9.9, 10.1, 401, dtype=torch.float64)
    assert bump_cutoff(r, 10.0).diff().abs().max() < 1e-4
    assert bump_cutoff(torch.zeros(1), 10.0) == 1.0


def test_shifted_softplus_is_zero_at_zero() -> None:
    x = torch.tensor([0.0, 1.0, -2.0])
    assert torch.allclose(shifted_softplus(x), torch.log(0.5 * torch.exp(x) + 0.5), atol=1e-7)


def test_tracegrad_closed_form_with_both_parities() -> None:
    torch.manual_seed(0)
    layer = TraceGrad(4, 8, 20, 36, in_bond_frame=False, unnatural=(1, 2, 3)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert len(layer.left) == len(ROWS.irreps)
    feature = double(5, ROWS.total, 8).requires_grad_()
    z, gradient = layer.invariant(feature)
    (expected,) = torch.autograd.grad(z.sum(), feature)
    assert expected.abs().max() > 1e-3
    assert (gradient - expected).abs().max() < 1e-10
    with pytest.raises(ValueError, match="natural parity only"):
        TraceGrad(4, 8, 20, 36, in_bond_frame=True, unnatural=(1,))


def test_number_of_parameters_is_composed_of_the_published_parts() -> None:
    """20,415,673 of the authors' code, less those without a gradient, with the differences that the docstring tells."""
    c, paths, conv_paths = 128, triples(4, False), triples(4, True)
    linear, linear_unnatural = 5 * c * c + c, 8 * c * c + c
    gate = 2 * (5 * c * 5 * c + 5 * c)
    net = 16 * 32 + 32 * conv_paths * c
    first = (16 * 32 + 32 * 5 * c) + (2 * c * 32 + 32 * 5 * c) + linear
    convolution = 3 * linear + gate + net + (6 * c * 32 + 32 * conv_paths * c)
    weights = (16 * c + c * paths * c) + (6 * c * c + c) + (c + 1) * paths * c
    pair = 2 * linear + 2 * gate + weights + linear_unnatural
    own = 3 * gate + 2 * linear + paths * c + linear_unnatural
    hyper = sum((ends * c + 1) * c * 2 + (c + 1) * (1792 + 14) for ends in (1, 2))
    total = 5 * c + c + 1 + first + 4 * convolution + 2 * (pair + own) + 2 * 8 * c * 32 + hyper
    backbone = make_backbone(PUBLISHED, spec())
    assert (linear, gate, convolution, first) == (82_048, 820_480, 1_435_776, 197_760 - 66_048)
    assert hyper == 564_764
    assert sum(p.numel() for p in backbone.parameters()) == total == 19_989_661
    fewer_paths = (65 - paths) * c * (2 * (c + c + 1) + 2)
    more_irreps = 3 * c * c * 4 + 2 * 3 * c * 32
    assert (fewer_paths, more_irreps) == (396_288, 221_184)
    assert total == 20_415_673 - 250_396 - fewer_paths + more_irreps - 5 * c + c
    text = sys.modules["pyscf_tracegrad.backbones.qhnet"].__doc__ or ""
    for number in (total, 20_415_673, 250_396, 20_165_277, 175_616, fewer_paths, more_irreps):
        assert f"{number:,}" in text


def test_untrained_model_predicts_the_mean() -> None:
    torch.manual_seed(0)
    model = FockModel(SMALL, SHELLS, len(TABLE.elements))
    blocks = model(network_input(molecule_graph(molecule(), TABLE, 18.0), random_reference(molecule(), 1), model.dtype))
    assert not blocks.site_components.any()
    assert not blocks.pair_components.any()


def element_weights() -> tuple[ElementWeights, Tensor, Tensor, list[int]]:
    """A hyper-network with random weights, an embedding, five pairs of three kinds, and the rows it was asked for."""
    torch.manual_seed(0)
    layer = ElementWeights(2, 4, 20, 3).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    asked: list[int] = []
    layer.weights.register_forward_pre_hook(lambda _module, args: asked.append(len(args[0])))
    return layer, nn.Parameter(torch.randn(3, 4)), torch.tensor([[0, 1], [1, 0], [0, 1], [2, 2], [1, 0]]), asked


def test_decoder_weights_are_made_once_per_kind() -> None:
    layer, embedding, elements, asked = element_weights()
    ends = torch.cat([embedding[elements[:, 0]], embedding[elements[:, 1]]], 1)
    expected = torch.cat([layer.weights(ends), layer.biases(ends)], 1)
    asked.clear()
    assert torch.allclose(layer(embedding, elements), expected)  # with gradients: every call
    assert torch.allclose(layer(embedding, elements), expected)
    assert asked == [3, 3]
    with torch.inference_mode():
        for _ in range(3):
            assert torch.allclose(layer(embedding, elements), expected)
    with torch.no_grad():
        assert torch.allclose(layer(embedding, elements), expected)
        assert layer(embedding, elements[:0]).shape == (0, 23)
        layer(embedding, torch.tensor([[2, 2], [1, 1]]))
    assert asked == [3, 3, 3, 0, 1]


def changes() -> dict[str, Callable[[ElementWeights, Tensor], object]]:
    other = {k: torch.randn_like(v) for k, v in ElementWeights(2, 4, 20, 3).state_dict().items()}

    def step(layer: ElementWeights, _: Tensor) -> None:
        optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
        layer(torch.ones(3, 4), torch.tensor([[0, 1]])).sum().backward()
        optimiser.step()

    return {
        "load_state_dict": lambda layer, _: layer.load_state_dict(other),
        "load_state_dict with assign": lambda layer, _: layer.load_state_dict(other, assign=True),
        "a step in evaluation": step,
        "data behind torch's back, in training": lambda layer, _: [
            layer.train(),
            *(p.data.mul_(2.0) for p in layer.parameters()),
            layer.eval(),
        ],
        "the embedding": lambda _, embedding: embedding.detach().mul_(2.0),
        "running mean": lambda layer, _: torch._foreach_lerp_(
            [p.detach() for p in layer.parameters()], list(other.values()), 0.5
        ),
        "float64": lambda layer, _: layer.double(),
    }


@pytest.mark.parametrize("name", list(changes()))
def test_kept_decoder_weights_never_go_stale(name: str) -> None:
    layer, embedding, elements, asked = element_weights()
    with torch.inference_mode():
        before = layer(embedding, elements)
    changes()[name](layer, embedding)
    if name == "float64":
        embedding = nn.Parameter(embedding.detach().double())
    asked.clear()
    with torch.inference_mode():
        after = layer(embedding, elements)
    assert asked == [3]
    assert after.dtype == layer.weights[0].weight.dtype
    assert torch.allclose(after, layer(embedding, elements))
    assert (name == "float64") == torch.allclose(before, after.float(), atol=1e-4)


def test_a_copy_keeps_nothing_of_the_original() -> None:
    layer, embedding, elements, _ = element_weights()
    with torch.inference_mode():
        before = layer(embedding, elements)
        twin = copy.deepcopy(layer)
        for parameter in twin.parameters():
            parameter.mul_(2.0)
        assert not torch.allclose(twin(embedding, elements), before)
        assert torch.equal(layer(embedding, elements), before)


def test_checkpoint_holds_parameters_only() -> None:
    """No symbols of e3nn, no kept weights."""
    model = lively_model(SMALL)
    names = {name for name, _ in model.backbone.named_parameters()}
    assert set(model.backbone.state_dict()) == names


def test_nothing_imports_it_unless_a_checkpoint_names_it() -> None:
    code = (
        "import sys; from pyscf_tracegrad.pretrained import load_model; load_model();"
        "print([m for m in sys.modules if m.startswith('pyscf_tracegrad') and 'qhnet' in m] +"
        " [m for m in ('pyscf_tracegrad.layers.couplings', 'pyscf_tracegrad.layers.expansion') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "['pyscf_tracegrad.backbones.qhnet_so2']"


def test_config_has_the_published_sizes() -> None:
    run = read_config(ROOT / "training" / "configs" / "qhnet.toml")
    model = run.model
    assert (model.backbone, model.channels, model.layers, model.radial, model.l_max) == ("qhnet", 128, 5, 16, 4)
    assert model.cutoff == pytest.approx(15.0 / 0.529177210903, abs=1e-4)
    assert (model.inputs, model.gradient, model.traces, model.reference.steps) == ("all", False, False, 2)
    assert (model.invariants, model.trace_hidden, run.schedule.learning_rate) == (1024, 1024, 5e-4)
    shipped = read_config(ROOT / "training" / "configs" / "shipped.toml")
    assert replace(run.schedule, learning_rate=shipped.schedule.learning_rate) == shipped.schedule
