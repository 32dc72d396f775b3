"""Segmented cells as the dense side: what a patch is worth, the tables that are read, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from cohort import write_cohort
from drawn_store import write_store
from drawn_training import draw_pairs
from scipy.sparse import csr_matrix
from slide_files import halved, write_rgb
from small_pair import commands, draw_pair

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.registration.transform import Transform
from pipeline.settings import InspectSettings, TileSettings
from pipeline.sheet import SheetRow
from pipeline.slides.kinds.cells import Cells
from pipeline.slides.record import read_record, to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.pairing import Pairing
from pipeline.tiling.stage import tile
from pipeline.training.augmentation import Augmentation
from pipeline.training.dense_kinds import dense_kind
from pipeline.training.draws import Draws
from pipeline.training.normalisation import ColourStatistics, Normalisation
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import read_training_rows
from pipeline.training.views import Batch, ViewMaker

WIDTH_PX, HEIGHT_PX, MPP = 384, 256, 0.5
SIDE_UM = 32
VALUES = ("CD3", "Pan-CK", "cell count", "share of Immune", "share of Tumour")


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A folder with `a.tif`, tissue throughout, on which 64-px patches of 0.5 um are 6 x 4 squares of 32 um."""
    rng = np.random.default_rng(0)
    rgb = np.clip(rng.normal((150, 90, 160), 25, (HEIGHT_PX, WIDTH_PX, 3)), 0, 255).astype(np.uint8)
    write_rgb(tmp_path / "a.tif", [rgb, halved(rgb)], mpp=MPP)
    return tmp_path


def draw_cells(count: int = 300, seed: int = 0) -> pd.DataFrame:
    """Cells on the slide in um, none of them in the first column of squares."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "CellID": np.arange(1, count + 1),
            "CD3": rng.gamma(2, 50, count).astype(np.float32),
            "Pan-CK": rng.gamma(1, 400, count).astype(np.float32),
            "x": rng.uniform(SIDE_UM, 190, count),
            "y": rng.uniform(0, 127, count),
            "Area": rng.uniform(20, 90, count),
            "class": rng.choice(["Tumour", "Immune", ""], count),
        }
    )


def write_cells_h5ad(path: Path, cells: pd.DataFrame, *, sparse: bool, spatial: bool) -> None:
    """As anndata writes one: `X` of the markers, class as a categorical, places in obsm or in obs."""
    markers, text = ["CD3", "Pan-CK"], h5py.string_dtype()
    with h5py.File(path, "w") as file:
        values = cells[markers].to_numpy()
        if sparse:
            matrix = csr_matrix(values)
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "shape": values.shape})
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
        else:
            file["X"] = values
        var, obs = file.create_group("var"), file.create_group("obs")
        var.attrs["_index"] = obs.attrs["_index"] = "_index"
        var.create_dataset("_index", data=np.array(markers, object), dtype=text)
        obs.create_dataset("_index", data=np.array(cells.CellID.astype(str), object), dtype=text)
        coded = cells["class"].where(cells["class"] != "").astype("category")
        group = obs.create_group("phenotype")
        group.attrs["encoding-type"] = "categorical"
        group["codes"] = coded.cat.codes.to_numpy()
        group.create_dataset("categories", data=np.array(coded.cat.categories, object), dtype=text)
        if spatial:
            file["obsm/spatial"] = cells[["x", "y"]].to_numpy()
        else:
            obs["X_centroid"], obs["Y_centroid"] = cells.x.to_numpy(), cells.y.to_numpy()


def _row(folder: Path, name: str = "a.csv", **changes: Any) -> SheetRow:
    given = {"transform": "identity", "dense_mpp": 1.0, "dense_kind": "cells", "dense": str(folder / name)}
    return SheetRow(**({"slide": "a", "patient": "p", "sparse": str(folder / "a.tif")} | given | changes))


def _tiled(folder: Path, name: str = "a.csv", transform: Transform | None = None, **changes: Any) -> PatchStore:
    record = inspect_slide(_row(folder, name, **changes), InspectSettings())
    settings = TileSettings(size_px=64, mpp=MPP, min_tissue=0.0)
    pairing = Pairing(transform or Transform.identity(), "warn", None)
    tile(record, pairing, settings, folder / "a.zarr", threads=2, provenance={})
    return PatchStore.open(folder / "a.zarr")


def _expected(cells: pd.DataFrame) -> pd.DataFrame:
    """Values by square (row, column), with pandas: an independent formula."""
    edge = MPP / 2  # a square begins at the outer edge of its first pixel
    squares = [((cells[axis] + edge) // SIDE_UM).astype(int).rename(axis) for axis in ("y", "x")]
    groups = cells.groupby(squares)
    found = groups[["CD3", "Pan-CK"]].mean()
    found["cell count"] = groups.size()
    for name in ("Immune", "Tumour"):
        found[f"share of {name}"] = groups["class"].agg(lambda column, name=name: (column == name).mean())
    return found


def test_a_patch_is_worth_the_mean_the_number_and_the_class_shares_of_its_cells(slide: Path) -> None:
    cells = draw_cells()
    cells.to_csv(slide / "a.csv", index=False)
    store = _tiled(slide)
    known = store.attributes
    assert (known.dense_kind, known.markers, known.dense_size_px) == ("cells", VALUES, 1)
    dense = store.read_dense(slice(None))
    assert (dense.shape, dense.dtype) == ((24, 5, 1, 1), np.float32)
    truth = np.zeros((24, 5))
    for (row, column), values in _expected(cells).iterrows():
        place = (store.table.position_px == (column * 64, row * 64)).all(axis=1)
        truth[place] = values.to_numpy()
    np.testing.assert_allclose(dense[:, :, 0, 0], truth, rtol=1e-5)
    np.testing.assert_array_equal(store.table.marker_mean, dense[:, :, 0, 0])
    assert dense[:, 2].sum() == len(cells)
    # Squares without a cell are no pairs.
    np.testing.assert_array_equal(store.table.pair_quality > 0, truth[:, 2] > 0)
    assert known.counts["pair_outside"] == 4


@pytest.mark.parametrize(
    "form", ["csv.gz", "tsv", "parquet", "mcmicro", "categories", "h5ad", "sparse h5ad", "obs h5ad"]
)
def test_all_forms_of_one_table_make_the_same_patches(slide: Path, form: str) -> None:
    cells = draw_cells()
    cells.to_csv(slide / "a.csv", index=False)
    truth = _tiled(slide)
    name = f"b.{form.split()[-1]}"
    if form == "csv.gz":
        (slide / name).write_bytes(gzip.compress((slide / "a.csv").read_bytes()))
    elif form == "tsv":
        cells.to_csv(slide / name, index=False, sep="\t", encoding="utf-8-sig")
    elif form == "parquet":
        cells.to_parquet(slide / name)
    elif form == "categories":
        name = "b.parquet"
        coded = cells["class"].where(cells["class"] != "").astype("category")
        cells.assign(**{"class": coded}).set_index("CellID").to_parquet(slide / name)
    elif form == "mcmicro":
        name = "b.csv"
        renamed = cells.rename(columns={"x": "X_centroid", "y": "Y_centroid", "class": "phenotype"})
        shape = {"column_centroid": 1, "row_centroid": 1, "MajorAxisLength": 9.5, "Solidity": 0.9, "Orientation": -1.2}
        renamed.assign(**shape).to_csv(slide / name, index=False)
    else:
        write_cells_h5ad(slide / name, cells, sparse=form.startswith("sparse"), spatial=not form.startswith("obs"))
    found = _tiled(slide, name)
    assert found.attributes.markers == truth.attributes.markers
    np.testing.assert_allclose(found.read_dense(slice(None)), truth.read_dense(slice(None)), rtol=1e-5)


def test_pixels_and_a_transform_bring_the_same_cells_to_the_same_patches(slide: Path) -> None:
    cells = draw_cells()
    cells.to_csv(slide / "a.csv", index=False)
    plain = _tiled(slide).read_dense(slice(None))
    cells.assign(x=cells.x / MPP, y=cells.y / MPP).to_csv(slide / "a.csv", index=False)
    np.testing.assert_allclose(_tiled(slide, dense_mpp=MPP).read_dense(slice(None)), plain, rtol=1e-5)
    turned = Transform(np.array([[0.0, -1.2, 900.0], [1.2, 0.0, -40.0]]))
    moved = turned.to_dense(cells[["x", "y"]].to_numpy())
    cells.assign(x=moved[:, 0], y=moved[:, 1]).to_csv(slide / "a.csv", index=False)
    np.testing.assert_allclose(_tiled(slide, transform=turned).read_dense(slice(None)), plain, rtol=1e-5)


def test_the_markers_file_chooses_and_names_columns(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = draw_cells().drop(columns="class").assign(spare=7.0, note="free text")
    cells.to_csv(slide / "a.csv", index=False)
    (slide / "m.csv").write_text("channel,marker\nPan-CK,panCK\n")
    store = _tiled(slide, markers=str(slide / "m.csv"))
    assert store.attributes.markers == ("panCK", "cell count")
    assert "columns that are not numeric are skipped: note" in capsys.readouterr().err
    expected = cells["Pan-CK"].sum()
    dense = store.read_dense(slice(None))[:, :, 0, 0]
    np.testing.assert_allclose((dense[:, 0] * dense[:, 1]).sum(), expected, rtol=1e-5)


def test_the_record_of_cells_survives_its_file(slide: Path) -> None:
    draw_cells().to_parquet(slide / "a.parquet")
    record = inspect_slide(_row(slide, "a.parquet"), InspectSettings())
    (slide / "a.json").write_text(json.dumps(to_mapping(record)))
    assert read_record(slide / "a.json") == record
    assert record.dense is not None
    assert (record.dense.kind, record.dense.columns) == ("cells", ("CD3", "Pan-CK"))


def _with(column: str, cell: int, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The table with another value in one cell's row."""
    return lambda cells: cells.assign(**{column: cells[column].where(cells.CellID != cell, value)})


def _whole(cells: pd.DataFrame) -> pd.DataFrame:
    return cells


REFUSED: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], dict[str, Any], str]] = [
    (lambda t: t.drop(columns="x"), {}, r"columns of places \(x, y or x_centroid.*CellID, CD3, Pan-CK, y"),
    (lambda t: t.drop(columns=["CD3", "Pan-CK"]), {}, "a column of numbers per marker.*CellID, x, y"),
    (lambda t: t.rename(columns={"CD3": "Pan-CK"}), {}, "a different name for each column.*'Pan-CK' more than once"),
    (_with("CD3", 5, -3), {}, "intensities of at least 0 in column 'CD3'.*-3 in row 5, 1 such cells in all"),
    (_with("CD3", 7, np.nan), {}, "intensities of at least 0 in column 'CD3'.*nan in row 7"),
    (_with("CD3", 7, np.inf), {}, "column 'CD3'.*inf in row 7"),
    (_with("y", 9, np.nan), {}, "finite places.*nan.*row 9"),
    (lambda t: t.iloc[:0], {}, "1 to 16777216 cells|a column of numbers"),
    (lambda t: t.assign(**{"class": t.index.astype(str)}), {}, "at most 255 classes in column 'class'.*300"),
    (_whole, {"transform": ""}, "a transform.*cells cannot be registered"),
    (_whole, {"dense_mpp": None}, "dense_mpp in the sheet, um per unit of the columns x and y"),
    (_whole, {"dense_mpp": 0.001}, "0.05 to 50 um per unit"),
    (_whole, {"dense_kind": ""}, "dense_kind cells in the sheet, for a table"),
    (_whole, {"dense_kind": "fluorescence"}, "dense_kind cells in the sheet, for a table.*fluorescence"),
    (_whole, {"dense": "{folder}/b.csv"}, "a table of cells.*no such file"),
    (_whole, {"dense": "{folder}/a.tif"}, r"a table of cells \(.csv, .tsv.*.tif"),
    (_whole, {"markers": "{folder}/absent.csv"}, "a readable CSV of markers"),
]


@pytest.mark.parametrize(("table", "sheet", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_by_inspect(
    slide: Path, table: Callable[[pd.DataFrame], pd.DataFrame], sheet: dict[str, Any], message: str
) -> None:
    table(draw_cells()).to_csv(slide / "a.csv", index=False)
    changes = {key: value.format(folder=slide) if isinstance(value, str) else value for key, value in sheet.items()}
    with pytest.raises(StatedError, match=message) as refused:
        inspect_slide(_row(slide, **changes), InspectSettings())
    assert "\n" not in str(refused.value)
    assert "slide a" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x00", b"x,y,CD3\n1,2\n", b"x,y,CD3\n1,2,3\n4,5,high\n", b"PAR1"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.h5ad", "a.csv.gz"])
def test_broken_files_are_refused_in_one_line(slide: Path, name: str, content: bytes) -> None:
    (slide / name).write_bytes(content)
    with pytest.raises(StatedError) as refused:
        inspect_slide(_row(slide, name), InspectSettings())
    assert "\n" not in str(refused.value)
    assert name in str(refused.value)


def test_exchanged_x_and_y_are_refused(slide: Path) -> None:
    # Tissue in the right half of a wide slide, and cells on it.
    rgb = np.full((HEIGHT_PX, WIDTH_PX, 3), 250, np.uint8)
    rng = np.random.default_rng(0)
    rgb[:64, 128:] = np.clip(rng.normal((150, 90, 160), 25, (64, WIDTH_PX - 128, 3)), 0, 255)
    write_rgb(slide / "a.tif", [rgb, halved(rgb)], mpp=MPP)
    cells = draw_cells()
    cells["x"], cells["y"] = rng.uniform(66, 120, 300), rng.uniform(0, 30, 300)
    settings = TileSettings(size_px=32, mpp=MPP, min_tissue=0.5, drop=())
    for x, y in (("x", "y"), ("y", "x")):
        cells.rename(columns={"x": x, "y": y}).to_csv(slide / "a.csv", index=False)
        record = inspect_slide(_row(slide), InspectSettings())
        pairing = Pairing(Transform.identity(), "warn", None)
        if x == "x":
            tile(record, pairing, settings, slide / "a.zarr", threads=1, provenance={})
            continue
        # One cell lies on tissue either way, so that it is not for want of any that they are refused.
        with (slide / "a.csv").open("a") as stream:
            stream.write("301,1,1,10,100,5,Tumour\n")
        record = inspect_slide(_row(slide), InspectSettings())
        with pytest.raises(StatedError, match=r"x and y of the cells in that order.*0% of 301 cells.*exchanged") as no:
            tile(record, pairing, settings, slide / "a.zarr", threads=1, provenance={})
        assert "\n" not in str(no.value)
        assert "slide a" in str(no.value)


def test_cells_in_another_unit_are_refused(slide: Path) -> None:
    cells = draw_cells()
    cells.assign(x=cells.x / MPP, y=cells.y / MPP).to_csv(slide / "a.csv", index=False)
    with pytest.raises(
        StatedError, match=r"cells on the slide of 192 x 128 um \(dense_mpp.*of 300 outside, at x "
    ) as no:
        _tiled(slide)
    assert "\n" not in str(no.value)


def test_a_slide_whose_cells_lie_in_no_patch_is_refused(slide: Path) -> None:
    cells = draw_cells(3).assign(x=[191.0, 191.1, 191.2], y=[127.2, 127.2, 127.2])
    cells.to_csv(slide / "a.csv", index=False)
    record = inspect_slide(_row(slide), InspectSettings())
    settings = TileSettings(size_px=150, mpp=MPP, min_tissue=0.0)
    with pytest.raises(StatedError, match=r"a cell in some patch.*none of them in any of 2 patches"):
        tile(record, Pairing(Transform.identity(), "warn", None), settings, slide / "z", threads=1, provenance={})


def test_values_are_seen_standardised_one_by_one_and_absent_ones_masked(tmp_path: Path) -> None:
    lines = ["slide\trow\tpatient\tfold\tpair_quality"]
    for number, (name, own) in enumerate([("test", "CD3"), ("one", "CD3"), ("two", "CD8")]):
        sparse, _ = draw_pairs(24, 1, number)
        values = np.random.default_rng(number).gamma(2, 300, (24, 3)).astype(np.float32)
        write_store(
            tmp_path / f"tile/{name}.zarr",
            sparse=sparse,
            dense=values[:, :, None, None],
            slide=name,
            patient=name,
            markers=("Pan-CK", "cell count", own),
            dense_kind="cells",
            marker_mean=values,
        )
        lines += [f"{name}\t{row}\t{name}\t{number}\t1.0" for row in range(24)]
    (tmp_path / "patches.tsv").write_text("\n".join(lines) + "\n")
    rows = read_training_rows(tmp_path / "patches.tsv", tmp_path / "tile", branches=("sparse", "dense"), batch_size=8)
    patches, numbers = TrainingPatches(rows, dense=True), np.arange(48)
    values, present = patches.dense(numbers)
    assert values.shape == (48, 4, 1, 1)
    assert present[:24].tolist() == [[True, True, True, False]] * 24
    markers, colour = dense_kind("cells").measure(rows.markers, lambda: [patches.dense(numbers)], lambda array: array)
    assert colour is None
    normalisation = Normalisation(ColourStatistics((0.5,) * 3, (0.2,) * 3), markers, torch.device("cpu"))
    maker = ViewMaker(
        ("sparse", "dense"),
        Augmentation(32, 0.5, 1.0, 0.5, 0.0, 1.0),
        shared_geometry=True,
        normalisation=normalisation,
        dense_kind="cells",
    )
    batch = Batch(torch.from_numpy(patches.sparse(numbers)), torch.from_numpy(values.copy()), torch.from_numpy(present))
    view = maker(batch, Draws(torch.Generator().manual_seed(0), 48))[1].numpy()[:, :, 0, 0]
    raw = values[:, 1, 0, 0].astype(float)
    log = np.log1p(raw / raw.mean())
    np.testing.assert_allclose(view[:, 1], (log - log.mean()) / log.std(), atol=2e-3)
    assert (view[~present] == 0).all()


def test_shares_hardly_change_by_the_logarithm_and_intensities_are_compared_as_fluorescence() -> None:
    values = np.array([[0.0, 0.5, 1.0, 1000.0]])
    np.testing.assert_allclose(Cells().comparable(values), np.log([[1.0, 1.5, 2.0, 1001.0]]))


@pytest.mark.slow
def test_a_cohort_of_cells_goes_through_every_stage(tmp_path: Path) -> None:
    rows = []
    for seed, name in enumerate("ab"):
        row = draw_pair(tmp_path, name, seed)
        rng = np.random.default_rng(seed)
        cells = draw_cells(4000, seed)
        cells["x"], cells["y"] = rng.uniform(0, 380, (2, 4000))
        cells["CD3"] *= 1 + 3 * (cells.x > 190)
        cells.to_csv(tmp_path / f"{name}.csv", index=False)
        rows.append(row | {"dense": f"{name}.csv", "dense-kind": "cells", "dense-mpp": "1"})
    write_cohort(tmp_path, [{key.replace("-", "_"): value for key, value in row.items()} for row in rows], {})
    with contextlib.chdir(tmp_path):
        for argv in commands(rows).values():
            assert main(argv) == 0, argv
    qc = json.loads((tmp_path / "results/register/a/qc.json").read_text())
    assert qc["reasons"] == [
        "a table of cells shows no nuclei by which the given transform could be measured; look at the pictures"
    ]
    scores = pd.read_csv(tmp_path / "results/evaluate/summary.tsv", sep="\t").set_index(["probe", "target"]).score
    assert set(scores["ridge"].index) == {*VALUES, "mean"}
    page = (tmp_path / "results/report/index.html").read_text()
    assert "Values of the cells" in page
    assert "cells of the table over slide a" in page
