"""Stage register: write the transform of one slide pair, its verdict, and pictures of both sides."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from pipeline import provenance
from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.registration import blocks_engine, pictures, qc_file, quality, sitk_engine, valis_engine
from pipeline.registration.assessment import assess, unmeasured
from pipeline.registration.close_ups import close_ups
from pipeline.registration.diagnosis import likely_mistakes
from pipeline.registration.given_table import MppPair
from pipeline.registration.itk import write_itk
from pipeline.registration.overlay import overlay, write_overlay
from pipeline.registration.pair import Pair, opened
from pipeline.registration.quality import Quality
from pipeline.registration.transform import Transform, write_transform
from pipeline.registration.transform_file import GivenTransform, given_transform
from pipeline.registration.verdicts import sentence
from pipeline.settings import RegisterSettings
from pipeline.slides.record import SlideRecord

ENGINES = {"blocks": blocks_engine.align, "sitk": sitk_engine.align, "valis": valis_engine.align}
_PACKAGES = ("numpy", "scipy", "SimpleITK", "zarr")
# Both bring cv2; the environment of valis has the second.
_OPENCV = ("opencv-python-headless", "opencv-contrib-python-headless")


@dataclass(frozen=True)
class RegisterOutputs:
    """Where the results go."""

    transform: Path
    itk: Path
    qc: Path
    overlay: Path
    checkerboard: Path
    residual: Path
    deformation: Path


def register(record: SlideRecord, settings: RegisterSettings, outputs: RegisterOutputs) -> None:
    """Register a pair, or take the transform that the sheet names, and write map, verdict and pictures.

    Raises:
        StatedError: if there is no dense partner, no nuclear channel, or the given transform cannot be read.
    """
    started = time.monotonic()
    inputs = {"sparse": record.sparse.sha256, "dense": record.dense.sha256 if record.dense else ""}
    given = _given(record)
    if given is not None and record.transform != "identity":
        inputs["transform"] = provenance.file_digest(Path(record.transform))
    for note in given.notes if given else ():
        say(f"register {record.slide}: {record.transform} {note}")
    with opened(record, settings) as pair:
        transform, found = ENGINES[settings.engine](pair, settings) if given is None else _judged(pair, given, settings)
        view = pictures.View.of(pair, transform)
        parts = close_ups(pair, transform, found)
    title = f"{record.slide}: {found.verdict}"
    write_overlay(outputs.overlay, overlay(view, title, parts))
    pictures.write_png(outputs.checkerboard, pictures.checkerboard(view))
    pictures.write_png(outputs.residual, pictures.residual(view, found, limit_um=2 * settings.limits_um[0]))
    pictures.write_png(outputs.deformation, pictures.deformation(view, transform))
    origin = provenance.record("register", settings, inputs, _packages(found.engine))
    write_transform(outputs.transform, transform, origin)
    write_itk(outputs.itk, transform)
    report = {"schema": provenance.SCHEMA_VERSION, "slide": record.slide, "given": record.transform}
    report["given_read_as"] = list(given.notes) if given else []
    report |= qc_file.to_mapping(found)
    report["provenance"] = origin
    report["cost"] = {
        "seconds": round(time.monotonic() - started, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    provenance.write_json(outputs.qc, report)
    say(sentence(record.slide, found.verdict, found.reasons, outputs.overlay))


def _given(record: SlideRecord) -> GivenTransform | None:
    """Return the transform that the sheet names for a slide; None where it is to be computed."""
    mpp = MppPair(record.sparse.mpp, record.dense.mpp) if record.dense else None
    try:
        return given_transform(record.transform, mpp)
    except StatedError as error:
        raise StatedError(slide=record.slide, file=error.file, expected=error.expected, found=error.found) from None


def _judged(pair: Pair, given: GivenTransform, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """Return a given transform as it is, with its quality; one that fails with the reading that would fit."""
    if pair.classes:
        return given.transform, unmeasured(pair, given.transform, settings)
    found = quality.doubted(assess(pair, given.transform, settings), given.doubts(pair.sparse.extent_um))
    if found.verdict == "fail":
        found = replace(found, reasons=found.reasons + likely_mistakes(pair, given.transform, settings))
    return given.transform, found


def _packages(engine: str) -> tuple[str, ...]:
    """Return the distributions whose version can change the result, as this interpreter has them."""
    opencv = [name for name in _OPENCV if list(metadata.distributions(name=name))]
    return (*_PACKAGES, *opencv, *(("valis-wsi",) if engine == "valis" else ()))
