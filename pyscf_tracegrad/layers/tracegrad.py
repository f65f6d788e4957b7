"""TraceGrad (Yin et al., arXiv 2405.05722): a non-linear equivariant feature as the gradient of an invariant.

With quadratic invariants u_c = sum_k <A^c_k f_k, B^c_k f_k> of an equivariant feature f and z = MLP(u), the gradient
v = d(sum_c z_c)/df is equivariant (theorem 2 of the paper) and as non-linear as the MLP. It has a closed form: with
g = d(sum_c z_c)/du, from the MLP's own vector-Jacobian product,

    v_k = sum_c g_c (A^c_k^T B^c_k + B^c_k^T A^c_k) f_k,

so that the forward pass needs no autograd, training needs no double backward, and it runs under `inference_mode`.

The index k runs over whatever a symmetry keeps apart: the irreps (degrees l) for features in global axes (SO(3)), the
components m in a bond frame (SO(2), where cosine and sine rows of an m share A and B; the theorem holds likewise).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from pyscf_tracegrad.layers.degrees import degrees
from pyscf_tracegrad.layers.norm import EquivariantNorm
from pyscf_tracegrad.layers.rows import IrrepsNorm, Rows


class InvariantMLP(nn.Module):
    """Three linear layers with LayerNorm and SiLU, as in the paper, and its own vector-Jacobian product."""

    def __init__(self, c_in: int, hidden: int, c_out: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(c_in, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, c_out)])
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u (n, c_in) -> z (n, c_out) and d(sum_c z_c)/du (n, c_in)."""
        linears = [cast(nn.Linear, layer) for layer in self.linears]
        norms = [cast(nn.LayerNorm, layer) for layer in self.norms]
        tape: list[tuple[Tensor, Tensor, Tensor]] = []
        x = u
        for linear, norm in zip(linears[:-1], norms, strict=True):
            hidden = linear(x)
            centred = hidden - hidden.mean(1, keepdim=True)
            inverse = torch.rsqrt(centred.square().mean(1, keepdim=True) + norm.eps)
            unit = centred * inverse
            pre = unit * norm.weight + norm.bias
            sigmoid = torch.sigmoid(pre)
            x = pre * sigmoid
            tape.append((unit, inverse, sigmoid * (1.0 + pre * (1.0 - sigmoid))))
        z = linears[-1](x)
        grad = linears[-1].weight.sum(0).expand(u.shape[0], -1)
        for linear, norm, (unit, inverse, slope) in zip(linears[-2::-1], norms[::-1], tape[::-1], strict=True):
            grad = grad * slope * norm.weight
            grad = (grad - grad.mean(1, keepdim=True) - unit * (grad * unit).mean(1, keepdim=True)) * inverse
            grad = grad @ linear.weight
        return z, grad


class TraceGrad(nn.Module):
    """f -> f + v and the invariants z, for features (n, dim, channels).

    in_bond_frame: rows are m-major and k runs over m (then A, B mix the degrees too); else degree-major, k = l.
    unnatural: degrees of the irreps of unnatural parity after the natural ones (see `rows`); k then runs over all
    irreps. Not in bond frames.
    outputs: number Z of invariants z, one per shell-pair block; they predict the traces (paper, section 4).
    gradient: whether v is added; without, f stays as it is and z only serves the traces (the paper's ablation).
    """

    def __init__(
        self,
        l_max: int,
        channels: int,
        invariants: int,
        outputs: int,
        in_bond_frame: bool,
        gradient: bool = True,
        unnatural: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        table, rows = degrees(l_max), Rows(l_max, unnatural)
        if in_bond_frame and unnatural:
            raise ValueError("features in bond frames have natural parity only")
        self.irreps_in = self.irreps_out = rows.with_channels(channels)
        if in_bond_frame:
            self.row_sizes = table.m_sizes
            self.components = [1] + [2] * l_max
            widths = [table.count(m) * channels for m in range(l_max + 1)]
        else:
            self.row_sizes = self.components = rows.sizes
            widths = [channels] * len(rows.sizes)
        self.norm = IrrepsNorm(rows, channels) if unnatural else EquivariantNorm(l_max, channels, in_bond_frame)
        self.left = nn.ParameterList(nn.Parameter(torch.randn(w, invariants) / math.sqrt(w)) for w in widths)
        self.right = nn.ParameterList(nn.Parameter(torch.randn(w, invariants) / math.sqrt(w)) for w in widths)
        self.mlp = InvariantMLP(invariants, invariants, outputs)
        self.scale = nn.Parameter(torch.tensor(1.0)) if gradient else None

    def invariant(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """z (n, Z) and the gradient of its sum, shaped as the normalised feature it is given."""
        lefts, rights, u = [], [], 0.0
        parts = normed.split(self.row_sizes, 1)
        for part, left, right, k in zip(parts, self.left, self.right, self.components, strict=True):
            rows = part.unflatten(1, (k, -1)).flatten(2)
            a, b = rows @ left, rows @ right
            u = u + (a * b).sum(1)
            lefts.append(a)
            rights.append(b)
        z, slope = self.mlp(u / len(parts))
        g = slope[:, None] / len(parts)
        grads = []
        for part, a, b, left, right in zip(parts, lefts, rights, self.left, self.right, strict=True):
            grads.append(((g * b) @ left.T + (g * a) @ right.T).reshape(part.shape))
        return z, torch.cat(grads, 1)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        z, gradient = self.invariant(self.norm(feature))
        return feature if self.scale is None else feature + self.scale * gradient, z
