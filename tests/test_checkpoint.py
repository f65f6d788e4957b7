"""Model files: round trip, and one clear message for each way in which they can be wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from network_helpers import SAP, TABLE, molecule, prepared, random_model

from pyscf_tracegrad.checkpoint import Checkpoint, CheckpointError, checksum_file, load_checkpoint, save_checkpoint
from pyscf_tracegrad.config import ModelConfig, from_dict
from pyscf_tracegrad.model import ModelInput
from pyscf_tracegrad.pretrained import SHIPPED, correction, load_model

FIXTURES = Path(__file__).parent / "fixtures"
TINY = ModelConfig(reference=SAP, channels=8, layers=1, invariants=8, trace_hidden=8, radial=8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    save_checkpoint(path, Checkpoint(random_model(TINY), TABLE, "b3lyp", "def2-svp", True, {"note": "test"}))
    return path


def rewrite(path: Path, **changes: object) -> None:
    """Change entries of a checkpoint and make its checksum fit."""
    data = torch.load(path, weights_only=True)
    torch.save({**data, **changes}, path)
    checksum_file(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def test_round_trip(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert loaded.shells == TABLE
    assert loaded.model.config == TINY
    assert (loaded.xc, loaded.basis, loaded.serve_ions, loaded.metadata) == (
        "b3lyp",
        "def2-svp",
        True,
        {"note": "test"},
    )
    original = correction(random_model(TINY), *prepared(molecule(), TINY))
    again = correction(loaded.model, *prepared(molecule(), TINY))
    assert (original == again).all()


def test_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other.pt", load_checkpoint(saved))
    assert (tmp_path / "other.pt").read_bytes() == saved.read_bytes()


def test_loaded_once_per_file(saved: Path) -> None:
    assert load_model(saved) is load_model(str(saved))


def test_damaged_file(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"model.pt: SHA-256 does not match .* damaged"):
        load_model(saved)


def test_missing_checksum(saved: Path) -> None:
    checksum_file(saved).unlink()
    with pytest.raises(CheckpointError, match="must hold the model's SHA-256"):
        load_checkpoint(saved)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(tmp_path / "nothing.pt")


def test_wrong_version(saved: Path) -> None:
    rewrite(saved, version=99)
    with pytest.raises(CheckpointError, match="format version 99, this release reads versions 1 to 3"):
        load_checkpoint(saved)


def test_other_torch_file(saved: Path) -> None:
    rewrite(saved, format="something else")
    with pytest.raises(CheckpointError, match="not a checkpoint of pyscf_tracegrad"):
        load_checkpoint(saved)


def test_no_torch_file(saved: Path) -> None:
    saved.write_text("hello")
    checksum_file(saved).write_text(hashlib.sha256(b"hello").hexdigest())
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(saved)


def test_unknown_setting_in_a_checkpoint(saved: Path) -> None:
    config = torch.load(saved, weights_only=True)["config"]
    rewrite(saved, config={**config, "wings": 2})
    with pytest.raises(CheckpointError, match="unknown setting 'wings'"):
        load_checkpoint(saved)


def test_missing_weights(saved: Path) -> None:
    state = torch.load(saved, weights_only=True)["state"]
    state.pop(next(iter(state)))
    rewrite(saved, state=state)
    with pytest.raises(CheckpointError, match="does not fit this release"):
        load_checkpoint(saved)


def test_settings_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(ValueError, match="setting channels takes int, not '64'"):
        from_dict(ModelConfig, {"channels": "64"})
    with pytest.raises(ValueError, match=r"unknown setting reference\.'stepz'"):
        from_dict(ModelConfig, {"reference": {"stepz": 1}})
    with pytest.raises(ValueError, match="must be positive"):
        from_dict(ModelConfig, {"layers": 0})


def test_shipped_weights_are_small_and_have_a_card() -> None:
    assert SHIPPED.stat().st_size < 20_000_000
    card = SHIPPED.with_suffix(".md").read_text()
    for section in ("Data", "Level of theory", "Settings", "Validation", "Not for"):
        assert f"## {section}" in card
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert digest in card
    assert load_model().checkpoint.basis == "def2-svp"


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_format_predicts_as_it_did(version: int) -> None:
    """Written by the release that made the format, with its output for numbers that no library rounds differently."""
    checkpoint = load_checkpoint(FIXTURES / f"model_v{version}.pt")
    assert checkpoint.metadata == {"note": f"format {version}"}
    config = checkpoint.model.config
    assert config.gradient
    assert config.traces
    assert config.centre
    assert config.reference.mixing == "damped"
    with np.load(FIXTURES / f"model_v{version}_blocks.npz") as expected:
        n, edges = len(expected["site"]), [[0, 0, 1], [1, 2, 2]]

        def waves(*shape: int) -> torch.Tensor:
            return torch.sin(torch.arange(float(np.prod(shape)))).reshape(shape)

        inputs = ModelInput(
            element=torch.tensor([1, 0, 0]),
            charge=torch.zeros(n),
            positions=torch.as_tensor(expected["positions"]),
            edge_index=torch.tensor(edges),
            site=waves(n, 2, 14, 14),
            pair=waves(3, 2, 14, 14),
        )
        with torch.inference_mode():
            blocks = checkpoint.model(inputs)
        assert np.abs(blocks.site.numpy() - expected["site"]).max() < 1e-5
        assert np.abs(blocks.pair.numpy() - expected["pair"]).max() < 1e-5


def test_content_that_is_not_of_its_version(saved: Path) -> None:
    rewrite(saved, version=1)  # but with settings of the present one
    with pytest.raises(CheckpointError, match="not that of format version 1"):
        load_checkpoint(saved)
