"""Output folders of 10x Genomics as the dense side, drawn as their makers describe them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from slide_files import halved, write_ome, write_rgb

from pipeline.errors import StatedError
from pipeline.registration.transform import Transform
from pipeline.settings import InspectSettings, Settings, TileSettings
from pipeline.sheet import SheetRow
from pipeline.slides.companions import slide_files_of
from pipeline.slides.record import SlideRecord
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.pairing import Pairing
from pipeline.tiling.stage import tile
from pipeline.tools.doctor.slides import examine_slides

MPP, SIDE_PX = 0.5, 256
GENES = ("EPCAM", "CD3E", "TBCE", "TBCE")
IDS = tuple(f"ENSG{number:011d}" for number in range(4))
NAMES = ("EPCAM", "CD3E", f"TBCE ({IDS[2]})", f"TBCE ({IDS[3]})")


def _write_matrix(path: Path, barcodes: list[str], counts: NDArray[np.int64], controls: int = 2) -> None:
    """As Space Ranger and Xenium write it, with control features behind the genes; `counts` is (S, genes)."""
    padded = np.concatenate([counts, np.full((len(counts), controls), 9)], axis=1)
    matrix = csc_matrix(padded.T)
    types = ["Gene Expression"] * len(GENES) + ["Negative Control Probe"] * controls
    names = [*GENES, *(f"NegControlProbe_{i:05d}" for i in range(controls))]
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        for name, dtype in (("data", np.int32), ("indices", np.int64), ("indptr", np.int64)):
            group[name] = getattr(matrix, name).astype(dtype)
        group["shape"] = np.array(matrix.shape, dtype=np.int32)
        features = group.create_group("features")
        features["id"] = np.array([*IDS, *names[len(GENES) :]], dtype="S")
        features["name"], features["feature_type"] = np.array(names, dtype="S"), np.array(types, dtype="S")


def _drawn(count: int = 80) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Places in pixels of the H&E, and counts."""
    rng = np.random.default_rng(0)
    return rng.uniform(0, SIDE_PX - 1, (count, 2)), rng.poisson(2, (count, len(GENES)))


def write_visium(folder: Path, positions: str, scale: dict[str, float]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """A folder of Space Ranger; the table of places has barcodes that the matrix lacks, and another order."""
    (folder / "spatial").mkdir(parents=True)
    place, counts = _drawn()
    place = np.rint(place)
    barcodes = [f"AAAC{number:08d}-1" for number in range(len(place))]
    _write_matrix(folder / "filtered_feature_bc_matrix.h5", barcodes, counts, controls=0)
    table = pd.DataFrame({"barcode": [*barcodes, "TTTT-1"], "in_tissue": [1] * len(place) + [0]})
    table["array_row"], table["array_col"] = 0, 0
    table["pxl_row_in_fullres"] = [*place[:, 1].astype(int), 9999]
    table["pxl_col_in_fullres"] = [*place[:, 0].astype(int), 9999]
    table = table.sample(frac=1, random_state=1)
    path = folder / "spatial" / positions
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, header=not positions.endswith("_list.csv"))
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(scale))
    return place, counts


def write_xenium(folder: Path, cells: str = "cells.parquet") -> tuple[NDArray[np.float64], NDArray[Any]]:
    """A folder of Xenium whose morphology has the pixels of the H&E."""
    folder.mkdir()
    place, counts = _drawn()
    names = [f"aaa{chr(97 + number // 26)}{chr(97 + number % 26)}cd-1" for number in range(len(place))]
    _write_matrix(folder / "cell_feature_matrix.h5", names, counts)
    table = pd.DataFrame({"cell_id": names, "x_centroid": place[:, 0] * MPP, "y_centroid": place[:, 1] * MPP})
    table["transcript_counts"], table["cell_area"] = counts.sum(axis=1), 40.0
    if cells.endswith("parquet"):
        table.to_parquet(folder / cells)
    else:
        table.to_csv(folder / cells, index=False)
    (folder / "experiment.xenium").write_text(json.dumps({"major_version": 5, "pixel_size": MPP}))
    return place, counts


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A folder with `a.tif`, tissue throughout, on which 64-px patches are 4 x 4 squares."""
    rng = np.random.default_rng(0)
    rgb = np.clip(rng.normal((150, 90, 160), 25, (SIDE_PX, SIDE_PX, 3)), 0, 255).astype(np.uint8)
    write_rgb(tmp_path / "a.tif", [rgb, halved(rgb)], mpp=MPP)
    return tmp_path


def _inspected(folder: Path, **changes: Any) -> SlideRecord:
    given = {"transform": "identity", "dense_kind": "counts", "dense": str(folder / "tenx")}
    row = SheetRow(**({"slide": "a", "patient": "p", "sparse": str(folder / "a.tif")} | given | changes))
    return inspect_slide(row, InspectSettings())


def _tiled(folder: Path, record: SlideRecord) -> PatchStore:
    settings = TileSettings(size_px=64, mpp=MPP, min_tissue=0.0)
    pairing = Pairing(Transform.identity(), "warn", None)
    tile(record, pairing, settings, folder / "a.zarr", threads=1, provenance={})
    return PatchStore.open(folder / "a.zarr")


def _sums(place: NDArray[np.float64], counts: NDArray[Any], store: PatchStore) -> NDArray[np.int64]:
    """Sums over the spots of each patch: an independent formula."""
    corner = store.table.position_px[:, None, :]
    inside = ((place + 0.5 >= corner) & (place + 0.5 < corner + 64)).all(axis=2)
    return inside.astype(np.int64) @ counts


VISIUM = [
    ("tissue_positions_list.csv", {"spot_diameter_fullres": 65 / MPP, "tissue_hires_scalef": 0.1}),
    ("tissue_positions.csv", {"spot_diameter_fullres": 65 / MPP}),
    ("tissue_positions.parquet", {"microns_per_pixel": MPP, "bin_size_um": 8.0, "spot_diameter_fullres": 16.0}),
]


@pytest.mark.parametrize(("positions", "scale"), VISIUM)
def test_a_visium_folder_gives_the_counts_of_its_spots(slide: Path, positions: str, scale: dict[str, float]) -> None:
    place, counts = write_visium(slide / "tenx", positions, scale)
    record = _inspected(slide)
    assert record.dense is not None
    assert (record.dense.mpp, record.dense.mpp_source) == (pytest.approx(MPP), "file")
    store = _tiled(slide, record)
    assert store.attributes.markers == NAMES
    np.testing.assert_array_equal(store.read_dense(slice(None))[:, :, 0, 0], _sums(place, counts, store))


@pytest.mark.parametrize("cells", ["cells.parquet", "cells.csv.gz"])
def test_a_xenium_folder_gives_the_transcripts_of_its_cells(slide: Path, cells: str) -> None:
    place, counts = write_xenium(slide / "tenx", cells)
    record = _inspected(slide)
    assert record.dense is not None
    # In pixels of the morphology, which alignments of Xenium Explorer lead to.
    assert (record.dense.mpp, record.dense.kind) == (MPP, "counts")
    store = _tiled(slide, record)
    # Controls are no genes.
    assert store.attributes.markers == NAMES
    np.testing.assert_array_equal(store.read_dense(slice(None))[:, :, 0, 0], _sums(place, counts, store))


def test_the_markers_file_chooses_genes_of_a_folder(slide: Path) -> None:
    place, counts = write_xenium(slide / "tenx")
    (slide / "m.csv").write_text("channel,marker\nCD3E,CD3\nEPCAM,EPCAM\n")
    store = _tiled(slide, _inspected(slide, markers=str(slide / "m.csv")))
    assert store.attributes.markers == ("CD3", "EPCAM")
    found = store.read_dense(slice(None))[:, :, 0, 0]
    np.testing.assert_array_equal(found, _sums(place, counts[:, [1, 0]], store))


def test_a_xenium_folder_gives_its_table_of_cells_and_its_morphology(slide: Path) -> None:
    write_xenium(slide / "tenx")
    cells = _inspected(slide, dense_kind="cells", dense_mpp=1.0)
    assert cells.dense is not None
    assert cells.dense.channels == ("transcript_counts", "cell count")
    (slide / "tenx/morphology_focus").mkdir()
    nuclei = np.random.default_rng(0).integers(0, 900, (1, SIDE_PX, SIDE_PX)).astype(np.uint16)
    size = {"metadata": {"PhysicalSizeX": MPP, "PhysicalSizeY": MPP}}
    write_ome(slide / "tenx/morphology_focus/morphology_focus_0000.ome.tif", [nuclei], ["DAPI"], **size)
    image = _inspected(slide, dense_kind="fluorescence", transform="")
    assert image.dense is not None
    assert (image.dense.channels, image.dense.size_xy) == (("DAPI",), (SIDE_PX, SIDE_PX))
    assert Path(image.dense.path).name == "morphology_focus_0000.ome.tif"


def test_the_files_of_a_folder_are_what_the_workflow_depends_on(slide: Path) -> None:
    write_visium(slide / "tenx", "tissue_positions.csv", {"spot_diameter_fullres": 130.0})
    files = [path.relative_to(slide / "tenx").as_posix() for path in slide_files_of(slide / "tenx")]
    assert files == ["spatial/scalefactors_json.json", "spatial/tissue_positions.csv", "filtered_feature_bc_matrix.h5"]
    before = _inspected(slide).dense
    path = slide / "tenx/spatial/scalefactors_json.json"
    path.write_text(path.read_text() + "\n")
    after = _inspected(slide).dense
    assert before is not None
    assert after is not None
    assert before.sha256 != after.sha256


def _without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _overwrite(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


def _unknown_barcode(folder: Path) -> None:
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/barcodes"][3] = b"GGGGGGGGGGGG-1"


def _negative(folder: Path) -> None:
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/data"][3] = -1


def _bins(folder: Path) -> None:
    for name in ("square_008um", "square_016um"):
        (folder / "binned_outputs" / name).mkdir(parents=True)
    (folder / "spatial/scalefactors_json.json").unlink()


REFUSED = [
    (_without("filtered_feature_bc_matrix.h5"), {}, r"a file \*filtered_feature_bc_matrix.h5"),
    (_without("spatial/tissue_positions.csv"), {}, "a file tissue_positions.parquet or tissue_positions.csv"),
    (_without("spatial/scalefactors_json.json"), {}, "a file scalefactors_json.json"),
    (_overwrite("spatial/scalefactors_json.json", "{}"), {}, "microns_per_pixel or spot_diameter_fullres"),
    (_overwrite("spatial/scalefactors_json.json", '{"spot_diameter_fullres": 0}'), {}, "JSON with microns_per_pixel"),
    (_overwrite("spatial/tissue_positions.csv", "barcode,x\n1,2\n"), {}, "a table with barcode, pxl_col_in_fullres"),
    (_overwrite("filtered_feature_bc_matrix.h5", "nothing"), {}, "a feature-barcode matrix of 10x"),
    (_unknown_barcode, {}, "one place for each barcode of the matrix.*GGGGGGGGGGGG-1"),
    (_negative, {}, "raw counts.*-1"),
    (_bins, {}, "one folder of bins of a Visium HD output.*square_008um, square_016um"),
    (lambda folder: None, {"dense_kind": ""}, "dense_kind in the sheet, for a folder of Xenium or Visium"),
    (lambda folder: None, {"transform": ""}, "a transform"),
]


@pytest.mark.parametrize(("damage", "sheet", "message"), REFUSED)
def test_what_a_folder_lacks_is_said_in_one_line(slide: Path, damage: Any, sheet: dict[str, Any], message: str) -> None:
    write_visium(slide / "tenx", "tissue_positions.csv", {"spot_diameter_fullres": 130.0})
    damage(slide / "tenx")
    with pytest.raises(StatedError, match=message) as refused:
        _inspected(slide, **sheet)
    assert "\n" not in str(refused.value)
    assert "slide a" in str(refused.value)


def test_doctor_examines_a_folder(slide: Path) -> None:
    write_visium(slide / "tenx", "tissue_positions.csv", {"spot_diameter_fullres": 130.0})
    row = SheetRow("a", "p", str(slide / "a.tif"), str(slide / "tenx"), transform="identity", dense_kind="counts")
    (found,) = examine_slides([row], Settings(tile=TileSettings(size_px=64, mpp=MPP, min_tissue=0.0))).findings
    assert str(found) == "ok       slides: 1 of 1 open, 1 of them pairs"
