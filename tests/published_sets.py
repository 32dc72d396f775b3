"""Published sets in miniature: the folders, names and kinds of file that their publishers use, with drawn pixels."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from PIL import Image

from pipeline.tools.datasets import bci, nct_crc, orion, pannuke, segpath


def draw_nct_crc(folder: Path, masks: Path, per_class: int = 1) -> None:
    """Both parts, all classes, uncompressed TIFF as published; masks as PNG."""
    rng = np.random.default_rng(0)
    for part in ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K"):
        for label in nct_crc.CLASSES:
            (folder / part / label).mkdir(parents=True)
            (masks / part / label).mkdir(parents=True)
            for number in range(per_class):
                name = f"{label}-{number:04d}"
                rgb, mask = _tissue(rng, nct_crc.SIDE_PX)
                tifffile.imwrite(folder / part / label / f"{name}.tif", rgb, photometric="rgb")
                Image.fromarray(mask).save(masks / part / label / f"{name}.png")


def draw_nct_types(folder: Path, source: Path) -> None:
    """Beside every image what HoVer-Net leaves of it, nuclei of type c mostly in class number c, none in class 0."""
    rng = np.random.default_rng(5)
    for image in sorted(source.rglob("*.tif")):
        number = nct_crc.CLASSES.index(image.parent.name)
        kinds = [min(number, 5)] * 3 + rng.integers(0, 6, 2).tolist() if number else []
        write_nuclei(folder / image.relative_to(source).parent / "json" / f"{image.stem}.json", kinds, rng)


def write_nuclei(path: Path, kinds: list[int], rng: np.random.Generator) -> None:
    """A file as HoVer-Net's inference on tiles writes it, nuclei anywhere."""
    nuclei = {}
    for number, kind in enumerate(kinds, start=1):
        x, y = rng.uniform(4, nct_crc.SIDE_PX - 4, 2).tolist()
        corners = [[round(x) - 3, round(y) - 3], [round(x) + 3, round(y) + 3]]
        contour = [[corners[i][0], corners[j][1]] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
        box = [corner[::-1] for corner in corners]
        nuclei[str(number)] = {"bbox": box, "centroid": [x, y], "contour": contour, "type_prob": 0.9, "type": kind}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mag": None, "nuc": nuclei}))


def draw_bci(folder: Path, per_part: int = 2) -> None:
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        for number in range(per_part):
            rgb, mask = _tissue(rng, bci.SIDE_PX)
            brown = np.where(mask[..., None] > 0, np.uint8([120, 80, 50]), rgb)
            for side, pixels in (("HE", rgb), ("IHC", brown)):
                path = folder / side / part / f"{number:05d}_{part}_{number % 4}{'+' * (number % 4 > 0)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=1)


def draw_segpath(folder: Path, per_part: int = 1) -> None:
    """Two cell types; the table names masks too, as the published one does."""
    rng = np.random.default_rng(2)
    for antibody, cell_type in (("panCK", "Epithelium"), ("CD3CD20", "Lymphocyte")):
        place = folder / f"{antibody}_{cell_type}"
        place.mkdir(parents=True)
        with (folder / f"{antibody}_fileinfo.csv").open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["filename", "train_val_test"])
            for part in segpath.PARTS:
                for number in range(per_part):
                    rgb, mask = _tissue(rng, segpath.SIDE_PX)
                    name = f"{cell_type}_{antibody}_{part}_{number:03d}"
                    Image.fromarray(rgb).save(place / f"{name}_HE.png", compress_level=1)
                    Image.fromarray(np.uint8(mask > 0)).save(place / f"{name}_mask.png", compress_level=1)
                    table.writerows([[f"{place.name}/{name}_HE.png", part], [f"{place.name}/{name}_mask.png", part]])


def draw_pannuke(folder: Path, per_fold: int = 6) -> None:
    """Floating point images and masks of instance numbers."""
    rng = np.random.default_rng(3)
    for fold in (1, 2, 3):
        pairs = [_tissue(rng, pannuke.SIDE_PX) for _ in range(per_fold)]
        masks = np.zeros((per_fold, pannuke.SIDE_PX, pannuke.SIDE_PX, 6))
        for number, (_, mask) in enumerate(pairs):
            masks[number, ..., number % 5] = (mask > 0) * (7.0 + number)
            masks[number, ..., 5] = mask == 0
        images = folder / f"Fold {fold}" / "images" / f"fold{fold}"
        (folder / f"Fold {fold}" / "masks" / f"fold{fold}").mkdir(parents=True)
        images.mkdir(parents=True)
        np.save(images / "images.npy", np.stack([rgb for rgb, _ in pairs]).astype(np.float64))
        np.save(images / "types.npy", np.array(["Breast", "Colon"] * (per_fold // 2)))
        np.save(folder / f"Fold {fold}" / "masks" / f"fold{fold}" / "masks.npy", masks)


def draw_orion(folder: Path, per_case: int = 4, side_px: int = 64) -> None:
    """Three cases, one per part; the tables name paths of another machine, as the published ones may."""
    rng = np.random.default_rng(4)
    for place in ("he", "if"):
        (folder / place).mkdir(parents=True)
    slides = []
    for number, part in enumerate(orion.PARTS, start=1):
        slide = f"18459_LSP{number}_SCAN_OR_001"
        slides.append((slide, f"CRC0{number}"))
        lines = []
        for tile in range(per_case):
            rgb, mask = _tissue(rng, side_px)
            x, y = 512 * (tile % 2), 512 * (tile // 2)
            name = f"{slide}_{x}_{y}_0_512_512"
            levels = np.arange(1, 18, dtype=np.uint8) * 10 + tile
            Image.fromarray(rgb).save(folder / "he" / f"{name}.jpeg", quality=95)
            tifffile.imwrite(
                folder / "if" / f"{name}.tiff", mask[..., None] // 255 * levels, photometric="minisblack",
                planarconfig="contig",
            )  # fmt: skip
            lines.append((slide, f"/data/tiles/he/{name}.jpeg", f"/data/tiles/if/{name}.tiff", ""))
        with (folder / f"{part}_dataframe.csv").open("w", newline="") as stream:
            columns = ("in_slide_name", "image_path", "target_path", "nuclei_path")
            csv.writer(stream).writerows([columns, *reversed(lines)])
    with (folder / "slide_dataframe.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("in_slide_name", "orion_slide_id"), *slides])


ALS_GENES = ("Aqp4", "Gfap", "Mbp", "Snap25", "Th")


def draw_als_st(folder: Path, *, spots: int = 24, widths_px: tuple[int, ...] = (3100, 2500)) -> dict[str, pd.DataFrame]:
    """Sections of two chips, the first with two on one array; returns of each the true counts, spots by genes.

    A disk of 60 um lies on the H&E at every spot, its red the spot's count of Gfap. Spots 0 and 1 lie at the image's
    edge. Of the last gene one spot in all has a count; ambiguous reads and a gene in two lines are there, too.
    """
    rng = np.random.default_rng(6)
    folder.mkdir(parents=True)
    truth = {}
    for chip, width in zip(("CN51", "L7CN36"), widths_px, strict=True):
        um = width / 6200
        image = np.full((round(1.02 * width), width, 3), (235, 210, 225), dtype=np.uint8)
        regions = []
        sections = ("_1", "_2") if chip == "CN51" else ("",)
        for section in sections:
            places = np.array([[1.1, 3.4], [32.9, 30.0], *rng.uniform(4, 29, (spots - 2, 2))]).round(3)
            counts = rng.poisson(40, (spots, len(ALS_GENES)))
            counts[:, -1] = 0
            if section == "_1":
                counts[-1, -1] = 3
            for (x, y), red in zip(places, counts[:, 1], strict=True):
                centre = np.rint((np.array([x, y]) - 1) * 194 * um).astype(int).tolist()
                cv2.circle(image, centre, round(30 * um), (int(red), 60, 150), -1)
            columns = [f"{x:g}_{y:g}" for x, y in places]
            table = pd.DataFrame(counts, index=columns, columns=ALS_GENES)
            truth[f"als-st-{chip.lower()}-c2{section.replace('_', '-')}"] = table
            written = table.T
            written = pd.concat([written.drop("Mbp"), *_in_two_lines(written.loc[["Mbp"]])])
            written.loc["__ambiguous[Gfap+Mbp]"] = 7
            name = f"GSM33991{len(truth)}_{chip}_C2{section}"
            with gzip.open(folder / f"{name}_stdata_aligned_counts_IDs.txt.gz", "wt") as stream:
                written.to_csv(stream, sep="\t")
            regions += [(place, f"Region {index % 3}") for index, place in enumerate(columns[:-1])]
        _write_regions(folder / f"GSM33990_{chip}_C2.tsv.annotations.tsv.gz", regions, by_spot=chip == "CN51")
        encoded = jpeg8_encode(image, level=100, subsampling="444")
        (folder / f"GSM33990_{chip}_C2_HE.jpg.gz").write_bytes(gzip.compress(encoded, 1))
    return truth


def _in_two_lines(gene: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return gene // 2, gene - gene // 2


def _write_regions(path: Path, regions: list[tuple[str, str]], *, by_spot: bool) -> None:
    """A line per spot, or as Span writes it a line per region; the places' trailing zeros differ from the counts'."""
    names = sorted({region for _, region in regions})
    marks = pd.DataFrame({name: [int(region == name) for _, region in regions] for name in names})
    places = [tuple(map(float, place.split("_"))) for place, _ in regions]
    if by_spot:
        known = pd.DataFrame({"": range(len(places)), "xPos": [x for x, _ in places], "yPos": [y for _, y in places]})
        table = pd.concat([known, pd.Series(0, marks.index, name="area"), marks], axis=1)
        table.to_csv(path, sep="\t", index=False)
        return
    marks.index = pd.Index([f"{x:.3f}_{y:.3f}" for x, y in places])
    marks.T.to_csv(path, sep="\t")


def _tissue(rng: np.random.Generator, side_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """H&E with some nuclei, and their mask."""
    rgb = rng.integers(200, 240, (side_px // 8, side_px // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rgb[..., 1] -= 40
    mask = np.zeros((side_px, side_px), dtype=np.uint8)
    for x, y in rng.integers(0, side_px - 12, (int(rng.integers(5, 400)), 2)):
        mask[y : y + 12, x : x + 12] = 255
    rgb[mask > 0] = (90, 60, 140)
    return rgb, mask
