"""Gene counts as the dense side: planted spots, what is refused, and that training beside them learns."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from cohort import write_cohort
from drawn_store import write_store
from drawn_training import TINY, draw_pairs
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix
from slide_files import halved, write_rgb
from small_pair import commands, draw_pair

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.registration.transform import Transform
from pipeline.settings import InspectSettings, Settings, TileSettings
from pipeline.sheet import SheetRow, read_sheet
from pipeline.slides import spots as spots_module
from pipeline.slides.kinds.base import PointTable
from pipeline.slides.kinds.counts import Counts, summed_counts
from pipeline.slides.record import read_record, to_mapping
from pipeline.slides.spots import read_counts, read_spots
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.grid import Grid
from pipeline.tiling.pairing import Pairing
from pipeline.tiling.point_patches import PointPatches
from pipeline.tiling.stage import tile
from pipeline.tools.doctor.slides import examine_slides
from pipeline.training.augmentation import Augmentation
from pipeline.training.batches import make_batch, partners
from pipeline.training.branch_checkpoint import KeptBranches
from pipeline.training.dense_description import DenseDescription
from pipeline.training.draws import Draws
from pipeline.training.normalisation import ColourStatistics, Normalisation, marker_statistics
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import read_training_rows
from pipeline.training.views import Batch, ViewMaker

GENES = ("EPCAM", "CD3E", "COL1A1")
SIDE_PX, MPP = 256, 0.5


def write_h5ad(
    path: Path,
    counts: NDArray[Any],
    position: NDArray[np.float64] | None,
    *,
    form: str = "array",
    genes: tuple[str, ...] = GENES,
) -> Path:
    """An AnnData file, `form` being array, csr or csc."""
    with h5py.File(path, "w") as file:
        if form == "array":
            file["X"] = counts
        else:
            matrix = (csr_matrix if form == "csr" else csc_matrix)(counts)
            group = file.create_group("X")
            group.attrs.update({"encoding-type": f"{form}_matrix", "encoding-version": "0.1.0", "shape": counts.shape})
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
        var = file.create_group("var")
        var.attrs["_index"] = "symbol"
        var.create_dataset("symbol", data=np.array(genes, dtype=object), dtype=h5py.string_dtype())
        file.create_group("obsm")
        if position is not None:
            file["obsm/spatial"] = position
    return path


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A folder with `a.tif`, tissue throughout, on which 64-px patches of 0.5 um are 4 x 4 squares of 32 um."""
    rng = np.random.default_rng(0)
    rgb = np.clip(rng.normal((150, 90, 160), 25, (SIDE_PX, SIDE_PX, 3)), 0, 255).astype(np.uint8)
    write_rgb(tmp_path / "a.tif", [rgb, halved(rgb)], mpp=MPP)
    return tmp_path


def _row(folder: Path, **changes: Any) -> SheetRow:
    given = {"transform": "identity", "dense_mpp": 1.0, "dense_kind": "counts", "dense": str(folder / "a.h5ad")}
    return SheetRow(**({"slide": "a", "patient": "p", "sparse": str(folder / "a.tif")} | given | changes))


def _tiled(folder: Path, transform: Transform | None = None, **changes: Any) -> PatchStore:
    record = inspect_slide(_row(folder, **changes), InspectSettings())
    settings = TileSettings(size_px=64, mpp=MPP, min_tissue=0.0)
    pairing = Pairing(transform or Transform.identity(), "warn", None)
    tile(record, pairing, settings, folder / "a.zarr", threads=2, provenance={})
    return PatchStore.open(folder / "a.zarr")


def _index(store: PatchStore, x_px: int, y_px: int) -> int:
    return int(np.flatnonzero((store.table.position_px == (x_px, y_px)).all(axis=1))[0])


@pytest.mark.parametrize("form", ["array", "csr", "csc"])
def test_counts_of_a_patch_are_the_sums_over_its_spots(slide: Path, form: str) -> None:
    # The edge between the first two columns lies at pixel 63.5, 31.75 um in the frame, and belongs to the second.
    position = np.array([[5.0, 5], [20, 30], [31.75, 10], [31.74, 10], [100, 31.75], [-0.25, 127.74], [-0.26, 70]])
    counts = np.array([[1, 0, 2], [3, 4, 0], [0, 7, 0], [10, 0, 0], [0, 0, 5], [2, 2, 2], [99, 99, 99]])
    write_h5ad(slide / "a.h5ad", counts.astype(np.float32), position, form=form)
    store = _tiled(slide)
    known = store.attributes
    assert (known.dense_kind, known.markers, known.dense_size_px) == ("counts", GENES, 1)
    dense = store.read_dense(slice(None))
    assert (dense.shape, dense.dtype) == ((16, 3, 1, 1), np.uint32)
    truth = {(0, 0): [14, 4, 2], (64, 0): [0, 7, 0], (192, 64): [0, 0, 5], (0, 192): [2, 2, 2]}
    rows = {_index(store, *place): sums for place, sums in truth.items()}
    expected = np.zeros((16, 3))
    expected[list(rows)] = list(rows.values())
    np.testing.assert_array_equal(dense[:, :, 0, 0], expected)
    np.testing.assert_array_equal(store.table.pair_quality > 0, expected.any(axis=1))
    assert known.counts["pair_outside"] == 12
    first = store.table.marker_mean[_index(store, 0, 0)]
    np.testing.assert_allclose(first, [7000, 2000, 1000], rtol=1e-6)


def test_pixels_and_a_transform_bring_the_same_spots_to_the_same_patches(slide: Path) -> None:
    rng = np.random.default_rng(1)
    position, counts = rng.uniform(0, 127, (60, 2)), rng.poisson(3, (60, 3)).astype(np.uint16)
    write_h5ad(slide / "a.h5ad", counts, position)
    plain = _tiled(slide).read_dense(slice(None))
    write_h5ad(slide / "a.h5ad", counts, position / MPP)
    np.testing.assert_array_equal(_tiled(slide, dense_mpp=MPP).read_dense(slice(None)), plain)
    turned = Transform(np.array([[0.0, -1.2, 900.0], [1.2, 0.0, -40.0]]))
    write_h5ad(slide / "a.h5ad", counts, turned.to_dense(position))
    np.testing.assert_array_equal(_tiled(slide, turned).read_dense(slice(None)), plain)


def test_every_spot_on_the_grid_is_in_one_patch() -> None:
    # Spots on all corners and edges of squares of 0.2527 um pixels: none is lost or counted twice.
    mpp, size_px = 0.2527, 224
    corners = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2) * size_px
    position_um = (corners - 0.5) * mpp
    counts = csr_matrix(np.ones((25, 1), np.uint32))
    table = PointTable(position_um, 1, lambda rows: summed_counts(counts, rows, Path("a.h5ad")))
    points = PointPatches("a", Path("a.h5ad"), Counts(), table, position_um, mpp)
    grid = Grid(size_px, mpp, mpp, corners.astype(np.int64))
    found = [points.patch(grid, corner) for corner in grid.position_px]
    assert [int(item.pixels.sum()) for item in found] == [1] * 25


def test_the_record_of_counts_survives_its_file(slide: Path) -> None:
    write_h5ad(slide / "a.h5ad", np.ones((2, 3), np.int32), np.ones((2, 2)))
    record = inspect_slide(_row(slide), InspectSettings())
    (slide / "a.json").write_text(json.dumps(to_mapping(record)))
    assert read_record(slide / "a.json") == record
    assert record.dense is not None
    assert record.dense.kind == "counts"


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"position": None}, {}, "no obsm/spatial"),
    ({"position": np.ones((2, 3))}, {}, r"obsm/spatial of shape \(2, 2\).*\(2, 3\)"),
    ({"position": np.array([[1, 2], [np.nan, 3]])}, {}, "finite positions.*nan.*spot 1"),
    ({"counts": np.array([[1, 2, -3], [0, 0, 0]])}, {}, "raw counts.*-3"),
    ({"counts": np.array([[1, 0, 1.386], [0, 0, 0]])}, {}, "raw counts.*1.386"),
    ({"counts": np.array([[1, 0, np.nan], [0, 0, 0]]), "form": "csr"}, {}, "raw counts.*nan"),
    ({"genes": ("CD3E", "EPCAM", "CD3E")}, {}, "a different name for each gene.*'CD3E' more than once"),
    ({"genes": ("CD3E", "EPCAM")}, {}, "an AnnData file"),
    ({}, {"transform": ""}, "a transform.*gene counts cannot be registered"),
    ({}, {"dense_mpp": None}, "dense_mpp in the sheet, um per unit of obsm/spatial"),
    ({}, {"dense_mpp": 5000.0}, "0.05 to 50 um per unit"),
    ({}, {"dense_kind": ""}, "dense_kind counts or cells in the sheet, for a table"),
    ({}, {"dense": "{folder}/a.tif"}, "an AnnData file"),
]


@pytest.mark.parametrize(("content", "sheet", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_by_inspect(
    slide: Path, content: dict[str, Any], sheet: dict[str, Any], message: str
) -> None:
    write_h5ad(slide / "a.h5ad", **({"counts": np.ones((2, 3), np.float32), "position": np.ones((2, 2))} | content))
    changes = {key: value.format(folder=slide) if isinstance(value, str) else value for key, value in sheet.items()}
    with pytest.raises(StatedError, match=message) as refused:
        inspect_slide(_row(slide, **changes), InspectSettings())
    assert "\n" not in str(refused.value)
    assert "slide a" in str(refused.value)


def test_sizes_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", np.ones((2, 3), np.uint8), np.ones((2, 2)))
    with h5py.File(path, "a") as file:
        del file["X"]
        file.create_dataset("X", shape=(2**40, 3), dtype=np.uint8, chunks=(1024, 3))
    with pytest.raises(StatedError, match="16777216 spots and 1 to 16384 genes"):
        read_spots(path)
    monkeypatch.setattr(spots_module, "MAX_NONZERO", 5)
    for form in ("array", "csr"):
        write_h5ad(path, np.ones((2, 3), np.uint8), np.ones((2, 2)), form=form)
        with pytest.raises(StatedError, match=r"at most 5 counts.*6"):
            read_counts(path)


def test_indices_beyond_the_genes_are_refused(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", np.ones((2, 3), np.uint8), np.ones((2, 2)), form="csr")
    with h5py.File(path, "a") as file:
        file["X/indices"][0] = 2**20
    with pytest.raises(StatedError, match=r"X as an array, or in CSR or CSC form"):
        read_counts(path)


def test_spots_in_another_unit_are_refused(slide: Path) -> None:
    write_h5ad(slide / "a.h5ad", np.ones((2, 3), np.uint8), np.array([[5000.0, 5000], [6000, 7000]]))
    with pytest.raises(
        StatedError, match=r"spots on the slide of 128 x 128 um.*2 of 2 outside, at x 5000 to 6000, y 5000 to 7000"
    ) as refused:
        _tiled(slide)
    assert "\n" not in str(refused.value)


def _draw_cohort(folder: Path, patches: int = 96) -> tuple[Path, Path]:
    """Stores whose counts tell how blue the H&E is; the slides have two genes in common and one each of their own."""
    lines = ["slide\trow\tpatient\tfold\tpair_quality"]
    for number, (name, own) in enumerate([("test", "CD3E"), ("one", "CD3E"), ("two", "COL1A1")]):
        rng = np.random.default_rng(number)
        sparse, _ = draw_pairs(patches, 1, number)
        level = rng.uniform(0, 1, patches)
        sparse = (sparse * (1 - 0.7 * level[:, None, None, None])).astype(np.uint8)
        rates = np.stack([300 * level, 300 * (1 - level), np.full(patches, 40.0)], axis=1)
        counts = rng.poisson(rates * rng.lognormal(0, 0.5, (patches, 1))).astype(np.uint32)[:, :, None, None]
        total = counts.sum(axis=1, keepdims=True)
        write_store(
            folder / f"tile/{name}.zarr",
            sparse=sparse,
            dense=counts,
            slide=name,
            patient=name,
            markers=("EPCAM", "VIM", own),
            dense_kind="counts",
            marker_mean=(counts / total * 1e4)[:, :, 0, 0],
        )
        lines += [f"{name}\t{row}\t{name}\t{number}\t1.0" for row in range(patches)]
    (folder / "patches.tsv").write_text("\n".join(lines) + "\n")
    return folder / "tile", folder / "patches.tsv"


def test_counts_are_seen_as_log_of_normalised_ones_and_absent_genes_masked(tmp_path: Path) -> None:
    stores, split = _draw_cohort(tmp_path, 24)
    rows = read_training_rows(split, stores, branches=("sparse", "dense"), batch_size=8, markers=("CD3E", "EPCAM"))
    patches = TrainingPatches(rows, dense=True)
    numbers = np.arange(48)
    values, present = patches.dense(numbers)
    assert values.shape == (48, 2, 1, 1)
    np.testing.assert_array_equal(present, [[True, True]] * 24 + [[False, True]] * 24)
    from_disk = TrainingPatches(rows, dense=True, budget_bytes=0)
    assert (patches.in_memory, from_disk.in_memory) == (True, False)
    np.testing.assert_array_equal(from_disk.dense(numbers)[0], values)
    raw = np.concatenate([slide.store.read_dense(slide.rows)[:, :, 0, 0] for slide in rows.slides]).astype(float)
    # Of all that the slide has, not of the genes that were chosen.
    per_library = raw / raw.sum(axis=1, keepdims=True) * 1e4
    np.testing.assert_allclose(values[:, 1, 0, 0], per_library[:, 0], rtol=1e-5)
    np.testing.assert_allclose(values[:24, 0, 0, 0], per_library[:24, 2], rtol=1e-5)
    statistics = marker_statistics(rows.markers, lambda: [patches.dense(numbers)], cofactor_of_all=1.0)
    normalisation = Normalisation(ColourStatistics((0.5,) * 3, (0.2,) * 3), statistics, torch.device("cpu"))
    maker = ViewMaker(
        ("sparse", "dense"),
        Augmentation(32, 0.5, 1.0, 0.5, 0.0, 1.0),
        shared_geometry=True,
        normalisation=normalisation,
        dense_kind="counts",
    )
    batch = Batch(torch.from_numpy(patches.sparse(numbers)), torch.from_numpy(values.copy()), torch.from_numpy(present))
    view = maker(batch, Draws(torch.Generator().manual_seed(0), 48))[1].numpy()
    log = np.log1p(per_library[:, 0])
    np.testing.assert_allclose(view[:, 1, 0, 0], (log - log.mean()) / log.std(), atol=2e-3)
    assert (view[24:, 0] == 0).all()


def test_shuffled_and_blank_controls_see_the_counts_of_others_and_none(tmp_path: Path) -> None:
    stores, split = _draw_cohort(tmp_path, 24)
    rows = read_training_rows(split, stores, branches=("sparse", "dense"), batch_size=8)
    patches, numbers = TrainingPatches(rows, dense=True), np.arange(8)
    others = partners(len(patches), "shuffled", seed=0)
    assert others is not None
    shuffled = make_batch(patches, numbers, others, dense=True)
    assert shuffled.dense is not None
    np.testing.assert_array_equal(shuffled.dense.numpy(), patches.dense(others[numbers])[0])
    blank = make_batch(patches, numbers, None, dense=True)
    assert blank.dense is not None
    assert blank.present is not None
    assert blank.dense.shape == (8, 4, 1, 1)
    assert not blank.present.any()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genes")
    stores, split = _draw_cohort(folder)
    settings = {**TINY, "branches": ["sparse", "dense"], "epochs": 15, "batch_size": 32, "channel_dropout": 0.1}
    argv = ["train", "--run", "genes", "--stores", str(stores), "--split", str(split)]
    argv += ["--settings", json.dumps({**settings, "lr": 3e-3})]
    out = folder / "run"
    argv += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "m"), "--out-curve", str(out / "c")]
    assert main(argv) == 0
    return folder


def test_training_beside_counts_learns_what_both_sides_show(trained: Path) -> None:
    losses = [json.loads(line)["loss"] for line in (trained / "run/m").read_text().splitlines()]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    card = (trained / "run/encoder/card.md").read_text()
    assert "counts of 4 genes" in card


def test_held_out_counts_find_their_patch_more_often_than_by_chance(trained: Path) -> None:
    """Embeddings of both sides of the held-out slide agree: the mean rank of a partner is well above the middle."""
    import timm
    from safetensors.torch import load_file

    description = DenseDescription.read(trained / "run/encoder")
    assert description is not None
    assert (description.kind, description.panel) == ("counts", ("EPCAM", "VIM", "CD3E", "COL1A1"))
    branches = KeptBranches.load(trained / "run/branches.safetensors", description, torch.device("cpu"))
    store = PatchStore.open(trained / "tile/test.zarr")
    counts = store.read_dense(slice(None)).astype(np.float32)
    values = np.zeros((len(counts), 4, 1, 1), np.float32)
    values[:, :3] = counts / counts.sum(axis=1, keepdims=True) * 1e4
    present = np.tile([True, True, True, False], (len(counts), 1))
    encoder = timm.create_model("test_resnet", num_classes=0).eval()
    encoder.load_state_dict(load_file(trained / "run/encoder/model.safetensors"))
    config = json.loads((trained / "run/encoder/config.json").read_text())["pretrained_cfg"]
    rgb = (store.read_sparse(slice(None)) / 255 - config["mean"]) / config["std"]
    with torch.inference_mode():
        features = encoder(torch.from_numpy(rgb.transpose(0, 3, 1, 2)).float()).numpy()
    sides = [branches.project_sparse(features), branches.embed_dense(values, present)]
    first, second = (
        (side - side.mean(axis=0)) / np.linalg.norm(side - side.mean(axis=0), axis=1)[:, None] for side in sides
    )
    likeness = first @ second.T
    share_behind = (likeness < np.diag(likeness)[:, None]).mean(axis=1)
    assert share_behind.mean() > 0.7  # 0.5 by chance


@pytest.mark.slow
def test_a_cohort_of_counts_goes_through_every_stage(tmp_path: Path) -> None:
    rows = []
    for seed, name in enumerate("ab"):
        row = draw_pair(tmp_path, name, seed)
        rng = np.random.default_rng(seed)
        position = np.stack(np.meshgrid(np.arange(4, 384, 11.0), np.arange(4, 384, 11.0)), axis=-1).reshape(-1, 2)
        counts = rng.poisson(4, (len(position), 3)) + (position[:, :1] > 190) * np.array([[6, 0, 0]])
        write_h5ad(tmp_path / f"{name}.h5ad", counts.astype(np.int32), position, form="csr")
        rows.append(row | {"dense": f"{name}.h5ad", "dense-kind": "counts", "dense-mpp": "1"})
    sheet = [{key.replace("-", "_"): value for key, value in row.items()} for row in rows]
    write_cohort(tmp_path, sheet, {})
    with contextlib.chdir(tmp_path):
        for argv in commands(rows).values():
            assert main(argv) == 0, argv
        findings = examine_slides(read_sheet(Path("config/slides.tsv")), Settings()).findings
    told = [str(finding) for finding in findings]
    assert told[0] == "ok       slides: 2 of 2 open, 2 of them pairs"
    # The drawn slides are tissue from edge to edge, which is worth a look and no fault.
    assert all("100.0% of the slide taken for tissue" in line for line in told[1:])
    qc = json.loads((tmp_path / "results/register/a/qc.json").read_text())
    assert qc["reasons"] == [
        "spots show no nuclei by which the given transform could be measured; look at the pictures"
    ]
    scores = pd.read_csv(tmp_path / "results/evaluate/summary.tsv", sep="\t").set_index(["probe", "target"]).score
    assert set(scores["ridge"].index) == {*GENES, "mean"}
    page = (tmp_path / "results/report/index.html").read_text()
    assert "Gene counts" in page
    assert "spots of the gene counts over slide a" in page
