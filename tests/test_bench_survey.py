"""The survey: what it calculates, verdicts and table from invented rows, what is run again and what is not."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.bench.common import Level
from training.bench.survey import __main__ as command
from training.bench.survey import report, runs, sets
from training.bench.survey.cases import CASES, Case, level, named
from training.bench.survey.geometries import diatomic, place
from training.bench.survey.pool import Ended, PoolError, run_each
from training.bench.survey.runs import Route, Row, UnknownRoute, empty_row, run_task
from training.rows import append_json_row, read_json_rows

H2 = Case("bonds", diatomic("H", "H", 0.741), level("R", "hf", "sto-3g"))
LIH = Case("bonds", diatomic("Li", "H", 1.595), level("R", "hf", "sto-3g"))
HE = Case("atoms", place("He", ["He"], np.zeros((1, 3))), level("R", "hf", "sto-3g"))
MINAO, OURS = Route.parse("minao"), Route.parse("tracegrad")


def row(case: Case = H2, route: Route = MINAO, **changes: Any) -> Row:
    return empty_row(case, route, **{"energy": -1.0, "cycles": 5, "converged": True, "cpu": 0.5, **changes})


def test_names_tell_the_cases_apart_and_each_group_can_be_chosen() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 300
    for group in {case.group for case in CASES}:
        assert named(CASES, [group]) == [case for case in CASES if case.group == group]
    assert {c.molecule.name for c in named(CASES, ["stretched/F2-x*/rks-pbe/*"])} == {"F2-x2.0", "F2-x3.0"}


def test_a_case_of_each_kind_of_level_is_a_calculation_of_pyscf() -> None:
    kinds = {
        (c.level.kind, c.level.xc == "hf", c.level.symmetry, tuple(n for n, _ in c.level.settings)): c for c in CASES
    }
    for case in kinds.values():
        mf = case.level.make_mf(case.molecule)
        assert type(mf).__mro__[0].__name__.endswith(("HF", "KS", "HFSmearing", "KSSmearing")), case.name
        assert mf.mol.nelectron == sum(case.molecule.numbers) - case.molecule.charge
        assert bool(mf.mol.symmetry) == bool(case.level.symmetry)
        assert set(getattr(mf, "irrep_nelec", {})) <= set(mf.mol.irrep_name or ())
        for name, value in case.level.settings:
            assert getattr(mf, {"smearing": "sigma"}.get(name, name)) == value


def test_a_setting_that_an_scf_object_does_not_have_is_refused() -> None:
    with pytest.raises(AttributeError, match="levelshift"):
        Level("typo", settings=(("levelshift", 0.1),)).make_mf(H2.molecule)


def test_what_a_result_depends_on_is_in_the_fingerprint() -> None:
    others = [
        replace(H2, molecule=diatomic("H", "H", 0.742)),
        replace(H2, molecule=replace(H2.molecule, spin=2)),
        replace(H2, level=level("U", "hf", "sto-3g")),
        replace(H2, level=level("R", "hf", "sto-3g", level_shift=0.1)),
    ]
    assert len({case.fingerprint for case in (H2, *others)}) == 5
    assert replace(H2, group="another").fingerprint == H2.fingerprint


@pytest.mark.parametrize(
    ("minao", "ours", "expected"),
    [
        ({}, {}, report.SAME),
        ({}, {"energy": -1.0 + 9e-7}, report.SAME),
        ({}, {"energy": -0.9999}, report.ABOVE),
        ({}, {"energy": -1.0001}, report.LOWER),
        ({}, {"converged": False}, report.LOST),
        ({}, {"converged": False, "energy": math.nan, "error": "ValueError: no"}, report.LOST),
        ({"converged": False, "energy": -3.0}, {}, report.GAINED),
        ({"converged": False}, {"converged": False}, report.NEITHER),
    ],
)
def test_a_verdict_is_about_convergence_first_and_energy_then(
    minao: dict[str, Any], ours: dict[str, Any], expected: str
) -> None:
    assert report.verdict(row(route=OURS, **ours), row(**minao)) == expected


def test_the_table_counts_by_group_and_names_what_is_bad() -> None:
    rows = [row(), row(route=OURS, energy=-0.9, cycles=1, cpu=0.1, refined=True, reason="a note")]
    rows += [row(LIH, cpu=1.0), row(LIH, OURS, converged=False, energy=math.nan, error="ValueError: no", cpu=0.2)]
    rows += [row(HE, converged=False, cpu=9.0), row(HE, OURS, cpu=2.0)]
    routes = (MINAO, OURS)
    text = report.report(report.current(rows, [H2, LIH, HE], routes, [r.state for r in routes]), routes)
    assert "| bonds | 2 | 1 | 1 | 0 | 0 | 2 / 1 | 2 / 0 | 10 / 6 |" in text
    assert "| atoms | 1 | 0 | 0 | 0 | 1 | 0 / 1 | 9 / 2 | 5 / 5 |" in text
    assert "| all | 3 | 1 | 1 | 0 | 1 | 2 / 2 | 10 / 2 | 15 / 11 |" in text
    assert "bad cases (2):" in text
    assert "* bonds/H2/rhf/sto-3g: above by 1.00e-01" in text
    assert "a note" in text
    assert "* bonds/LiH/rhf/sto-3g: lost ValueError: no" in text


def test_only_rows_of_the_case_as_it_is_and_of_the_wanted_code_are_shown() -> None:
    longer = replace(H2, molecule=replace(diatomic("H", "H", 0.8), name="H2"))
    rows = [row(), row(route=OURS, energy=-2.0), replace(row(route=OURS, energy=-3.0), state="pyscf-1,older")]
    routes = (MINAO, OURS)
    now = [route.state for route in routes]
    assert report.current(rows, [H2], routes, now)[H2.name]["tracegrad"].energy == -2.0
    assert report.current(rows, [H2], routes, ["pyscf", "pyscf-1,old"])[H2.name]["tracegrad"].energy == -3.0
    assert not report.current(rows, [longer], routes, now)


def test_our_rows_are_made_anew_when_the_code_changes_and_pyscf_s_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(), row(route=OURS)]
    assert command.missing([H2], (MINAO, OURS), rows) == []
    assert command.missing([H2, LIH], (MINAO,), rows) == [(LIH, MINAO)]
    monkeypatch.setattr(runs, "package_digest", lambda: "changed")
    assert command.missing([H2], (MINAO, OURS), rows) == [(H2, OURS)]
    monkeypatch.setattr(runs.pyscf, "__version__", "99")
    assert command.missing([H2], (MINAO, OURS), rows) == [(H2, MINAO), (H2, OURS)]


def test_rows_survive_a_file_whose_last_line_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "results.jsonl"
    rows = [row(warnings=("a, b", "c")), row(LIH, energy=math.nan, error="x")]
    append_json_row(path, rows[0])
    with path.open("a") as file:
        file.write('{"molecule": "LiH", "lev')
    assert read_json_rows(path, Row) == rows[:1]
    append_json_row(path, rows[1])
    first, second = read_json_rows(path, Row)
    assert first == rows[0]
    assert math.isnan(second.energy)
    assert replace(second, energy=0.0, gradient=0.0, guess_seconds=0.0, seconds=0.0) == replace(
        rows[1], energy=0.0, gradient=0.0, guess_seconds=0.0, seconds=0.0
    )
    assert "NaN" not in path.read_text()
    assert read_json_rows(tmp_path / "none", Row) == []


def test_a_route_is_a_start_with_options() -> None:
    route = Route.parse("tracegrad,refine=5,start=minao+newton")
    assert (route.guess, route.options, route.newton) == ("tracegrad", {"refine": 5, "start": "minao"}, True)
    assert Route.parse("minao+refine").options == {"start": "minao"}
    assert not Route.parse("minao+newton").ours
    assert Route.parse("minao").state in Route.parse("tracegrad").state != Route.parse("minao").state


@pytest.mark.parametrize("text", ["minoa", "atom,refine=False", "tracegrad,refine", "newton"])
def test_an_unknown_route_gets_one_clear_error(text: str) -> None:
    with pytest.raises(UnknownRoute, match="is no route: NAME"):
        Route.parse(text)


def in_process(function: Callable[[Any], Any], tasks: Sequence[Any], *_: Any) -> Iterator[tuple[Any, Any]]:
    return ((task, function(task)) for task in tasks)


def test_a_survey_of_hydrogen_is_run_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_each", in_process)
    monkeypatch.setattr(command, "CASES", (H2,))
    words = ["-o", str(tmp_path), "--routes", "minao", "minao+newton", "tracegrad", "tracegrad-refine-off"]
    text = command.survey(command.options().parse_args(words))
    rows = {r.start: r for r in read_json_rows(tmp_path / command.RESULTS, Row)}
    assert list(rows) == words[3:]
    assert all(r.converged and not r.error and r.cpu > 0 and r.nao == 2 for r in rows.values())
    assert max(abs(r.energy - rows["minao"].energy) for r in rows.values()) < 1e-8
    assert rows["tracegrad"].route != "minao"
    assert "| all | 1 | 0 | 0 | 0 | 0 | 1 / 1 / 1 |" in text
    before = (tmp_path / command.RESULTS).read_bytes()
    assert command.survey(command.options().parse_args(words)) == text
    assert command.survey(command.options().parse_args([*words, "--table"])) == text
    assert (tmp_path / command.RESULTS).read_bytes() == before
    assert "UserWarning" not in capsys.readouterr().err


def test_what_an_scf_warns_of_and_raises_is_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stretched = replace(H2, molecule=diatomic("H", "H", 5.0))
    said = run_task((stretched, Route.parse("tracegrad-refine-off"))).warnings
    assert any("Using the minao guess instead" in line for line in said)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(runs, "_start", broken)
    failed = run_task((H2, MINAO))
    assert (failed.error, failed.converged, failed.cycles) == ("ZeroDivisionError: division by zero", False, -1)


def square(task: int) -> int:
    """In another process: 4 is killed, 5 never ends, 6 raises."""
    if task == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    while task == 5:
        pass
    if task == 6:
        raise ValueError(task)
    return task**2


def test_a_process_that_dies_or_does_not_end_is_an_answer_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found: dict[int, Any] = dict(run_each(square, [2, 4, 5, 3], jobs=2, limit_seconds=0.5, preload=[__name__]))
    assert found == {2: 4, 3: 9, 4: found[4], 5: Ended("took more than 0.5 s", 0.5)}
    assert found[4].reason == "ended by SIGKILL"
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_an_exception_in_a_process_is_no_answer() -> None:
    with pytest.raises(PoolError, match="before it gave a result"):
        list(run_each(square, [6], jobs=1, limit_seconds=5, preload=[__name__]))


def test_a_set_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "find_spec", lambda _: None)
    for name, package in (("molpro", "pymolpro"), ("mctc", "tad-mctc")):
        with pytest.raises(sets.SetMissing, match=f"pip install {package}"):
            sets.read_set(name)


def test_structures_of_a_set_are_taken_for_their_heavy_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [diatomic("Ag", "Cl", 2.28), diatomic("H", "Cl", 1.27), diatomic("Gd", "O", 1.8, spin=8)]
    found += [replace(diatomic("Ag", "Cl", 2.285), name="again"), diatomic("Ag", "O", 2.0), diatomic("H", "I", 1.6)]
    monkeypatch.setitem(sets.SETS, "mctc", ("numpy", lambda _: (("group", m) for m in found)))
    silver, iodide = sets.read_set("mctc")
    assert (silver.molecule.name, silver.level.xc, iodide.molecule.name, iodide.level.xc) == (
        "AgCl",
        "pbe",
        "HI",
        "b3lyp",
    )
    assert silver.level.make_mf(silver.molecule).mol.nelectron == 47 + 17 - 28
