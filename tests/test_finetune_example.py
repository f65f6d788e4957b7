"""The example of fine-tuning, from an XYZ file to a comparison of both models."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from label_helpers import SMALL, write_labels

ROOT = Path(__file__).parents[1]
WATER = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
SET = """
name = "water"
[[source]]
kind = "xyz"
files = ["water.xyz"]
relax = true
frames = 7
interval = 50.0
[split]
kind = "random"
val = 0.25
"""


@pytest.mark.slow
def test_walk_from_a_geometry_to_a_better_guess(tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    (tmp_path / "set.toml").write_text(SET)
    others = write_labels(tmp_path / "others.h5", SMALL, ["train", "val", "train", "val"])
    script = [sys.executable, str(ROOT / "examples" / "02-finetune.py"), str(tmp_path / "set.toml")]
    done = subprocess.run(
        [*script, "--others", str(others), "--workers", "1", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = {}
    for when in ("before", "after"):
        with (tmp_path / "out" / "run" / f"mine.{when}.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["route"] == "network"]
        assert len(rows) == 2
        errors[when] = sum(float(row["ov"]) for row in rows)
    assert errors["after"] < errors["before"]
    assert (tmp_path / "out" / "run" / "others.after.csv").exists()
    assert "To use it: tracegrad_guess" in done.stdout
