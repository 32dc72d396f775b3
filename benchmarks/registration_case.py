"""One pair registered by one engine in a separate process: called by registration.py, with the engine's interpreter.

Usage: python benchmarks/registration_case.py CASE ENGINE OUT.json
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from array_slide import ArraySlide
from synthetic_pair import SyntheticPair, synthetic_pair

from pipeline.registration import blocks_engine, sitk_engine, valis_engine
from pipeline.registration.pair import Pair, centred, sparse_overview, tissue_of
from pipeline.registration.transform import Transform
from pipeline.registration.valis_import import valis_registration
from pipeline.settings import RegisterSettings
from pipeline.slides.opening import open_slide

# H&E, partner, and um per pixel of both at the published 5 %. The files name no scale: these are our assumption, and
# matter to the engines' physical scales only, for errors are told in pixels.
LANDMARKS = {
    "kidney": ("Rat-Kidney_HE", "Rat-Kidney_PanCytokeratin", 4.54),
    "lesion": ("Izd2-29-041-w35_HE", "Izd2-29-041-w35_proSPC", 3.48),
}


AUTOFLUORESCENCE = "Autofluorescence"


@dataclass(frozen=True)
class Case:
    """A pair with its truth.

    Attributes:
        pair: the open pair.
        points_um: (N, 2) on the sparse slide.
        truth_um: (N, 2) the same on the dense slide.
        settings: of the stage.
        unit_um: what errors are told in: 1 for um, the pixel for landmarks.
    """

    pair: Pair
    points_um: np.ndarray
    truth_um: np.ndarray
    settings: RegisterSettings
    unit_um: float = 1.0


@contextmanager
def opened(name: str) -> Iterator[Case]:
    """Return the pair of a case.

    `synthetic-7`, `half-7`, `wrong-7`, `blank-7`, `orion`, `orion_tissue`, `west`, `kidney` or `lesion`.
    """
    kind, _, seed = name.partition("-")
    if kind == "orion":
        folder = Path(os.environ["MFL_REAL_DATA"]) / "orion_crc01"
        truth = np.loadtxt(folder / "centre_truth.csv", delimiter=",", skiprows=1)
        with open_slide(folder / "centre_he.tif") as sparse, open_slide(folder / "centre_mif_moved.ome.tif") as dense:
            pair = Pair.of(sparse, dense, (1.3, 1.3), None)
            yield Case(pair, truth[:, :2], truth[:, 2:], RegisterSettings())
    elif kind == "orion_tissue":
        # The same by its autofluorescence, as a dense side without nuclei would be registered: `sitk` alone can.
        folder = Path(os.environ["MFL_REAL_DATA"]) / "orion_crc01"
        truth = np.loadtxt(folder / "centre_truth.csv", delimiter=",", skiprows=1)
        with open_slide(folder / "centre_he.tif") as sparse, open_slide(folder / "centre_mif_moved.ome.tif") as dense:
            pair = Pair.of(sparse, dense, (1.3, 1.3), None, AUTOFLUORESCENCE)
            yield Case(pair, truth[:, :2], truth[:, 2:], RegisterSettings(engine="sitk", channel=AUTOFLUORESCENCE))
    elif kind == "west":
        folder = Path(os.environ["MFL_REAL_DATA"]) / "orion_crc01"
        with open_slide(folder / "west_he.tif") as sparse, open_slide(folder / "west_mif.ome.tif") as dense:
            pair = Pair.of(sparse, dense, (1.3, 1.3), None)
            points = tissue_grid_um(pair)
            yield Case(pair, points, points, RegisterSettings())
    elif kind in LANDMARKS:
        yield landmarks(Path(os.environ["MFL_REAL_DATA"]) / "landmarks", *LANDMARKS[kind])
    else:
        drawn = DRAWN[kind](int(seed))
        pair = Pair.of(drawn.sparse, drawn.dense, drawn.mpp, None)
        yield Case(pair, drawn.nuclei_um, drawn.truth(drawn.nuclei_um), RegisterSettings())


def tissue_grid_um(pair: Pair) -> np.ndarray:
    """Return the points (N, 2) of a grid of 100 um that lie on tissue of the H&E."""
    tissue = tissue_of(sparse_overview(pair.sparse))
    low, high = pair.sparse.extent_um
    points = np.stack(np.meshgrid(*(np.arange(50, end, 100.0) for end in high - low)), axis=-1).reshape(-1, 2)
    column, row = np.rint(tissue.to_px(points)).astype(int).T
    return points[
        tissue.inside[np.minimum(row, len(tissue.inside) - 1), np.minimum(column, tissue.inside.shape[1] - 1)]
    ]


def landmarks(folder: Path, sparse: str, dense: str, mpp: float) -> Case:
    """Return H&E and immunohistochemistry of neighbouring sections; row i of either table is one place."""
    images = [np.asarray(Image.open(folder / f"{name}.jpg").convert("RGB")) for name in (sparse, dense)]
    slides = [ArraySlide(image, mpp=mpp, downsamples=(1, 2, 4)) for image in images]
    tables = [np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1)[:, 1:] for name in (sparse, dense)]
    count = min(map(len, tables))
    pair = Pair.of(slides[0], slides[1], (mpp, mpp), None)
    settings = RegisterSettings(mode="serial")
    return Case(pair, tables[0][:count] * mpp, tables[1][:count] * mpp, settings, unit_um=mpp)


def posed(seed: int, shared: float | None = None) -> SyntheticPair:
    """Return a pair with a random pose, 10 to 25 um of deformation and 60 to 98 % of the nuclei in each view."""
    rng = np.random.default_rng(seed)
    degrees, mirrored = float(rng.uniform(-180, 180)), bool(rng.integers(2))
    deformation_um, kept = float(rng.uniform(10, 25)), float(rng.uniform(0.6, 0.98))
    return synthetic_pair(
        10_000 + seed,
        degrees=degrees,
        mirrored=mirrored,
        deformation_um=deformation_um,
        shared=kept if shared is None else shared,
    )


def wrong(seed: int) -> SyntheticPair:
    """Return a pair of two tissues, which must fail."""
    return synthetic_pair(20_000 + seed, side_um=1024, tissue_seed=30_000 + seed)


def blank(seed: int) -> SyntheticPair:
    """Return a pair whose dense slide shows nothing."""
    drawn = wrong(seed)
    empty = np.full((*drawn.dense.header.size_xy[::-1], 2), 100, np.uint16)
    return replace(drawn, dense=ArraySlide(empty, mpp=drawn.mpp[1], downsamples=(1, 2, 4), channels=("CD3", "DAPI")))


# Half of the nuclei that either view keeps are in the other one too.
DRAWN: dict[str, Callable[[int], SyntheticPair]] = {
    "synthetic": posed,
    "half": lambda seed: posed(seed, shared=0.5),
    "wrong": wrong,
    "blank": blank,
}


def best_affine(case: Case) -> Transform:
    """Return the affine map that fits the truth itself best: what no affine registration can beat."""
    design = np.column_stack([case.points_um, np.ones(len(case.points_um))])
    return Transform(np.linalg.lstsq(design, case.truth_um, rcond=None)[0].T)


def measured(name: str, method: str) -> dict[str, object]:
    """Return error, verdict, time and memory of one registration."""
    if method == "valis":
        # Its import takes longer than some registrations and is none.
        valis_registration()
    with opened(name) as case:
        wall, processor = time.perf_counter(), sum(os.times()[:4])
        if method == "best-affine":
            transform, quality = best_affine(case), None
        else:
            engines = {"blocks": blocks_engine, "sitk": sitk_engine, "valis": valis_engine}
            transform, quality = engines[method].align(case.pair, case.settings)
        wall, processor = time.perf_counter() - wall, sum(os.times()[:4]) - processor
        start = centred(case.pair)
        found, before = (
            np.linalg.norm(candidate.to_dense(case.points_um) - case.truth_um, axis=1) / case.unit_um
            for candidate in (transform, start)
        )
    peak_kb = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    held_out = None if quality is None or np.isnan(quality.held_out.median_um) else quality.held_out.median_um
    return {
        "case": name,
        "engine": method,
        "verdict": None if quality is None else quality.verdict,
        "reasons": [] if quality is None else list(quality.reasons),
        "error": percentiles(found),
        "before": percentiles(before),
        "held_out": None if held_out is None else round(held_out / case.unit_um, 3),
        "seconds": round(wall, 2),
        "processor_seconds": round(processor, 2),
        "peak_mb": round(peak_kb / 1024),
    }


def percentiles(error: np.ndarray) -> list[float]:
    """Return median, 90th percentile and maximum."""
    return [round(float(value), 3) for value in np.percentile(error, (50, 90, 100))]


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(measured(sys.argv[1], sys.argv[2])))
