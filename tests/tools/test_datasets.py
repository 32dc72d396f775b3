"""Published sets become cohorts that every later stage takes; other layouts are refused in one line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from cohort import REPOSITORY, planned, snakemake
from PIL import Image
from published_sets import (
    ALS_GENES,
    draw_als_st,
    draw_bci,
    draw_nct_crc,
    draw_nct_types,
    draw_orion,
    draw_pannuke,
    draw_segpath,
    write_nuclei,
)

from pipeline.cli import main
from pipeline.settings import load, to_json
from pipeline.store.patch_store import PatchStore
from pipeline.tools.datasets import orion
from pipeline.tools.datasets.nct_crc import CLASSES
from pipeline.tools.datasets.nuclei import Nuclei
from pipeline.tools.datasets.writing import Cutting

EXPERIMENTS = sorted((REPOSITORY / "config" / "experiments").glob("*.yaml"))
TINY = {"encoder": "test_resnet", "projector": [16, 16], "epochs": 1, "precision": "fp32"}


def build(name: str, source: Path, out: Path, *argv: str) -> int:
    return main(["dataset", "--name", name, "--source", str(source), "--out", str(out), *argv])


def stores(out: Path) -> dict[str, PatchStore]:
    with (out / "config" / "slides.tsv").open() as stream:
        names = [row["slide"] for row in csv.DictReader(stream, delimiter="\t")]
    return {name: PatchStore.open(out / "results" / "tile" / f"{name}.zarr") for name in names}


def run_all(out: Path, held_out: str, **settings: object) -> pd.DataFrame:
    """Split, one step of training, embedding and evaluation by the verbs of the stages; returns the summary."""
    results, opened = out / "results", stores(out)
    table, encoder = results / "split" / "patches.tsv", results / "train" / "distilled" / "encoder"
    tile = ["--stores", str(results / "tile")]
    argv = ["split", *tile, "--slides", *opened, "--out", str(table), "--out-summary", str(results / "split.json")]
    assert main([*argv, "--settings", json.dumps({"test": [held_out]})]) == 0
    folds = pd.read_csv(table, sep="\t")
    one_step = {**TINY, "batch_size": int((folds["fold"] != 0).sum()), **settings}
    argv = ["train", "--run", "distilled", *tile, "--split", str(table), "--out-encoder", str(encoder)]
    argv += ["--out-metrics", str(results / "metrics.jsonl"), "--out-curve", str(results / "curve.png")]
    assert main([*argv, "--settings", json.dumps(one_step)]) == 0
    (line,) = (results / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1
    for slide in opened:
        features = results / "embed" / "distilled" / f"{slide}.h5"
        argv = ["embed", "--store", str(results / "tile" / f"{slide}.zarr"), "--encoder", str(encoder)]
        assert main([*argv, "--out", str(features)]) == 0
    argv = ["evaluate", *tile, "--split", str(table), "--embeddings", str(results / "embed"), "--runs", "distilled"]
    argv += ["--out-summary", str(results / "summary.tsv"), "--out-details", str(results / "details.json")]
    sheet = pd.read_csv(out / "config" / "slides.tsv", sep="\t", keep_default_na=False)
    named = zip(sheet["slide"], sheet["classes"], strict=True)
    argv += ["--classes", *(f"{slide}={out / table}" for slide, table in named if table)]
    columns = ["class", *(("cell",) if "cell" in _files(out, str(sheet["slide"][0])) else ())]
    assert main([*argv, "--settings", json.dumps({"bootstrap": 20, "classes": columns})]) == 0
    return pd.read_csv(results / "summary.tsv", sep="\t")


def test_nct_crc_beside_masks(tmp_path: Path) -> None:
    source, masks = tmp_path / "set", tmp_path / "masks"
    draw_nct_crc(source, masks)
    assert build("nct-crc", source, tmp_path / "out", "--masks", str(masks)) == 0
    opened = stores(tmp_path / "out")
    assert list(opened) == ["nct-crc-he-100k", "crc-val-he-7k"]
    store = opened["nct-crc-he-100k"]
    assert (store.attributes.mpp, store.attributes.size_px, store.attributes.markers) == (0.5, 224, ("mask",))
    files = pd.read_csv(tmp_path / "out" / "results" / "dataset" / "nct-crc-he-100k.tsv", sep="\t")
    assert files["label"].tolist() == ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]
    for row, file in enumerate(files["file"]):
        np.testing.assert_array_equal(store.read_sparse(slice(row, row + 1))[0], tifffile.imread(source / file))
        mask = np.array(Image.open((masks / file).with_suffix(".png")))
        np.testing.assert_array_equal(store.read_dense(slice(row, row + 1))[0], mask[None])
        assert store.table.marker_mean[row, 0] == pytest.approx(mask.mean(), rel=1e-6)
    summary = run_all(tmp_path / "out", "crc-val-he-7k", size_px=64)
    assert set(summary["target"]) == {"mask", "mean", *CLASSES}
    # Nine patches to label: too few for any probe of few labels.
    probes = set(summary[summary.target == "TUM"]["probe"])
    assert probes >= {"class-linear", "class-knn"}
    assert not [probe for probe in probes if probe.endswith("labels")]


def test_als_st_beside_gene_counts(tmp_path: Path) -> None:
    draw_als_st(tmp_path / "set")
    assert build("als-st", tmp_path / "set", tmp_path / "out", "--size-px", "64") == 0
    summary = run_all(tmp_path / "out", "L7CN36")
    regions = {f"Region {number}" for number in range(3)}
    assert set(summary["target"]) == {*ALS_GENES[:-1], "mean", *regions}
    assert set(summary[summary.target == "Region 1"]["probe"]) >= {"class-linear", "class-knn"}


def _files(out: Path, store: str) -> pd.DataFrame:
    return pd.read_csv(out / f"results/dataset/{store}.tsv", sep="\t", dtype=str, keep_default_na=False)


def test_the_cell_label_is_the_type_of_most_nuclei(tmp_path: Path) -> None:
    source, masks, types = tmp_path / "set", tmp_path / "masks", tmp_path / "types"
    draw_nct_crc(source, masks, per_class=2)
    draw_nct_types(types, source)
    argv = ["--masks", str(masks), "--types", str(types)]
    assert build("nct-crc", source, tmp_path / "out", *argv) == 0
    table = _files(tmp_path / "out", "crc-val-he-7k")
    assert table.columns.tolist() == ["row", "file", "x_px", "y_px", "label", "cell"]
    for _, row in table.iterrows():
        path = types / Path(row["file"]).parent / "json" / f"{Path(row['file']).stem}.json"
        found = [nucleus["type"] for nucleus in json.loads(path.read_text())["nuc"].values()]
        expected = max(range(1, 6), key=lambda kind: (found.count(kind), -kind)) if found else "none"
        assert row["cell"] == str(expected), row["file"]
    assert set(table["cell"]) == {"none", "1", "2", "3", "4", "5"}
    # The types are labels, and change nothing of the patches.
    assert build("nct-crc", source, tmp_path / "plain", "--masks", str(masks)) == 0
    plain = _files(tmp_path / "plain", "crc-val-he-7k")
    assert (plain.pop("cell") == "").all()
    pd.testing.assert_frame_equal(plain, table.drop(columns="cell"))
    store = Path("results/tile/nct-crc-he-100k.zarr/zarr.json")
    assert (tmp_path / "plain" / store).read_bytes() == (tmp_path / "out" / store).read_bytes()
    targets = {}
    for out in ("out", "plain"):
        rows = run_all(tmp_path / out, "crc-val-he-7k", size_px=64)
        assert set(rows[rows["probe"] == "class-linear"]["target"]) == {"mean", *CLASSES}
        targets[out] = set(rows[rows["probe"] == "cell-linear"]["target"])
    assert targets == {"out": {"none", "1", "2", "3", "4", "5", "mean"}, "plain": set()}


def test_nuclei_count_where_their_centroid_is_and_ties_go_to_the_smaller_number() -> None:
    centroid = np.array([[0, 0], [9.9, 9.9], [10, 3], [15, 12], [16, 12], [17, 12], [18, 11]], dtype=float)
    nuclei = Nuclei(centroid, np.array([5, 4, 0, 2, 3, 3, 0]))
    assert [nuclei.within(x, y, 10).most_frequent() for y in (0, 10) for x in (0, 10)] == ["4", "", "none", "3"]
    assert nuclei.most_frequent() == "3"
    assert Nuclei(centroid[:2], np.array([0, 0])).most_frequent() == ""
    assert Nuclei(np.empty((0, 2)), np.empty(0, np.int64)).most_frequent() == "none"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda at: (at / "LYM-0000.json").unlink(), "file of types for each of the others"),
        (lambda at: (at / "LYM-0009.json").write_text('{"nuc": {}}'), "one H&E image for each"),
        (lambda at: (at / "LYM-0000.json").write_text("{"), "LYM-0000.json"),
        (lambda at: (at / "LYM-0000.json").write_text('{"mag": null}'), "nuclei as HoVer-Net writes them"),
        (lambda at: write_nuclei(at / "LYM-0000.json", [1, 6], np.random.default_rng(0)), "found the type 6"),
        (
            lambda at: (at / "LYM-0000.json").write_text('{"nuc": {"1": {"centroid": [3, 4], "type": null}}}'),
            "found a nucleus without a type",
        ),
        (
            lambda at: (at / "LYM-0000.json").write_text('{"nuc": {"1": {"centroid": [3, 400], "type": 1}}}'),
            "found a centroid at 3, 400 in an image of 224 px",
        ),
        (lambda at: at.rename(at.with_name("jsons")), "{part}/{class}/json/*.json"),
    ],
)
def test_types_of_another_layout_are_refused_in_one_line_before_any_patch_is_written(
    spoil: object, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_nct_crc(tmp_path / "set", tmp_path / "masks", per_class=2)
    draw_nct_types(tmp_path / "types", tmp_path / "set")
    spoil(tmp_path / "types" / "CRC-VAL-HE-7K" / "LYM" / "json")  # type: ignore[operator]
    argv = ["--masks", str(tmp_path / "masks"), "--types", str(tmp_path / "types")]
    assert build("nct-crc", tmp_path / "set", tmp_path / "out", *argv) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told in line
    assert not (tmp_path / "out" / "results" / "tile").exists()


def test_a_cohort_of_masks_has_them_stacked_as_its_sparse_side(tmp_path: Path) -> None:
    source, masks = tmp_path / "set", tmp_path / "masks"
    draw_nct_crc(source, masks)
    assert build("nct-crc", source, tmp_path / "out", "--masks", str(masks), "--sparse", "mask") == 0
    store = stores(tmp_path / "out")["crc-val-he-7k"]
    files = pd.read_csv(tmp_path / "out/results/dataset/crc-val-he-7k.tsv", sep="\t")["file"]
    for row, file in enumerate(files):
        mask = np.array(Image.open(masks / file))
        np.testing.assert_array_equal(store.read_sparse(slice(row, row + 1))[0], np.stack([mask] * 3, axis=-1))
        np.testing.assert_array_equal(store.read_dense(slice(row, row + 1))[0], mask[None])
    rows = run_all(tmp_path / "out", "crc-val-he-7k", size_px=64, branches=["sparse", "sparse"])
    assert set(rows[rows["probe"] == "class-linear"]["target"]) == {"mean", *CLASSES}


def test_bci_cut_into_patches(tmp_path: Path) -> None:
    draw_bci(tmp_path / "set")
    assert build("bci", tmp_path / "set", tmp_path / "out", "--mpp", "0.46", "--size-px", "256") == 0
    store = stores(tmp_path / "out")["bci-train"]
    known = store.attributes
    assert (len(store), known.dense_kind, known.patient) == (32, "brightfield", "bci-train")
    files = pd.read_csv(tmp_path / "out" / "results" / "dataset" / "bci-train.tsv", sep="\t", dtype={"label": str})
    assert files["label"].unique().tolist() == ["0", "1+"]
    for row in (0, 6, 31):
        place = files.loc[row]
        window = (slice(place["y_px"], place["y_px"] + 256), slice(place["x_px"], place["x_px"] + 256))
        he = np.array(Image.open(tmp_path / "set" / place["file"]))
        ihc = np.array(Image.open(tmp_path / "set" / place["file"].replace("HE/", "IHC/")))
        np.testing.assert_array_equal(store.read_sparse(slice(row, row + 1))[0], he[window])
        np.testing.assert_array_equal(store.read_dense(slice(row, row + 1))[0], ihc[window].transpose(2, 0, 1))
    run_all(tmp_path / "out", "bci-test", size_px=64, branches=["sparse", "sparse", "dense"])


def test_segpath_is_a_mask_of_one_cell_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_segpath(tmp_path / "set")
    assert build("segpath", tmp_path / "set", tmp_path / "out") == 1
    assert "found CD3CD20, panCK" in capsys.readouterr().err
    assert build("segpath", tmp_path / "set", tmp_path / "out", "--size-px", "246", "--antibody", "panCK") == 0
    opened = stores(tmp_path / "out")
    assert {store.attributes.patient for store in opened.values()} == {"segpath-train", "segpath-val", "segpath-test"}
    store = opened["segpath-epithelium-val"]
    assert (store.attributes.markers, store.attributes.dense_kind) == (("Epithelium",), "mask")
    labels = store.read_dense(slice(0, 16))
    assert set(np.unique(labels)) == {0, 1}
    np.testing.assert_allclose(store.table.marker_mean[:, 0], labels.mean(axis=(1, 2, 3)), rtol=1e-6)
    summary = run_all(tmp_path / "out", "segpath-test", size_px=64)
    assert set(summary["target"]) == {"Epithelium", "mean"}


def test_pannuke_kinds_of_nuclei_are_markers(tmp_path: Path) -> None:
    draw_pannuke(tmp_path / "set")
    assert build("pannuke", tmp_path / "set", tmp_path / "out") == 0
    store = stores(tmp_path / "out")["pannuke-fold2"]
    images = np.load(tmp_path / "set" / "Fold 2" / "images" / "fold2" / "images.npy")
    masks = np.load(tmp_path / "set" / "Fold 2" / "masks" / "fold2" / "masks.npy")
    np.testing.assert_array_equal(store.read_sparse(slice(0, 6)), images)
    labels = store.read_dense(slice(0, 6))[:, 0]
    for number in range(5):
        np.testing.assert_array_equal(labels == number + 1, masks[..., number] > 0)
        np.testing.assert_allclose(store.table.marker_mean[:, number], (masks[..., number] > 0).mean(axis=(1, 2)))
    assert store.attributes.markers == ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
    run_all(tmp_path / "out", "pannuke-fold3", size_px=64)


def test_orion_tiles_of_a_case_stay_together_and_keep_all_markers(tmp_path: Path) -> None:
    draw_orion(tmp_path / "set")
    assert build("orion", tmp_path / "set", tmp_path / "out") == 0
    opened = stores(tmp_path / "out")
    assert set(opened) == {"orion-crc01-train", "orion-crc02-val", "orion-crc03-test"}
    store = opened["orion-crc02-val"]
    known = store.attributes
    assert (known.patient, known.dense_kind, known.mpp) == ("CRC02", "fluorescence", 0.5)
    assert store.attributes.markers == orion.MARKERS
    table = pd.read_csv(tmp_path / "out/results/dataset/orion-crc02-val.tsv", sep="\t")
    assert [name.split("OR_001_")[1] for name in table["file"]] == [
        f"{x}_{y}_0_512_512.jpeg" for y in (0, 512) for x in (0, 512)
    ]
    for row, name in enumerate(table["file"]):
        dense = tifffile.imread(tmp_path / "set" / name.replace("he/", "if/").replace(".jpeg", ".tiff"))
        np.testing.assert_array_equal(store.read_dense(slice(row, row + 1))[0], np.moveaxis(dense, -1, 0))
        sparse = np.asarray(Image.open(tmp_path / "set" / name))
        np.testing.assert_array_equal(store.read_sparse(slice(row, row + 1))[0], sparse)
    sheet = pd.read_csv(tmp_path / "out/config/slides.tsv", sep="\t", keep_default_na=False)
    assert (sheet["classes"] == "").all()
    rows = run_all(tmp_path / "out", "CRC03", size_px=32)
    assert set(rows.target) == {*orion.MARKERS, "mean"}


def test_the_components_of_orion_are_trained_side_by_side(tmp_path: Path) -> None:
    draw_orion(tmp_path / "set")
    assert build("orion", tmp_path / "set", tmp_path / "out") == 0
    run = load(REPOSITORY / "config" / "experiments" / "orion-parts.yaml").runs["distilled"]
    chosen = {key: json.loads(to_json(run))[key] for key in ("branches", "alignment", "objective", "convention")}
    rows = run_all(tmp_path / "out", "CRC03", size_px=32, **chosen)
    assert set(rows.target) == {*orion.MARKERS, "mean"}
    config = json.loads((tmp_path / "out/results/train/distilled/encoder/config.json").read_text())
    dense = config["more_from_less"]["dense"]
    assert dense["panel"] == list(orion.MARKERS)
    assert dense["components"]["stroma"] == ["SMA", "CD31"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda at: (at / "slide_dataframe.csv").write_text("in_slide_name\nx\n"), "no orion_slide_id"),
        (lambda at: (at / "val_dataframe.csv").unlink(), "val_dataframe.csv"),
        (lambda at: next((at / "if").iterdir()).unlink(), "no file"),
        (lambda at: [path.write_bytes(b"cut") for path in (at / "if").iterdir()], "17 interleaved channels"),
        (lambda at: [tifffile.imwrite(p, np.zeros((17, 64, 64), "u1")) for p in (at / "if").iterdir()], "(17, 64, 64)"),
        (
            lambda at: (at / "test_dataframe.csv").write_text("in_slide_name,image_path,target_path\nno,a,b\n"),
            "slides of slide_dataframe.csv",
        ),
        (
            lambda at: (at / "test_dataframe.csv").write_text(
                "in_slide_name,image_path,target_path\n18459_LSP1_SCAN_OR_001,a.jpeg,b.tiff\n"
            ),
            "{slide}_{x}_{y}",
        ),
    ],
)
def test_orion_tiles_of_another_layout_are_refused_in_one_line(
    spoil: object, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_orion(tmp_path / "set", per_case=1)
    spoil(tmp_path / "set")  # type: ignore[operator]
    assert build("orion", tmp_path / "set", tmp_path / "out") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told in line


def test_two_builds_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    draw_pannuke(tmp_path / "set")
    for out in ("one", "two"):
        assert build("pannuke", tmp_path / "set", tmp_path / out) == 0
    written = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert written
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in written)


def test_patches_of_an_image_lie_as_they_did_in_it() -> None:
    cutting = Cutting(images=5, side_px=70, size_px=32)
    corners = cutting.corners_px()
    assert len(np.unique(corners, axis=0)) == len(corners) == 20
    # Images 3 across, so the fifth is the second of the second row.
    np.testing.assert_array_equal(corners[-4:], [[70, 70], [102, 70], [70, 102], [102, 102]])
    image = np.arange(70 * 70 * 3).reshape(70, 70, 3).astype(np.uint8)
    for piece, (x, y) in zip(cutting.pieces(image), corners[:4], strict=True):
        np.testing.assert_array_equal(piece, image[y : y + 32, x : x + 32])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda at: (at / "set/CRC-VAL-HE-7K/ADI").rename(at / "set/CRC-VAL-HE-7K/FAT"), "FAT"),
        (lambda at: (at / "masks/NCT-CRC-HE-100K/TUM/TUM-0000.png").unlink(), "TUM"),
        (lambda at: (at / "set/NCT-CRC-HE-100K/LYM/LYM-0000.tif").write_bytes(b"II*\0cut"), "LYM-0000.tif"),
        (lambda at: Image.new("RGB", (256, 256)).save(at / "set/NCT-CRC-HE-100K/LYM/LYM-0000.tif"), "256 x 256"),
        (lambda at: Image.new("RGB", (224, 224)).save(at / "masks/CRC-VAL-HE-7K/LYM/LYM-0000.png"), "RGB"),
        (lambda at: [path.rename(at / "set" / f"x{path.name}") for path in (at / "set").iterdir()], "NCT-CRC-HE-100K"),
    ],
)
def test_another_layout_is_refused_in_one_line(
    spoil: object, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_nct_crc(tmp_path / "set", tmp_path / "masks")
    spoil(tmp_path)  # type: ignore[operator]
    assert build("nct-crc", tmp_path / "set", tmp_path / "out", "--masks", str(tmp_path / "masks")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told in line
    assert not (tmp_path / "out" / "config").exists()


@pytest.mark.parametrize(
    ("name", "argv", "told"),
    [
        ("nct-crc", (), "--masks"),
        ("bci", (), "--mpp"),
        ("pannuke", ("--mpp", "0.5"), "--mpp"),
        ("pannuke", ("--types", "x"), "--types with --name nct-crc only"),
        ("bci", ("--mpp", "0.5", "--sparse", "mask"), "--sparse with --name nct-crc only"),
        ("bci", ("--mpp", "0.5", "--size-px", "8"), "16 px"),
        ("bci", ("--mpp", "0.5"), "HE/train"),
        ("segpath", (), "_fileinfo.csv"),
        ("segpath", ("--antibody", "/panCK"), "no /panCK_fileinfo.csv"),
        ("pannuke", (), "Fold 1"),
    ],
)
def test_what_is_missing_is_told(
    name: str, argv: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(name, tmp_path, tmp_path / "out", *argv) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


def test_arrays_and_tables_of_another_shape_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pannuke(tmp_path / "pannuke")
    np.save(tmp_path / "pannuke/Fold 3/masks/fold3/masks.npy", np.zeros((6, 256, 256, 5)))
    assert build("pannuke", tmp_path / "pannuke", tmp_path / "out") == 1
    assert "(N, 256, 256, 6)" in capsys.readouterr().err
    draw_segpath(tmp_path / "segpath")
    (tmp_path / "segpath" / "panCK_fileinfo.csv").write_text("filename,split\na_HE.png,train\n")
    assert build("segpath", tmp_path / "segpath", tmp_path / "out", "--antibody", "panCK") == 1
    assert "train_val_test" in capsys.readouterr().err
    draw_bci(tmp_path / "bci")
    (tmp_path / "bci/HE/train/00000_train_0.png").rename(tmp_path / "bci/HE/train/00000.png")
    (tmp_path / "bci/IHC/train/00000_train_0.png").rename(tmp_path / "bci/IHC/train/00000.png")
    assert build("bci", tmp_path / "bci", tmp_path / "out", "--mpp", "0.46") == 1
    assert "00001_train_2+.png" in capsys.readouterr().err


def test_files_that_are_damaged_within_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    draw_orion(tmp_path / "orion", per_case=1)
    for path in (tmp_path / "orion" / "if").iterdir():
        options = {"compression": "zlib", "photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(path, tifffile.imread(path), **options)  # type: ignore[arg-type]
        with tifffile.TiffFile(path) as file:
            start = file.pages[0].dataoffsets[0]
        data = path.read_bytes()
        path.write_bytes(data[: start + 2] + b"\xff" * 40 + data[start + 42 :])
    assert build("orion", tmp_path / "orion", tmp_path / "out") == 1
    assert "17 interleaved channels" in told()
    draw_segpath(tmp_path / "segpath")
    table = tmp_path / "segpath" / "panCK_fileinfo.csv"
    for text in (gzip.compress(table.read_bytes())[:-30], b"train_val_test,filename\ntrain\n"):
        table.write_bytes(text)
        assert build("segpath", tmp_path / "segpath", tmp_path / "out", "--antibody", "panCK") == 1
        assert "panCK_fileinfo.csv" in told()


def _draw_set_of(experiment: str, folder: Path) -> Path:
    """The cohort that an experiment needs, in miniature."""
    source, out = folder / "set", folder / "cohort"
    if experiment.startswith("nct"):
        draw_nct_crc(source, folder / "masks")
        draw_nct_types(folder / "types", source)
        argv = ["--masks", str(folder / "masks"), "--types", str(folder / "types")]
        argv += ["--sparse", "mask"] if experiment == "nct-mask-only" else []
        assert build("nct-crc", source, out, *argv) == 0
    elif experiment.startswith("orion"):
        draw_orion(source, per_case=1)
        assert build("orion", source, out) == 0
    elif experiment.startswith("pannuke"):
        draw_pannuke(source)
        assert build("pannuke", source, out) == 0
    elif experiment.startswith("als-st"):
        draw_als_st(source)
        assert build("als-st", source, out, "--size-px", "64") == 0
    else:
        draw_bci(source, per_part=1)
        assert build("bci", source, out, "--mpp", "0.46", "--size-px", "256") == 0
    return out


def _workflow(out: Path, config: Path, *argv: str) -> str:
    profile = ["--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "dataset")]
    done = snakemake(out, "--configfile", str(config), *profile, *argv)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_runs_by_name_from_the_stores_of_its_set(path: Path, tmp_path: Path) -> None:
    """Snakemake plans split, training, embedding and evaluation, and nothing that would need a slide."""
    out = _draw_set_of(path.stem, tmp_path)
    jobs = planned(_workflow(out, path, "-n", "--cores", "1", "embed_all", "evaluate_all"))
    runs = load(path).runs
    assert jobs["train"] == len(runs)
    assert jobs["embed"] == len(stores(out)) * len(runs)
    evaluations = {"evaluate", "evaluate_probe", "evaluate_all"}
    assert set(jobs) <= {"split", "train", "embed", "embed_slides", "embed_all", "total"} | evaluations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "probes"),
    [
        ("nct-supervised", {"class-linear", "class-mlp", "cell-linear"}),
        ("nct-mask-only", {"class-linear", "cell-linear"}),
        ("nct-mfl", {"class-linear", "cell-knn", "dense-class-linear", "dense-cell-mlp"}),
    ],
)
def test_an_experiment_with_a_tiny_encoder_ends_in_its_evidence(name: str, probes: set[str], tmp_path: Path) -> None:
    out = _draw_set_of(name, tmp_path)
    config = yaml.safe_load((REPOSITORY / "config" / "experiments" / f"{name}.yaml").read_text())
    for run in config["runs"].values():
        run |= {"encoder": "test_resnet", "projector": [16, 16], "epochs": 1, "batch_size": 8}
    config["evaluate"] = config.get("evaluate", {}) | {"bootstrap": 20, "labels": [30], "label_draws": 2}
    if "mlp_epochs" in config["evaluate"]:
        config["evaluate"]["mlp_epochs"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    # Slide vectors would need more patches than these sets have.
    _workflow(out, tmp_path / "tiny.yaml", "--cores", "2", "evaluate_all")
    rows = pd.read_csv(out / "results" / "evaluate" / "summary.tsv", sep="\t")
    assert set(rows["run"]) == set(config["runs"])
    assert probes <= set(rows["probe"])


@pytest.mark.slow
def test_only_a_run_that_learns_labels_reruns_when_a_table_of_classes_changes(tmp_path: Path) -> None:
    out = _draw_set_of("nct-supervised", tmp_path)
    config = {"slides": "config/slides.tsv", "split": {"test": ["crc-val-he-7k"]}, "embed": {"encoder": "supervised"}}
    tiny = {**TINY, "batch_size": 8}
    supervised = {**tiny, "branches": ["sparse", "target"], "target": "label"}
    config["runs"] = {"supervised": supervised, "sparse-only": {**tiny, "branches": ["sparse", "sparse"]}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    argv = ["--cores", "2", "train_all"]
    _workflow(out, path, *argv)
    table = out / "results" / "dataset" / "nct-crc-he-100k.tsv"
    table.write_text(table.read_text().replace("\tADI\t", "\tBACK\t"))
    again = _workflow(out, path, "-n", *argv)
    assert planned(again) == {"train": 1, "train_all": 1, "total": 2}
    assert "train/supervised" in again
    sheet = out / "config" / "slides.tsv"
    lines = [line.split("\t") for line in sheet.read_text().splitlines()]
    sheet.write_text("".join("\t".join(cells[:-1]) + "\n" for cells in lines))
    refused = snakemake(out, "-n", "--configfile", str(path), *argv)
    assert refused.returncode != 0
    assert "a table in the column classes for some pair" in refused.stdout
