"""Write `qc.json`, the quality of a registration."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.registration.areas import Area
from pipeline.registration.quality import Quality, Residual

MODE_NOTES = {
    "same-section": "both images show the same cells; the map goes down to single nuclei",
    "serial": "neighbouring sections share no nuclei; the map stops at the smooth step and is true to regions only",
}


def to_mapping(quality: Quality) -> dict[str, Any]:
    """Return the quality as JSON values, null for what is unknown; the blocks themselves stay out."""
    pose = quality.pose
    return {
        "mode": quality.mode,
        "mode_note": MODE_NOTES[quality.mode],
        "engine": quality.engine,
        "verdict": quality.verdict,
        "reasons": list(quality.reasons),
        "channel": quality.channel,
        "judged_by": "nuclei" if quality.nuclei else "structures",
        "coarse": None
        if pose is None or quality.margin is None
        else {
            "ncc": round(pose.ncc, 4),
            "margin": round(quality.margin, 4),
            "mirrored": pose.mirrored,
            "degrees": round(pose.degrees, 2),
        },
        "held_out_residual_um": _residual_mapping(quality.held_out),
        "scale": None if quality.scale is None else round(quality.scale, 4),
        "support": round(quality.support, 4),
        "blocks": len(quality.block_um),
        "steps": [
            {
                "name": step.name,
                "accepted": step.accepted,
                "blocks": step.blocks,
                "before_um": _residual_mapping(step.before),
                "after_um": _residual_mapping(step.after),
            }
            for step in quality.steps
        ],
        "det_j": {"min": round(quality.determinant_range[0], 4), "max": round(quality.determinant_range[1], 4)},
        "fold_fraction": round(quality.fold_fraction, 6),
        "round_trip_um": round(quality.round_trip_um, 4),
        "outside_share": None if quality.outside_share is None else round(quality.outside_share, 4),
        "not_imaged_share": None if quality.not_imaged_share is None else round(quality.not_imaged_share, 4),
        "areas": [_area_mapping(area) for area in quality.areas],
        "pieces": [
            _area_mapping(piece.area)
            | {
                "shift_um": round(piece.shift_um, 1),
                "degrees": round(piece.degrees, 2),
                "straight_edge": piece.straight_edge,
            }
            for piece in quality.pieces
        ],
    }


def _area_mapping(area: Area) -> dict[str, Any]:
    return {
        "share": round(area.share, 4),
        "place": area.place,
        "area_mm2": round(area.area_um2 / 1e6, 3),
        "centre_um": [round(value, 1) for value in area.centre_um],
        "box_um": [round(value, 1) for value in area.box_um],
    }


def _residual_mapping(residual: Residual) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else round(value, 3)
        for name, value in (("median", residual.median_um), ("p90", residual.p90_um))
    }
