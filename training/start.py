"""Fine-tuning: a run that starts from a trained model instead of random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyscf.data.elements import ELEMENTS

from pyscf_tracegrad.checkpoint import Checkpoint, load_checkpoint
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.orbitals import ShellTable
from pyscf_tracegrad.pretrained import SHIPPED
from training.labels import LabelError, Theory


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    model: `shipped` or the path of a model file: its weights and standardisation are taken over, and its settings are
        those of the run. Empty: random weights, standardisation of the training molecules.
    """

    model: str = ""


def load_start(start: Start) -> Checkpoint | None:
    """The model that a run starts from, None for random weights. Raises CheckpointError."""
    if not start.model:
        return None
    return load_checkpoint(SHIPPED if start.model == "shipped" else start.model)


def start_settings(start: Start, config: ModelConfig, given: Mapping[str, Any]) -> ModelConfig:
    """Settings of the model of a run: `config`, or those of the model file that it starts from.

    given: the settings that somebody wrote down, as read from TOML; they must be those of the model file.
    Raises ValueError that names the first that is not.
    """
    checkpoint = load_start(start)
    if checkpoint is None:
        return config
    _compare(config, checkpoint.model.config, given, "model.", start.model)
    return checkpoint.model.config


def _compare(wanted: Any, known: Any, given: Mapping[str, Any], where: str, model: str) -> None:
    for name, value in given.items():
        if isinstance(value, dict):
            _compare(getattr(wanted, name), getattr(known, name), value, f"{where}{name}.", model)
        elif getattr(wanted, name) != getattr(known, name):
            raise ValueError(
                f"setting {where}{name} = {getattr(wanted, name)!r}, but the model of [start], {model!r}, has "
                f"{getattr(known, name)!r}; leave it away: fine-tuning takes over the settings of the model"
            )


def check_start(start: Start, config: ModelConfig, table: ShellTable, theory: Theory) -> Checkpoint | None:
    """The model that a run starts from, after a check that it fits the run; None for random weights.

    Raises ValueError for other settings of the network, other shells, or another level of theory.
    """
    checkpoint = load_start(start)
    if checkpoint is None:
        return None
    for f in dataclasses.fields(config):
        wanted, known = getattr(config, f.name), getattr(checkpoint.model.config, f.name)
        if wanted != known:
            raise ValueError(f"setting model.{f.name} = {wanted!r}, but the model {start.model!r} has {known!r}")
    if table != checkpoint.shells:
        raise ValueError(f"a run that starts from the model {start.model!r} takes its shell table, not another one")
    check_theory(theory, Theory(checkpoint.xc, checkpoint.basis), f"the model {start.model!r}")
    return checkpoint


def check_theory(theory: Theory, expected: Theory, owner: str) -> None:
    """Raises ValueError where labels are of another level of theory than their `owner`; names as PySCF reads them."""
    for what, found, wanted in (("xc", theory.xc, expected.xc), ("basis", theory.basis, expected.basis)):
        if _plain(found) != _plain(wanted):
            raise ValueError(
                f"the labels are of {what} {found!r}, {owner} of {wanted!r}; label the molecules again at "
                f"{expected.xc}/{expected.basis}, or train from random weights"
            )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def check_shells(elements: Iterable[int], basis: str, known: ShellTable, owner: str) -> None:
    """Raises LabelError for elements, or shells of a basis, that a table does not have; names all of them."""
    numbers = sorted({int(z) for z in elements})
    missing = [ELEMENTS[z] for z in numbers if z not in known.elements]
    if missing:
        names = ", ".join(ELEMENTS[z] for z in known.elements)
        raise LabelError(
            f"the labels hold {', '.join(missing)}, {owner} knows {names} only; leave those molecules out, or train "
            "from random weights"
        )
    wanted = ShellTable.from_basis(basis, numbers)
    for z, shells in zip(wanted.elements, wanted.shells, strict=True):
        own = known.shells[known.elements.index(z)]
        for shell in shells:
            if not any(shell.same_as(k) for k in own):
                raise LabelError(
                    f"basis {basis!r} has a shell of {ELEMENTS[z]} with l = {shell.degree} and steepest exponent "
                    f"{shell.exponents[0]:g} that {owner} does not know"
                )
