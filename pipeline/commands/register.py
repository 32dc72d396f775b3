"""The stage register: the transform of one slide pair, with the evidence for it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, settings_of
from pipeline.settings import RegisterSettings

_PACKAGES = ("numpy", "scipy", "SimpleITK", "zarr")
# Both bring cv2; the environment of valis has the second.
_OPENCV = ("opencv-python-headless", "opencv-contrib-python-headless")


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
    """Register, or takes the transform that the sheet names, and writes map, verdict and pictures.

    Raises:
        StatedError: if there is no dense partner, no nuclear channel, or the given transform is none.
    """
    import resource
    import time
    from dataclasses import replace

    from pipeline import provenance
    from pipeline.errors import StatedError
    from pipeline.progress import say
    from pipeline.registration import blocks_engine, pictures, quality, sitk_engine, valis_engine
    from pipeline.registration.assessment import assess, unmeasured
    from pipeline.registration.diagnosis import likely_mistakes
    from pipeline.registration.given_table import MppPair
    from pipeline.registration.itk import write_itk
    from pipeline.registration.pair import opened
    from pipeline.registration.transform import write_transform
    from pipeline.registration.transform_file import given_transform
    from pipeline.registration.verdicts import sentence
    from pipeline.slides.record import read_record

    started = time.monotonic()
    settings = settings_of(parsed, RegisterSettings)
    record = read_record(parsed.record)
    inputs = {"sparse": record.sparse.sha256, "dense": record.dense.sha256 if record.dense else ""}
    mpp = MppPair(record.sparse.mpp, record.dense.mpp) if record.dense else None
    try:
        given = given_transform(record.transform, mpp)
    except StatedError as error:
        raise StatedError(slide=record.slide, file=error.file, expected=error.expected, found=error.found) from None
    if given is not None and record.transform != "identity":
        inputs["transform"] = provenance.file_digest(Path(record.transform))
    for note in given.notes if given else ():
        say(f"register {record.slide}: {record.transform} {note}")
    with opened(record, settings) as pair:
        if given is None:
            engines = {"blocks": blocks_engine, "sitk": sitk_engine, "valis": valis_engine}
            transform, found = engines[settings.engine].align(pair, settings)
        elif record.dense and record.dense.kind in ("mask", "counts"):
            transform, found = given.transform, unmeasured(pair, given.transform, settings)
        else:
            transform = given.transform
            found = quality.doubted(assess(pair, transform, settings), given.doubts(pair.sparse.extent_um))
            if found.verdict == "fail":
                found = replace(found, reasons=found.reasons + likely_mistakes(pair, transform, settings))
        view = pictures.View.of(pair, transform)
    pictures.write_png(parsed.out_overlay, pictures.overlay(view))
    pictures.write_png(parsed.out_checkerboard, pictures.checkerboard(view))
    pictures.write_png(parsed.out_residual, pictures.residual(view, found, limit_um=2 * settings.warn_residual_um))
    pictures.write_png(parsed.out_deformation, pictures.deformation(view, transform))
    origin = provenance.record("register", settings, inputs, _packages(found.engine))
    write_transform(parsed.out_transform, transform, origin)
    write_itk(parsed.out_itk, transform)
    report = {"schema": provenance.SCHEMA_VERSION, "slide": record.slide, "given": record.transform}
    report["given_read_as"] = list(given.notes) if given else []
    report |= quality.to_mapping(found)
    report["provenance"] = origin
    report["cost"] = {
        "seconds": round(time.monotonic() - started, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    provenance.write_json(parsed.out_qc, report)
    say(sentence(record.slide, found.verdict, found.reasons, parsed.out_overlay))


def _packages(engine: str) -> tuple[str, ...]:
    """Return the distributions whose version can change the result, as this interpreter has them."""
    from importlib import metadata

    opencv = [name for name in _OPENCV if list(metadata.distributions(name=name))]
    return (*_PACKAGES, *opencv, *(("valis-wsi",) if engine == "valis" else ()))
