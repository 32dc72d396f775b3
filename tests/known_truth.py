"""What comes of a pair whose truth is known: inspected, registered and tiled as a user would, and compared with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.cli import main
from pipeline.registration.transform_file import read_transform
from pipeline.store.patch_store import PatchStore

Floats = NDArray[np.float64]

PATCH_PX, PATCH_MPP = 96, 1.3
WRONG_UM, GOOD_UM = 10.0, 4.0


@dataclass(frozen=True)
class Outcome:
    """What came of a pair.

    Attributes:
        verdict: of the registration.
        reasons: of the verdict.
        median_um: error of the map where the tissue has a partner; nan where none has.
        p90_um: its 90th percentile.
        within: share of the tissue with a partner whose error is 4 um or less.
        off: share of the tissue that is over 10 um off or has no partner.
        partnerless: share of the tissue without a partner.
        kept_wrong: share of the pairs that are over 10 um off or have no partner; 0 where there are no pairs.
        kept_good: share of the patches with an error of 4 um or less all over that are pairs.
        pairs: how many pairs there are.
    """

    verdict: str
    reasons: tuple[str, ...]
    median_um: float
    p90_um: float
    within: float
    off: float
    partnerless: float
    kept_wrong: float
    kept_good: float
    pairs: int

    @property
    def silent(self) -> bool:
        """Whether pairs are wrong that the verdict passes, or much of the tissue is and no reason says so."""
        return self.verdict == "pass" and (self.kept_wrong > 0.02 or (self.off > 0.05 and not self.reasons))


def outcome(
    sparse: Path, dense: Path, points_um: Floats, there_um: Floats, folder: Path, register: tuple[str, ...] = ()
) -> Outcome:
    """Inspect, register and tile a pair in a folder, and compare with its truth.

    Args:
        sparse: the H&E slide.
        dense: the dense slide.
        points_um: (N, 2) tissue of the H&E slide, densely enough that each patch has one near its centre.
        there_um: (N, 2) where it lies on the dense slide; nan where it has no partner.
        folder: for what the stages write.
        register: further arguments of that stage.
    """
    out = {name: str(folder / name) for name in ("record.json", "t.zarr", "t.h5", "qc.json", "store.zarr")}
    pictures = ("overlay", "checkerboard", "residual", "deformation")
    sized = ("--threads", "1", "--settings", json.dumps({"size_px": PATCH_PX, "mpp": PATCH_MPP}))
    record, transform = ("--record", out["record.json"]), ("--transform", out["t.zarr"])
    slide = ("--slide", "s1", "--patient", "p1", "--sparse", str(sparse), "--dense", str(dense))
    drawn = [word for name in pictures for word in (f"--out-{name}", str(folder / f"{name}.png"))]
    maps = ("--out-transform", out["t.zarr"], "--out-itk", out["t.h5"], "--out-qc", out["qc.json"])
    for words in (
        ["inspect", *slide, "--out", out["record.json"]],
        ["register", *record, *maps, *drawn, *register],
        ["tile", *record, *transform, "--qc", out["qc.json"], "--out", out["store.zarr"], *sized],
    ):
        assert main(words) == 0, words
    quality = json.loads((folder / "qc.json").read_text())
    table = PatchStore.open(folder / "store.zarr").table
    error = np.linalg.norm(read_transform(folder / "t.zarr").to_dense(points_um) - there_um, axis=1)
    has_partner = np.isfinite(there_um).all(axis=1)
    error = np.where(has_partner, error, np.inf)
    half_um = PATCH_PX * PATCH_MPP / 2
    tree = cKDTree(points_um)
    away, nearest = tree.query(table.position_um + half_um)
    near, patch_error, pairs = away < half_um, error[nearest], table.pair_quality > 0
    # A patch that reaches over the edge of the dense slide, or of what is left of the tissue, is no good one.
    held = tree.query_ball_point(table.position_um + half_um, half_um, p=np.inf)
    whole = np.array([np.max(error[points], initial=0.0) <= GOOD_UM for points in held], np.bool_)
    kept, good = near & pairs, near & whole & (patch_error <= GOOD_UM)
    median, p90 = np.percentile(error[has_partner], (50, 90)) if has_partner.any() else (np.nan, np.nan)
    return Outcome(
        verdict=quality["verdict"],
        reasons=tuple(quality["reasons"]),
        median_um=float(median),
        p90_um=float(p90),
        within=share(error[has_partner] <= GOOD_UM),
        off=share(error > WRONG_UM),
        partnerless=share(~has_partner),
        kept_wrong=share(patch_error[kept] > WRONG_UM),
        kept_good=share(pairs[good]),
        pairs=int(pairs.sum()),
    )


def share(held: Any) -> float:
    """Return which share of some (N,) is held; 0 of none."""
    return float(np.mean(held)) if len(held) else 0.0
