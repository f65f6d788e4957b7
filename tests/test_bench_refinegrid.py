"""The bench of the refinement's grids: what it measures is what an SCF would see, and whom it chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_helpers import SMALL, write_labels

from pyscf_tracegrad import OutsideDomain, tracegrad_guess
from pyscf_tracegrad.refine import Schedule
from training.bench import refinegrid
from training.bench.molecules import Molecule
from training.bench.refinegrid import KINDS, VARIANTS, Row, measure, select, table

WATER = Molecule("water", (8, 1, 1), np.array([[0, 0, 0.117], [0, 0.757, -0.469], [0, -0.757, -0.469]]))


def test_the_gradient_is_what_pyscf_sees_after_one_cycle() -> None:
    rows = measure(WATER)
    assert [(r.thin, r.before_exact) for r in rows] == list(VARIANTS)
    mf = WATER.mole("def2-svp").RKS(xc="b3lyp")
    dm, report = tracegrad_guess(mf, report=True)
    gradients: list[float] = []
    mf.callback = lambda envs: gradients.append(envs["norm_gorb"])
    mf.kernel(dm0=dm)
    default = next(r for r in rows if (r.thin, r.before_exact) == (Schedule().thin, Schedule().before_exact))
    assert default.gradient == pytest.approx(gradients[0], rel=0.05)
    assert default.builds == report.cheap_builds - 3  # those of F_ref
    assert len({r.gradient for r in rows}) > 1


def test_molecules_without_a_guess_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OutsideDomain("not covered")

    monkeypatch.setattr(refinegrid, "choose_start", refuse)
    assert measure(WATER) == []


def test_so_many_of_each_kind() -> None:
    row = np.arange(12.0).reshape(4, 3)
    base = Molecule("m", (6, 1, 1, 1), row)
    kinds = {
        "neutral": {},
        "ion": {"charge": 1},
        "radical": {"spin": 1},
        "other": {"numbers": (14, 1, 1, 1)},
        "heavy": {"numbers": (53, 1, 1, 1)},
    }
    data = [
        replace(base, name=f"{kind}{n}", positions=row * (1 + 0.1 * n), **values)
        for n in range(3)
        for kind, values in kinds.items()
    ]
    chosen = select(data, [], 2, 12)
    assert [m.name[:-1] for m in chosen] == [n for n in ("neutral", "ion", "radical", "other") for _ in range(2)]
    assert len(KINDS) == 4
    assert select(data, [], 2, 3) == []


def test_times_are_over_those_of_the_first_variant() -> None:
    gradients = (1e-6, 2e-6, 4e-5, 3e-6)
    rows = [
        Row(name, *variant, 8, scale * (1 + k), g)
        for name, scale in (("a", 1.0), ("b", 10.0))
        for k, (variant, g) in enumerate(zip(VARIANTS, gradients, strict=True))
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| level 1 | 1e-03 | 2 | 8.00 | 1.00 | 1.0e-06 | 1.0e-06 | 0 |"
    assert lines[4] == "| thinned | 1e-03 | 2 | 8.00 | 3.00 | 4.0e-05 | 4.0e-05 | 2 |"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write_labels(tmp_path / "l.h5", {"water": SMALL["water"]}, ("val",))
    assert refinegrid.main(["--labels", str(labels)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert refinegrid.main([]) == 2
    assert "no molecule of the right kind" in capsys.readouterr().err
