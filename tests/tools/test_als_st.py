"""ALS-ST: a patch about each spot and the spot's counts, from files as they are published; others are refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from imagecodecs import jpeg8_encode
from published_sets import ALS_GENES, draw_als_st

from pipeline.cli import main
from pipeline.store.patch_store import PatchStore
from pipeline.tools.datasets.als_st import read_counts, read_regions

KEPT = ALS_GENES[:-1]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pd.DataFrame]]:
    folder = tmp_path_factory.mktemp("als") / "set"
    return folder, draw_als_st(folder, spots=60)


@pytest.fixture(scope="module")
def out(drawn: tuple[Path, dict[str, pd.DataFrame]]) -> Path:
    folder = drawn[0].parent / "out"
    assert build(drawn[0], folder, "--size-px", "64") == 0
    return folder


def build(source: Path, out: Path, *argv: str) -> int:
    return main(["dataset", "--name", "als-st", "--source", str(source), "--out", str(out), *argv])


def rows_of(out: Path, name: str) -> tuple[PatchStore, pd.DataFrame]:
    table = pd.read_csv(out / f"results/dataset/{name}.tsv", sep="\t", keep_default_na=False)
    return PatchStore.open(out / f"results/tile/{name}.zarr"), table


def test_a_section_is_a_store_of_spots_with_their_counts(
    drawn: tuple[Path, dict[str, pd.DataFrame]], out: Path
) -> None:
    sheet = pd.read_csv(out / "config/slides.tsv", sep="\t")
    assert sheet["slide"].tolist() == list(drawn[1]) == ["als-st-cn51-c2-1", "als-st-cn51-c2-2", "als-st-l7cn36-c2"]
    assert sheet["patient"].tolist() == ["CN51", "CN51", "L7CN36"]
    for name, truth in drawn[1].items():
        store, table = rows_of(out, name)
        # Spots 0 and 1 have no 64 px about them on the image; of the last gene one spot in 180 has a count.
        expected = truth[list(KEPT)].to_numpy()[2:]
        assert store.attributes.markers == KEPT
        assert store.attributes.dense_kind == "counts"
        np.testing.assert_array_equal(store.read_dense(slice(None))[:, :, 0, 0], expected)
        per_library = expected / expected.sum(axis=1, keepdims=True) * 1e4
        np.testing.assert_allclose(store.table.marker_mean, per_library, rtol=1e-5)
        assert table["row"].tolist() == list(range(len(expected)))


def test_each_patch_has_its_spot_in_the_middle_at_one_resolution_whatever_the_image(
    drawn: tuple[Path, dict[str, pd.DataFrame]], out: Path
) -> None:
    for name, truth in drawn[1].items():
        store, table = rows_of(out, name)
        # The median of 2 and 2.48 um per pixel, the images' own.
        assert (store.attributes.mpp, store.attributes.size_px) == (2.24, 64)
        centres = store.read_sparse(slice(None))[:, 31:33, 31:33].mean(axis=(1, 2))
        places = np.array([place.split("_") for place in truth.index[2:]], dtype=float)
        np.testing.assert_allclose(table[["x_um", "y_um"]], (places - 1) * 194, atol=0.06)
        apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(len(places))
        alone = apart.min(axis=1) > 0.4
        if name.startswith("als-st-cn51"):
            # Disks of the other section on the array may lie over those of this one.
            both = np.concatenate([[p.split("_") for p in drawn[1][f"als-st-cn51-c2-{i}"].index] for i in (1, 2)])
            apart = np.linalg.norm(places[:, None] - both.astype(float)[None], axis=2)
            alone = np.sort(apart, axis=1)[:, 1] > 0.4
        assert alone.sum() > 20
        np.testing.assert_allclose(centres[alone, 0], truth["Gfap"].to_numpy()[2:][alone], atol=4)


def test_regions_are_labels_in_either_form_of_the_file(drawn: tuple[Path, dict[str, pd.DataFrame]], out: Path) -> None:
    for name, truth in drawn[1].items():
        _, table = rows_of(out, name)
        expected = [f"Region {index % 3}" for index in range(2, len(truth) - 1)]
        assert table["label"].tolist() == [*expected, ""]


def test_the_resolution_can_be_chosen(drawn: tuple[Path, dict[str, pd.DataFrame]], tmp_path: Path) -> None:
    assert build(drawn[0], tmp_path, "--size-px", "32", "--mpp", "4.96") == 0
    store, _ = rows_of(tmp_path, "als-st-l7cn36-c2")
    assert (store.attributes.mpp, store.attributes.patch_size_level0) == (4.96, 64)
    # Whole squares of 2 x 2 pixels: their means.
    fine = PatchStore.open(drawn[0].parent / "out/results/tile/als-st-l7cn36-c2.zarr")
    assert store.table.position_um[0] == pytest.approx(fine.table.position_um[0], abs=14)


def test_counts_of_one_gene_are_added_and_ambiguous_reads_left_out(tmp_path: Path) -> None:
    path = tmp_path / "counts.txt"
    path.write_text("\t1.5_2\t3_4.25\nMbp\t1\t2\n__ambiguous[A+B]\t9\t9\nGfap\t0\t4\nMbp\t5\t0\n")
    found = read_counts(path)
    assert found.index.tolist() == ["Gfap", "Mbp"]
    assert found.columns.tolist() == ["1.5_2", "3_4.25"]
    assert found.to_numpy().tolist() == [[0, 4], [6, 2]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\tspot1\tspot2\nMbp\t1\t2\n", "a column 'spot1'"),
        ("\t1_2\t3_4\nMbp\t1\t2.5\n", "the value 2.5"),
        ("\t1_2\t3_4\nMbp\t1\t-2\n", "the value -2"),
        ("\t1_2\t3_4\nMbp\t1\t\n", "the value nan"),
        ("\t1_2\t3_4\nMbp\ta\tb\n", "values of type object"),
        ("\t1_2\t3_4\n", "none"),
        ("", "No columns"),
    ],
)
def test_a_table_that_holds_no_counts_is_refused(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "CN51_C2_stdata_aligned_counts_IDs.txt").write_text(text)
    image = np.zeros((64, 64, 3), np.uint8)
    (tmp_path / "CN51_C2_HE.jpg").write_bytes(jpeg8_encode(image))
    assert build(tmp_path, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "CN51_C2_stdata_aligned_counts_IDs.txt" in said
    assert expected in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("text", ["\t1_2\t3_4\nA\t1\t0\nB\t1\t1\n", "\t1_2\t3_4\nA\t1\t2\n", "\tspot\nA\t1\n"])
def test_regions_that_are_not_one_of_each_spot_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "regions.tsv"
    path.write_text(text)
    with pytest.raises(Exception, match="at most one of each spot"):
        read_regions(path)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("no counts", "found no counts"),
        ("no image", "an image {sample}_HE.jpg beside it"),
        ("no JPEG", "a JPEG image"),
        ("cut off", "GSM33990_L7CN36_C2_HE.jpg.gz"),
        ("twice", "one such file of a sample"),
    ],
)
def test_a_folder_that_is_not_as_published_is_refused(
    damage: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "set"
    draw_als_st(source, spots=4, widths_px=(620, 500))
    image = source / "GSM33990_L7CN36_C2_HE.jpg.gz"
    if damage == "no counts":
        for path in source.glob("*_IDs.txt.gz"):
            path.unlink()
    elif damage == "no image":
        image.unlink()
    elif damage == "no JPEG":
        image.write_bytes(gzip.compress(b"picture"))
    elif damage == "cut off":
        image.write_bytes(image.read_bytes()[:-500])
    else:
        (source / "GSM1_L7CN36_C2_HE.jpg.gz").write_bytes(image.read_bytes())
    assert build(source, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "config").exists()
