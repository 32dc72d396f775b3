"""A small results folder with known truth, drawn through the project's own writers, for evaluate and report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pipeline.registration.pictures import FIELD_KEY
from pipeline.slides.base import Level
from pipeline.slides.record import SideRecord, SlideRecord, to_mapping
from pipeline.store.patch_store import PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter

MARKERS = ("DAPI", "CD45", "Pan-CK")
SIDE_UM = 100.0
MPP = 0.5


@dataclass(frozen=True)
class DrawnSlide:
    slide: str
    patient: str
    fold: int
    markers: tuple[str, ...] = MARKERS
    columns: int = 16
    rows: int = 16
    unit: float = 1.0
    verdict: str = "pass"
    kind: str = "fluorescence"

    @property
    def channels(self) -> int:
        """Channels of the dense side as a store keeps them."""
        return len(self.markers) and {"brightfield": 3, "mask": 1}.get(self.kind, len(self.markers))


COHORT = (
    DrawnSlide("a1", "A", 0, unit=100.0),
    DrawnSlide("b1", "B", 1),
    DrawnSlide("b2", "B", 1, markers=("DAPI", "Pan-CK"), unit=3.0),
    DrawnSlide("c1", "C", 2, unit=30.0),
    DrawnSlide("d1", "D", 3, markers=(), verdict=""),
)


@dataclass
class DrawnResults:
    """A folder of results and what it was drawn from: per slide the hidden causes of the markers."""

    results: Path
    causes: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def arguments(self, *runs: str) -> list[str]:
        return [
            *("--stores", str(self.results / "tile"), "--split", str(self.results / "split/patches.tsv")),
            *("--embeddings", str(self.results / "embed"), "--runs", *runs),
            *("--out-summary", str(self.results / "evaluate/summary.tsv")),
            *("--out-details", str(self.results / "evaluate/details.json")),
        ]


def draw_stores(results: Path, slides: tuple[DrawnSlide, ...] = COHORT, seed: int = 0) -> DrawnResults:
    """Stores, split and inspect records; marker m of a patch is exp of hidden cause m, times the slide's unit."""
    rng = np.random.default_rng(seed)
    drawn = DrawnResults(results)
    table = []
    for slide in slides:
        count = slide.columns * slide.rows
        causes = rng.normal(size=(count, len(MARKERS)))
        drawn.causes[slide.slide] = causes
        quality = np.ones(count, np.float32) if slide.markers else np.zeros(count, np.float32)
        quality[:3] = 0
        _write_store(results / f"tile/{slide.slide}.zarr", slide, causes, quality)
        _write_record(results / f"inspect/{slide.slide}.json", slide)
        table += [(slide.slide, row, slide.patient, slide.fold, f"{quality[row]:g}") for row in range(count)]
    (results / "split").mkdir(parents=True)
    columns = ["slide", "row", "patient", "fold", "pair_quality"]
    pd.DataFrame(table, columns=columns).to_csv(results / "split/patches.tsv", sep="\t", index=False)
    folds = {
        str(fold): {
            "slides": [s.slide for s in slides if s.fold == fold],
            "patients": sorted({s.patient for s in slides if s.fold == fold}),
            "patches": sum(s.columns * s.rows for s in slides if s.fold == fold),
            "pairs": sum(s.columns * s.rows - 3 for s in slides if s.fold == fold and s.markers),
        }
        for fold in sorted({s.fold for s in slides})
    }
    split = {"by": "patient", "note": "No patient is in two folds.", "folds": folds}
    (results / "split/split.json").write_text(json.dumps(split))
    return drawn


def draw_features(
    drawn: DrawnResults,
    run: str,
    noise: float,
    *,
    slides: tuple[DrawnSlide, ...] = COHORT,
    seed: int = 1,
    encoder: str = "e0",
    width: int = 12,
) -> Path:
    """Features of a run: the hidden causes mixed into `width` columns, plus noise of that standard deviation."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(len(MARKERS), width))
    folder = drawn.results / "embed" / run
    folder.mkdir(parents=True)
    for slide in slides:
        causes = drawn.causes[slide.slide]
        features = causes @ mixing + noise * rng.normal(size=(len(causes), width))
        write_features(folder / f"{slide.slide}.h5", features, _positions_px(slide), encoder)
    return folder


def write_features(path: Path, features: NDArray[np.float64], coords: NDArray[np.int64], encoder: str) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = features.astype(np.float32)
        file["coords"] = coords
        known = {"name": path.stem, "patch_size": 16, "patch_size_level0": round(SIDE_UM / MPP), "encoder": encoder}
        file["coords"].attrs.update(known)
        file.attrs["encoder"] = encoder


def _positions_px(slide: DrawnSlide) -> NDArray[np.int64]:
    y, x = np.divmod(np.arange(slide.columns * slide.rows), slide.columns)
    return (np.stack([x, y], axis=1) * round(SIDE_UM / MPP)).astype(np.int64)


def _write_store(path: Path, slide: DrawnSlide, causes: NDArray[np.float64], quality: NDArray[np.float32]) -> None:
    count, side = len(causes), 16
    rng = np.random.default_rng(5)
    position_px = _positions_px(slide)
    writer = StoreWriter(path, patches=count, size_px=side, dense_channels=slide.channels, dense_dtype="uint16")
    for first in range(0, count, writer.block_rows):
        rows = min(writer.block_rows, count - first)
        dense = np.zeros((rows, slide.channels, side, side), np.uint16) if slide.markers else None
        writer.write(first, rng.integers(150, 250, (rows, side, side, 3), np.uint8), dense)
    used = [MARKERS.index(m) if m in MARKERS else index for index, m in enumerate(slide.markers)]
    width, height = slide.columns * 8, slide.rows * 8
    overview = np.full((height, width, 3), (225, 190, 215), np.uint8)
    overview[height // 3 : height // 2, width // 4 : width // 2] = (150, 90, 160)
    attributes = StoreAttributes(
        slide=slide.slide,
        patient=slide.patient,
        size_px=side,
        mpp=SIDE_UM / side,
        mpp_level0=MPP,
        size_level0_px=(round(slide.columns * SIDE_UM / MPP), round(slide.rows * SIDE_UM / MPP)),
        patch_size_level0=round(SIDE_UM / MPP),
        overview_mpp=SIDE_UM / 8,
        markers=slide.markers,
        nuclear_channel=0 if slide.markers else None,
        verdict=slide.verdict,
        counts={
            "kept": count,
            "no_tissue": 40,
            "pen": 17,
            "pair_outside": 3 if slide.markers else 0,
            "pair_residual": 0,
        },
        recipe={"size_px": side},
        provenance={"stage": "tile"},
        dense_kind=slide.kind,
    )
    table = PatchTable(
        position_px=position_px,
        position_um=position_px * MPP,
        tissue=np.ones(count, np.float32),
        residual_um=np.full(count, 1.0, np.float32),
        pair_quality=quality,
        marker_mean=_values(slide, causes[:, used]),
    )
    writer.finish(attributes, table, overview, np.ones((height, width), np.bool_))


def _values(slide: DrawnSlide, causes: NDArray[np.float64]) -> NDArray[np.float32]:
    """What the causes make of a patch: intensities, or densities, or the shares of classes."""
    values = slide.unit * np.exp(causes + 4)
    if slide.kind == "mask":
        values = values**3 / (values**3).sum(axis=1, keepdims=True)
    return np.asarray(values, np.float32)


def _write_record(path: Path, slide: DrawnSlide) -> None:
    size = (round(slide.columns * SIDE_UM / MPP), round(slide.rows * SIDE_UM / MPP))

    def side(kind: str, channels: tuple[str, ...], classes: tuple[str, ...] = ()) -> SideRecord:
        numbered = tuple(enumerate(classes, start=1))
        path, levels = f"slides/{slide.slide}", (Level(size, 1.0),)
        return SideRecord(path, "openslide", MPP, "file", levels, channels, "uint8", "0", kind, numbered)

    kinds = {
        "fluorescence": (slide.markers, ()),
        "brightfield": (("R", "G", "B"), ()),
        "mask": (slide.markers, slide.markers),
    }
    dense = side(slide.kind, *kinds[slide.kind]) if slide.markers else None
    record = SlideRecord(slide.slide, slide.patient, side("brightfield", ("R", "G", "B")), dense, "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_mapping(record)))


def draw_picture(path: Path, size: tuple[int, int] = (320, 240), seed: int = 0) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = PngImagePlugin.PngInfo()
    about.add_text(FIELD_KEY, f"0 0 {size[0]} {size[1]}")
    Image.fromarray(noise).resize(size).save(path, pnginfo=about)


def draw_registration(drawn: DrawnResults, slide: DrawnSlide, reasons: tuple[str, ...] = ()) -> None:
    """qc.json and pictures of one slide, in the shape of the slide's overview."""
    folder = drawn.results / "register" / slide.slide
    size = (slide.columns * 8, slide.rows * 8)
    for seed, name in enumerate(("overlay", "checkerboard", "residual", "deformation")):
        draw_picture(folder / f"{name}.png", size, seed)
    quality = {
        "mode": "same-section",
        "verdict": slide.verdict,
        "reasons": list(reasons),
        "steps": [{"name": "initial", "accepted": True, "after_um": {"median": 212.5, "p90": 290.0}}],
        "held_out_residual_um": {"median": 1.13, "p90": 2.5},
        "provenance": {"schema": 1},
    }
    (folder / "qc.json").write_text(json.dumps(quality))


def draw_training(drawn: DrawnResults, run: str, epochs: int = 30) -> None:
    folder = drawn.results / "train" / run
    folder.mkdir(parents=True)
    lines = [{"epoch": e, "step": e * 10, "loss": 9 / e, "invariance": 5 / e, "lr": 1e-3} for e in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def draw_vectors(drawn: DrawnResults, run: str, slides: tuple[DrawnSlide, ...] = COHORT) -> None:
    folder = drawn.results / "embed" / run
    rows = []
    for slide in slides:
        with h5py.File(folder / f"{slide.slide}.h5") as file:
            mean = np.asarray(file["features"]).mean(axis=0)
        rows.append(
            {"slide": slide.slide, "patient": slide.patient, "patches": 1, "recipe": "r", "mean": mean.tolist()}
        )
    pd.DataFrame(rows).to_parquet(folder / "slides.parquet")


def draw_sheet(path: Path, slides: tuple[DrawnSlide, ...] = COHORT) -> Path:
    lines = [f"{s.slide}\t{s.patient}\the.tif\t{'mif.tif' if s.markers else ''}" for s in slides]
    path.write_text("\n".join(["slide\tpatient\tsparse\tdense", *lines]) + "\n")
    return path
