"""Every term of the loss against a slow, plain NumPy formula."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from label_helpers import SMALL, write_labels
from network_helpers import TABLE, random_model
from numpy.typing import NDArray
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from pyscf_tracegrad.block_basis import pair_basis, shell_starts, site_basis
from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.model import FockModel
from training.config import LossWeights
from training.dataset import FockData, load_split, model_input
from training.losses import SCALE, errors, total_loss, trace_loss

MODEL = ModelConfig(reference=ReferenceSettings(steps=1), channels=4, layers=1, invariants=6, trace_hidden=8, radial=6)
SHELLS = (0, 0, 0, 1, 1, 2)
Array = NDArray[np.float64]


def only(**terms: float) -> LossWeights:
    """Weights of these terms, all others off."""
    return LossWeights(**({"mae": 0.0, "mse": 0.0, "ov": 0.0, "mo": 0.0, "trace": 0.0} | terms))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[FockData]:
    folder = tmp_path_factory.mktemp("losses")
    labels = write_labels(folder / "small.h5", dict(list(SMALL.items())[:2]), ["train", "train"])
    return load_split([str(labels)], "train", TABLE, MODEL, cache=folder)[0]


@pytest.fixture(scope="module")
def batch(data: list[FockData]) -> Data:
    return next(iter(DataLoader(data, batch_size=2)))


@pytest.fixture(scope="module")
def model() -> FockModel:
    return random_model(MODEL)


def plain_errors(model: FockModel, molecule: FockData) -> Array:
    """dF predicted - dF known, element by element, (nao, nao)."""
    with torch.no_grad():
        blocks = model(model_input(next(iter(DataLoader([molecule])))))
    site = (blocks.site - molecule.target_site).double().numpy()
    pair = (blocks.pair - molecule.target_pair).double().numpy()
    slots, n = molecule.ao_slots.numpy(), int(molecule.nao)
    matrix = np.zeros((n, n))
    for atom, rows in enumerate(slots):
        for a, p in enumerate(rows):
            for b, q in enumerate(rows):
                if p >= 0 and q >= 0:
                    matrix[p, q] = site[atom, a, b]
    for edge, (i, j) in enumerate(molecule.edge_index.T.tolist()):
        for a, p in enumerate(slots[i]):
            for b, q in enumerate(slots[j]):
                if p >= 0 and q >= 0:
                    matrix[p, q] = matrix[q, p] = pair[edge, a, b]
    return matrix


def plain_terms(model: FockModel, molecule: FockData) -> dict[str, float]:
    """The four terms by their definitions, with loops."""
    error = plain_errors(model, molecule)
    n, occupied = int(molecule.nao), int(molecule.n_occupied)
    c = molecule.coefficients.double().numpy().reshape(n, n)
    e = molecule.energies.double().numpy()
    x = [[sum(c[p, i] * (error @ c[:, j])[p] for p in range(n)) for j in range(n)] for i in range(n)]
    r = [x[i][a] / (e[a] - e[i]) for i in range(occupied) for a in range(occupied, n)]
    flat = [value for row in x for value in row]
    return {
        "mae": sum(abs(v) for v in error.ravel()) / n**2,
        "mse": sum(v * v for v in error.ravel()) / n**2,
        "ov": (sum(v * v for v in r) / len(r)) ** 0.5,
        "mo": (sum(v * v for v in flat) / len(flat)) ** 0.5,
    }


@pytest.mark.parametrize("term", ["mae", "mse", "ov", "mo"])
def test_terms_of_a_batch(term: str, model: FockModel, data: list[FockData], batch: Data) -> None:
    with torch.no_grad():
        found = getattr(errors(model(model_input(batch)), batch), term)
    expected = [plain_terms(model, molecule)[term] for molecule in data]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 1e-6  # it is not that there is nothing


@pytest.mark.parametrize("term", ["mae", "mse", "ov", "mo"])
def test_each_term_is_switched_by_its_weight(term: str, model: FockModel, data: list[FockData], batch: Data) -> None:
    loss, _, _ = total_loss(model, batch, only(**{term: 3.0}))
    expected = np.mean([plain_terms(model, molecule)[term] for molecule in data])
    assert loss.item() == pytest.approx(SCALE * 3.0 * expected, rel=1e-4)


def plain_traces(model: FockModel, molecule: FockData) -> tuple[Array, Array]:
    """tr(H_pq H_pq^T) of dF in standard units: on-site (n_atoms, 36), pairs (2 n_edges, 36), by sub-blocks.

    A site block is symmetric: its sub-blocks pq and qp are counted together, at p <= q.
    """
    single = next(iter(DataLoader([molecule])))
    with torch.no_grad():
        site, pair = model.standardise_target(model_input(single), single.target_site, single.target_pair)
    starts = [*shell_starts(SHELLS), 14]

    def traces(components: torch.Tensor, basis: Array) -> Array:
        out = np.zeros((len(components), 36))
        for row, values in enumerate(components.double().numpy()):
            block = (values @ basis).reshape(14, 14)
            for p in range(6):
                for q in range(6):
                    part = block[starts[p] : starts[p + 1], starts[q] : starts[q + 1]]
                    out[row, 6 * p + q] = np.trace(part @ part.T)
        return out

    on_site = traces(site, site_basis(SHELLS).matrices)
    for p in range(6):
        for q in range(p):
            on_site[:, 6 * q + p] += on_site[:, 6 * p + q]
            on_site[:, 6 * p + q] = 0.0
    return on_site, traces(pair, pair_basis(SHELLS).forward)


def test_trace_loss(model: FockModel, data: list[FockData]) -> None:
    molecule = data[0]
    single = next(iter(DataLoader([molecule])))
    with torch.no_grad():
        blocks = model(model_input(single))
        found = trace_loss(model, blocks, single).item()
    assert blocks.site_traces is not None
    assert blocks.pair_traces is not None
    site, pair = plain_traces(model, molecule)
    expected = 0.5 * np.abs(blocks.site_traces.numpy() - site).mean()
    expected += 0.5 * np.abs(blocks.pair_traces.numpy() - pair).mean()
    assert found == pytest.approx(expected, rel=1e-4)


def test_mu_makes_the_trace_loss_a_share_of_the_others(model: FockModel, batch: Data) -> None:
    """L = L_H + mu L_T with mu = lambda stopgrad(L_H / L_T): the value is (1 + lambda) L_H, the gradient is not."""
    plain, _, _ = total_loss(model, batch, only(mae=1.0))
    with_trace, _, traces = total_loss(model, batch, only(mae=1.0, trace=0.2))
    assert with_trace.item() == pytest.approx(1.2 * plain.item(), rel=1e-5)
    parameter = next(iter(model.pair_trace.parameters()))  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(with_trace, parameter, retain_graph=True)
    (of_traces,) = torch.autograd.grad(traces, parameter)
    mu = 0.2 * plain.item() / traces.item()
    assert torch.allclose(gradient, mu * of_traces, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())
    assert gradient.abs().max() > 0


def test_without_traces_there_is_no_trace_loss(batch: Data) -> None:
    model = random_model(dataclasses.replace(MODEL, traces=False))
    assert total_loss(model, batch, only(mae=1.0, trace=0.2))[2].item() == 0.0
    without, with_weight = (total_loss(model, batch, only(mae=1.0, trace=t))[0] for t in (0.0, 0.2))
    assert without.item() == with_weight.item()
