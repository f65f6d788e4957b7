"""The cache of references: the same as computing them, for every strategy and number of steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_helpers import SMALL, write_labels

from pyscf_tracegrad.config import ReferenceSettings
from pyscf_tracegrad.reference import build_reference
from training.labels import LabelFile
from training.references import cache_folder, cached_reference


@pytest.mark.parametrize(("strategy", "steps"), [("minao", 0), ("minao", 1), ("minao", 2), ("sap", 0)])
def test_cached_is_computed(strategy: str, steps: int, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "one.h5", {"water": SMALL["water"]}, ["train"])
    labels = LabelFile(path)
    settings = ReferenceSettings(strategy, steps=steps)  # type: ignore[arg-type]
    folder = cache_folder(labels.theory, settings, tmp_path)
    expected = build_reference(labels[0].molecule("def2-svp"), settings)
    for _ in range(2):  # computed, then read
        found = cached_reference(labels[0], "def2-svp", settings, folder).reference(settings, labels[0].nelec)
        assert found.responses.shape == (steps, 24, 24)
        assert np.abs(found.fock - expected.fock).max() < 1e-6  # responses are kept in float32
        assert np.abs(found.responses - expected.responses).max(initial=0.0) < 1e-6
        assert np.abs(found.overlap - expected.overlap).max() < 1e-12
    assert len(list(folder.iterdir())) == 1
