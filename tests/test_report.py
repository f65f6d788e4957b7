"""Learning curves and the report page: numbers are those of the metrics, text is escaped, broken logs are drawn."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from network_helpers import TABLE, random_model
from pyscf import dft, gto, lib

from pyscf_tracegrad.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.pretrained import load_model
from training import curves, report
from training.curves import draw_curves, read_log
from training.labels import LabelFile
from training.metrics import atoms_of_aos, fock_errors
from training.report import make_report
from training.report_errors import MoleculeErrors, measure
from training.report_page import Code, Page, Picture, Pictures, Table, Text
from training.report_pictures import Point, heat_map, size_scatter

MOLECULES = {
    "<b>x": ("O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2", 0, "val"),
    "a|b_c *d*": ("C 0 0 0; O 0 0 1.2; H 0 0.94 -0.59; H 0 -0.94 -0.59", 0, "val"),
    "$hydroxide$": ("O 0 0 0; H 0 0.1 0.97", -1, "val"),
    "fluoride": ("H 0 0 0; F 0 0.1 0.93", 0, "train"),
}
MODEL = ModelConfig(reference=ReferenceSettings(steps=1), channels=8, layers=1, invariants=8, trace_hidden=8, radial=8)
PNG = b"\x89PNG\r\n\x1a\n"
HEADER = "step,seconds,train_mae,train_ov,train_mo,train_trace,val_mae,val_ov,val_mo"


@pytest.fixture(scope="module")
def label_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fock matrices of minao's density, which serve as labels as well as converged ones."""
    path = tmp_path_factory.mktemp("labels") / "small.h5"
    mols = [gto.M(atom=a, charge=q, basis="def2-svp", verbose=0) for a, q, _ in MOLECULES.values()]
    focks = []
    for mol in mols:
        mf = dft.RKS(mol, xc="b3lyp")
        mf.grids.level = 0
        focks.append(lib.pack_tril(mf.get_fock(dm=mf.get_init_guess(key="minao"))).astype(np.float32))
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "fock-labels", "version": 1, "xc": "b3lyp", "basis": "def2-svp"})
        file["atomic_numbers"] = np.concatenate([mol.atom_charges() for mol in mols]).astype(np.uint8)
        file["positions"] = np.concatenate([mol.atom_coords() for mol in mols])
        file["atom_offsets"] = np.cumsum([0] + [mol.natm for mol in mols])
        file["charge"] = np.array([mol.charge for mol in mols], dtype=np.int8)
        file["fock"] = np.concatenate(focks)
        file["fock_offsets"] = np.cumsum([0] + [len(f) for f in focks])
        file["energy"] = np.zeros(len(mols))
        file["cycles_minao"] = np.full(len(mols), -1, dtype=np.int16)
        file["name"] = list(MOLECULES)
        file["split"] = [split for _, _, split in MOLECULES.values()]
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a random model, small corrections, and a log of two rows."""
    folder = tmp_path_factory.mktemp("runs") / "<i>run"
    folder.mkdir()
    model = random_model(MODEL)
    for buffer in model.output.buffers():
        if buffer.is_floating_point():
            buffer.mul_(0.02)
    save_checkpoint(
        folder / "model.pt", Checkpoint(model, TABLE, "b3lyp", "def2-svp", metadata={"note": "<u>&amp;</u>"})
    )
    rows = ["500,60,4e-4,1e-3,1e-2,1.1,3e-4,4e-4,6e-3", "1000,121,3e-4,5e-4,8e-3,0.9,2.5e-4,3e-4,5e-3"]
    (folder / "log.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "config.toml").write_text("[start]\nmodel = '<script>'\n")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def measured(run: Path, label_file: Path, cache: Path) -> list[MoleculeErrors]:
    return measure(load_checkpoint(run / "model.pt"), [label_file], "val", cache=cache)


@pytest.fixture(scope="module")
def page(run: Path, label_file: Path, cache: Path) -> Page:
    return make_report(run, [label_file], cache=cache)


class Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def tables(page: Page) -> dict[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    return {part.header: part.rows for part in page.parts if isinstance(part, Table)}


def summary_rows(page: Page) -> dict[tuple[str, str], tuple[str, ...]]:
    (rows,) = (rows for header, rows in tables(page).items() if header[:2] == ("molecules", "guess"))
    return {(row[0], row[1]): row[2:] for row in rows}


def test_errors_are_those_of_the_model_that_users_get(
    measured: list[MoleculeErrors], run: Path, label_file: Path
) -> None:
    """References from the cache and `correction` give what `load_model().predict` gives from scratch."""
    model = load_model(run / "model.pt")
    labels = {label.name: label for label in LabelFile(label_file)}
    assert [m.name for m in measured] == ["<b>x", "a|b_c *d*", "$hydroxide$"]
    assert [m.formula for m in measured] == ["H2O", "CH2O", "HO"]
    assert [(m.charge, m.n_atoms) for m in measured] == [(0, 3), (0, 4), (-1, 2)]
    serving = replace(model, checkpoint=replace(model.checkpoint, serve_ions=True))
    for found in measured:
        label = labels[found.name]
        mol = label.molecule("def2-svp")
        predicted = serving.predict(mol)
        target, overlap = label.full_fock(), mol.intor("int1e_ovlp")
        wanted = fock_errors(predicted.fock, target, overlap, mol.nelectron // 2, atoms_of_aos(mol))
        assert found.model.mae == pytest.approx(np.abs(predicted.fock - target).mean(), rel=1e-5)
        assert found.reference.mae == pytest.approx(np.abs(predicted.reference.fock - target).mean(), rel=1e-6)
        assert found.model.ov == pytest.approx(wanted.ov, rel=1e-4)
        assert found.model.eps == pytest.approx(wanted.eps, rel=1e-4)
        total = found.blocks.site_sums.sum() + found.blocks.pair_sums.sum()
        assert total == pytest.approx(found.model.mae * mol.nao**2, rel=1e-9)
        assert found.model.mae != pytest.approx(found.reference.mae, rel=1e-3)


def test_page_has_the_numbers_of_the_metrics(page: Page, measured: list[MoleculeErrors]) -> None:
    rows = summary_rows(page)
    assert list(rows) == [
        ("neutral", "network"),
        ("neutral", "F_ref alone"),
        ("ions", "network"),
        ("ions", "F_ref alone"),
    ]
    water, formaldehyde, hydroxide = measured
    cells = rows["neutral", "network"]
    assert cells[0] == "2"
    assert float(cells[1]) == pytest.approx(0.5e6 * (water.model.mae + formaldehyde.model.mae), abs=0.06)
    assert float(cells[3]) == pytest.approx(
        0.5e6 * (water.model.mae_off_diagonal + formaldehyde.model.mae_off_diagonal), abs=0.06
    )
    assert float(cells[7]) == pytest.approx(0.5 * (water.model.psi + formaldehyde.model.psi), abs=6e-5)
    assert float(cells[8]) == pytest.approx(0.5 * (water.model.ov + formaldehyde.model.ov), rel=6e-3)
    assert float(rows["ions", "F_ref alone"][1]) == pytest.approx(1e6 * hydroxide.reference.mae, abs=0.06)
    text = Reader(page.html()).text
    assert set(cells) <= set(text)
    assert f"{1e6 * hydroxide.model.eps:.1f}" in text


def test_worst_molecules_come_first(page: Page, measured: list[MoleculeErrors]) -> None:
    (rows,) = (rows for header, rows in tables(page).items() if header[0] == "molecule")
    assert [row[0] for row in rows] == [m.name for m in sorted(measured, key=lambda m: m.model.ov, reverse=True)]
    assert {row[0]: row[2] for row in rows} == {"<b>x": "0", "a|b_c *d*": "0", "$hydroxide$": "-1"}


def test_page_is_one_file_and_its_text_is_escaped(page: Page) -> None:
    found = Reader(page.html())
    assert not found.open  # every tag is closed
    assert " ".join(sorted(set(found.tags))) == (
        "body div figcaption figure h1 h2 head html img meta p pre style table td th title tr"
    )
    text = "".join(found.text)
    assert "<b>x" in text
    assert "Run <i>run" in text
    assert "<u>&amp;</u>" in text
    assert "model = '<script>'" in text
    names = {name for name, _ in found.attributes}
    of_scrolled_tables = {"tabindex", "role", "aria-label"}
    assert names == {"lang", "charset", "name", "content", "class", "width", "alt", "src"} | of_scrolled_tables
    sources = [value or "" for name, value in found.attributes if name == "src"]
    assert len(sources) == 4 + 4 + 1
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True).startswith(PNG)
    assert "url(" not in page.html()
    assert "http" not in page.html()


def test_markdown_has_the_same_and_its_pictures_beside_it(page: Page, tmp_path: Path) -> None:
    page.write(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    text = (folder / "report.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert len(pictures) == len(set(pictures)) == 9
    for name in pictures:
        assert (folder / name).read_bytes().startswith(PNG)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*pictures, "report.html", "report.md"])
    assert "&lt;b&gt;x" in text
    assert "<b>x" not in text
    assert r"a\|b_c \*d\*" in text
    for row in summary_rows(page).values():
        assert " | ".join(row) in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 12, 13)


def test_settings_and_facts_are_told(page: Page) -> None:
    facts = dict(row for row in tables(page)["fact", "value"])
    assert facts["level of theory"] == "b3lyp/def2-svp"
    assert facts["elements"] == "H C N O F"
    assert facts["note"] == "<u>&amp;</u>"
    assert int(facts["parameters"].replace(",", "")) == sum(p.numel() for p in random_model(MODEL).parameters())
    settings = dict(row for row in tables(page)["setting", "value"])
    assert settings["channels"] == "8"
    assert settings["reference.strategy"] == "minao"
    assert settings["reference.damping"] == "0.4, 0.3, 0.35"


def test_page_without_a_log_says_so(run: Path, label_file: Path, cache: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads(), lib.num_threads()
    for name in ("model.pt", "model.pt.sha256"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    page = make_report(tmp_path, [label_file], limit=1, cache=cache)
    assert any(
        isinstance(p, Text) and "No curves" in p.text and "log.csv: cannot be read" in p.text for p in page.parts
    )
    assert [len(p.pictures) for p in page.parts if isinstance(p, Pictures)] == [1, 4]
    assert list(summary_rows(page)) == [("neutral", "network"), ("neutral", "F_ref alone")]  # the limit left no ion
    assert (torch.get_num_threads(), lib.num_threads()) == threads


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"basis": "sto-3g"},
            r"labels of the basis 'sto-3g', the model is of 'def2-svp'; give labels of b3lyp/def2-svp",
        ),
        ({"xc": "pbe"}, "labels of the functional 'pbe', the model is of 'b3lyp'"),
    ],
)
def test_labels_of_another_theory_are_refused(
    attributes: dict[str, str], message: str, run: Path, label_file: Path, cache: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.h5"
    path.write_bytes(label_file.read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs.update(attributes)
    with pytest.raises(ValueError, match=message):
        make_report(run, [label_file, path], cache=cache)


def test_what_cannot_be_reported_is_named(run: Path, label_file: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model\.pt in it; give the folder of a run"):
        make_report(tmp_path, [label_file], cache=cache)
    with pytest.raises(ValueError, match=r"no molecule of split 'test' in .*small\.h5; splits there: train, val"):
        make_report(run, [label_file], "test", cache=cache)
    path = tmp_path / "sulfur.h5"
    path.write_bytes(label_file.read_bytes())
    with h5py.File(path, "a") as file:
        file["atomic_numbers"][0] = 16
    with pytest.raises(ValueError, match=r"sulfur\.h5: <b>x: atom 0 \(S\): the model knows H, C, N, O, F only"):
        make_report(run, [path], cache=cache)


def test_command_line_writes_the_page_and_how_it_was_made(
    run: Path,
    label_file: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    out = tmp_path / "a page"
    words = [str(run), "--labels", str(label_file), "--limit", "1", "--cache", str(cache), "-o", str(out)]
    assert report.main(words) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    assert "```toml\n[start]\n" in (out / "report.md").read_text()
    (pre,) = re.findall("```sh\n(.*)\n```", (out / "report.md").read_text(), re.DOTALL)
    references, command = pre.splitlines()
    assert references.startswith("python -m training.references --labels ")
    assert f"--split val --limit 1 --cache {cache} -o '{out}'" in command
    assert report.main([str(tmp_path), "--labels", str(label_file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no model.pt in it")


def test_markdown_fence_holds_any_command() -> None:
    assert Page("t", (Code(("echo ```` x",)),)).markdown().endswith("`````sh\necho ```` x\n`````\n")


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Page("old", ()).write(tmp_path)
    monkeypatch.setattr(Page, "html", lambda _: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        Page("new", (Pictures((Picture("p", PNG, 10, "c"),)),)).write(tmp_path)
    assert "old" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*"))


def outside(figure: Figure) -> list[str]:
    """Texts and tick labels that are drawn and not wholly within a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, texts = figure.bbox, []
    for ax in figure.axes:
        texts += ax.texts
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [t for k, t in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True) if low <= k <= high]
    found = []
    for text in texts:
        extent = text.get_window_extent(canvas.get_renderer())
        inside = box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1
        if text.get_text() and not inside:
            found.append(text.get_text())
    return found


def test_heat_map_writes_its_numbers_into_its_cells() -> None:
    values = np.array([[12345.6, 0.456, np.nan], [3.21, 0.0, 99.96]])
    figure = heat_map(values, ["C", "$H"], ["1s", "2s", "3d"])
    (ax,) = figure.axes
    cells = {tuple(map(int, t.get_position())): t.get_text() for t in ax.texts}
    assert cells == {(0, 0): "12346", (1, 0): "0.46", (2, 0): "-", (0, 1): "3.2", (1, 1): "0", (2, 1): "100"}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1s", "2s", "3d"]
    assert not outside(figure)
    assert not outside(heat_map(np.zeros((1, 1)), ["on-site"], ["H"]))
    with pytest.raises(ValueError, match="as many names"):
        heat_map(values, ["C"], ["1s", "2s", "3d"])


def test_scatter_names_the_worst_within_the_picture() -> None:
    points = [Point(f"molecule {k}", (0, 1, -1)[k % 3], 3 + k, 1e-5 * (k + 1)) for k in range(12)]
    points += [Point("exact", 0, 5, 0.0), Point("unknown", 0, 5, np.nan), Point("n$" + 100 * "a", 0, 14, 1e-3)]
    figure = size_scatter(points, named=3)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert [t for t in texts if len(t) > 1] == [f"1  n${17 * 'a'}…", "2  molecule 11", "3  molecule 10"]
    assert not outside(figure)
    assert [t.get_text() for t in size_scatter([Point("exact", 0, 5, 0.0)]).axes[0].texts] == ["no error above 0"]


def test_log_is_read_whatever_is_missing(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(
        "step,train_mae,val_ions_mae,val_ions_ov,learning_rate,memory\n"
        "0,,4e-4,0,1e-3,12\n"
        "10,nan,3e-4,-1,,12\n"
        "20,2e-4,inf,2e-3,abc,12\n"
        "step,train_mae,val_ions_mae,val_ions_ov,learning_rate,memory\n"
        "10,9e-4,1e-4,1e-3,,\n"  # resumed: this counts
        "30,1e-4,2"  # being written
    )
    found = read_log(log)
    assert found.step.tolist() == [0, 10, 20, 30]
    assert np.isnan(found.seconds).all()
    mae = found.series("mae")
    assert list(mae) == ["train", "val_ions"]
    assert mae["train"][0].tolist() == [10, 20, 30]
    assert mae["train"][1].tolist() == [9e-4, 2e-4, 1e-4]
    assert mae["val_ions"][1].tolist() == [4e-4, 1e-4, 2]
    assert found.series("ov")["val_ions"][0].tolist() == [10, 20]
    assert not found.series("trace") | found.series("mo")
    draw_curves(log, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "text",
    [
        "step,seconds,val_mae\n0,0.1,3e-4\n",
        "step,val_mae\n5,3e-4\n",
        "step,seconds\n5,3\n",
        f"{HEADER}\n0,1,,,,,3e-4,4e-4,6e-3\n",
        f"{HEADER}\n500,60,nan,nan,nan,nan,nan,nan,nan\n",
        r"step,seconds,$\frac_mae,val$_ov" + "\n1,1,1e-4,1e-3\n",
    ],
    ids=["no training", "no seconds", "no errors", "step 0", "all nan", "names like formulas"],
)
def test_one_row_is_drawn(text: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(text)
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "log.csv"]


def test_curves_are_those_of_the_log(run: Path) -> None:
    figures = curves.panel_figures(read_log(run / "log.csv"))
    assert len(figures) == 4
    lines = {line.get_label(): line.get_xydata() for line in figures["MAE of F, 1e-6 hartree"].axes[0].lines}
    assert list(lines) == ["train: 300", "val: 250"]
    assert np.allclose(np.asarray(lines["val: 250"]), [[500, 300], [1000, 250]])
    for figure in figures.values():
        assert not outside(figure)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.3), (2.1, 2.9), (1.0, 8.0), (3e-5, 2e-4), (1e-6, 3e-3), (1e-9, 10.0)]
)
def test_every_range_has_a_few_ticks(low: float, high: float) -> None:
    ax = Figure().subplots()
    curves.logarithmic(ax, low, high)
    ticks = [t for t in ax.get_yticks() if low <= t <= high]
    assert 2 <= len(ticks) <= 9
    labels = [ax.yaxis.get_major_formatter()(t) for t in ticks]
    assert len(set(labels)) == len(labels)
    assert [float(text) for text in labels] == pytest.approx(ticks, rel=0.05)


def test_empty_log_is_refused_and_the_old_picture_stays(tmp_path: Path) -> None:
    log, picture = tmp_path / "log.csv", tmp_path / "curves.png"
    with pytest.raises(ValueError, match=r"log\.csv: cannot be read"):
        draw_curves(log, picture)
    picture.write_bytes(b"old")
    log.write_text(HEADER + "\n")
    with pytest.raises(ValueError, match="no row with a step yet"):
        draw_curves(log, picture)
    assert picture.read_bytes() == b"old"


def test_curves_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curves.main([str(run), "-o", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)
    assert curves.main([str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
