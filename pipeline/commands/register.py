"""`register`: find the transform of one slide pair and measure its quality."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, settings_of
from pipeline.settings import RegisterSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--record", type=Path, required=True, help="JSON file written by inspect")
    parser.add_argument("--out-transform", type=Path, required=True, help="transform.zarr to write")
    parser.add_argument("--out-itk", type=Path, required=True, help="the same map as an ITK composite, .h5")
    parser.add_argument("--out-qc", type=Path, required=True, help="JSON with the verdict and the residuals")
    parser.add_argument(
        "--out-overlay", type=Path, required=True, help="PNG: hematoxylin in magenta, dense nuclei in green"
    )
    parser.add_argument("--out-checkerboard", type=Path, required=True, help="PNG: tiles of both images")
    parser.add_argument("--out-residual", type=Path, required=True, help="PNG: residual of every block")
    parser.add_argument("--out-deformation", type=Path, required=True, help="PNG: the bent grid")
    add_settings(parser, RegisterSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the transform, its verdict and the pictures."""
    from pipeline.registration.stage import RegisterOutputs, register
    from pipeline.slides.record import read_record

    outputs = RegisterOutputs(
        transform=parsed.out_transform,
        itk=parsed.out_itk,
        qc=parsed.out_qc,
        overlay=parsed.out_overlay,
        checkerboard=parsed.out_checkerboard,
        residual=parsed.out_residual,
        deformation=parsed.out_deformation,
    )
    register(read_record(parsed.record), settings_of(parsed, RegisterSettings), outputs)
