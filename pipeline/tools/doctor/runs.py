"""Check split, trainings, controls and encoder: what the configuration asks for that the cohort lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.settings import Settings
from pipeline.settings.evaluate import baseline_of
from pipeline.sheet import SheetRow
from pipeline.slides.record import SlideRecord
from pipeline.tools.doctor.findings import Finding, ok, problem, warning


def examine_split(rows: Sequence[SheetRow], settings: Settings) -> Iterator[Finding]:
    """Yield whether patients can be kept apart, and whether those that are to be held out are in the sheet."""
    if settings.embed.encoder not in settings.runs:
        return
    pairs = [row for row in rows if row.dense]
    if not pairs:
        yield problem("split", "expected a slide with a dense partner to train on, found none")
        return
    by = settings.split.by
    patients = {row.patient for row in pairs}
    names = {row.slide for row in rows} if by == "slide" else {row.patient for row in rows}
    absent = sorted(set(settings.split.test) - names)
    if absent and by != "block":
        yield problem("split", f"split.test names what the sheet lacks: {', '.join(absent)}")
    if len(patients) > 1:
        yield ok("split", f"pairs of {len(patients)} patients")
    else:
        yield warning("split", "pairs of one patient only: blocks of tissue are held out, which flatters every encoder")
    if by == "patient" and len({row.patient for row in rows}) < 2:
        yield problem("split", "split.by is patient, found one patient")


def examine_runs(settings: Settings) -> Iterator[Finding]:
    """Yield findings on architectures, names of encoders, weights, crops, and the controls that a verdict needs."""
    if settings.embed.encoder not in settings.runs:
        return
    try:
        from pipeline.training.branches import check_names
        from pipeline.training.encoders import build_encoder
        from pipeline.training.pretrained import read_start
    except ImportError:
        return
    for name, run in settings.runs.items():
        size_px = run.size_px or settings.tile.size_px
        if size_px > settings.tile.size_px:
            yield problem(f"run {name}", f"size_px {size_px} is more than the patches' {settings.tile.size_px}")
            continue
        try:
            check_names(run.encoded)
            build_encoder(run.encoder, in_chans=3, size_px=size_px)
            if run.weights:
                read_start(Path(run.weights), run.encoder, size_px)
        except StatedError as error:
            yield problem(f"run {name}", str(error))
    if not baseline_of(settings.evaluate.baseline, settings.runs):
        yield warning("runs", "no run to compare the others with (evaluate.baseline): there will be no verdict")
    elif not any(run.pairing != "true" for run in settings.runs.values()):
        yield warning(
            "runs", "no control with pairing shuffled or blank: a gain could have other causes than the pairs"
        )
    else:
        yield ok("runs", f"{len(settings.runs)}, with a baseline and a control")


def examine_labels(rows: Sequence[SheetRow], settings: Settings) -> Iterator[Finding]:
    """Yield whether there is a table of classes for the runs that learn them."""
    if settings.embed.encoder not in settings.runs or any(row.classes and row.dense for row in rows):
        return
    for name, run in settings.runs.items():
        if run.learns_labels:
            yield problem(f"run {name}", "target is label, found no pair with a table in the sheet's column classes")


def examine_encoder(records: Sequence[SlideRecord], settings: Settings) -> Iterator[Finding]:
    """Yield an encoder from elsewhere: whole, and made for patches like these."""
    wanted = settings.embed.encoder
    if wanted in settings.runs:
        return
    try:
        from pipeline.embedding.encoder import Encoder
    except ImportError:
        return
    try:
        known = Encoder.load(Path(wanted)).description
    except StatedError as error:
        runs = ", ".join(settings.runs) or "none is configured"
        yield problem("encoder", f"embed.encoder is not a run ({runs}); {error}")
        return
    from pipeline.embedding.stage import MPP_TOLERANCE

    tile = settings.tile
    mpps = {record.slide: record.sparse.mpp if tile.mpp == "native" else float(tile.mpp) for record in records}
    expected = f"patches of {known.patch_px} px at {known.mpp:g} um/px, as {known.run} was trained on"
    remedy = f"set tile: {{size_px: {known.patch_px}, mpp: {known.mpp:g}}}"
    if tile.size_px != known.patch_px:
        yield problem("encoder", f"expected {expected}, found tile.size_px {tile.size_px}; {remedy}")
    unlike = {slide: mpp for slide, mpp in mpps.items() if abs(mpp / known.mpp - 1) > MPP_TOLERANCE}
    if unlike:
        shown = ", ".join(f"{slide} {mpp:g}" for slide, mpp in list(unlike.items())[:4])
        yield problem(
            "encoder",
            f"expected {expected} (within {MPP_TOLERANCE:.0%}), found {len(unlike)} others: {shown}; {remedy}",
        )
    if not unlike and tile.size_px == known.patch_px:
        yield ok("encoder", f"{known.architecture} of run {known.run}, {known.feature_dim} features")


def examine_probe(settings: Settings) -> Iterator[Finding]:
    """Yield a probe from elsewhere.

    Whole, fitted on features of the encoder that will embed, and good for some marker.
    """
    folder, encoder = settings.predict.probe, settings.embed.encoder
    if not folder:
        return
    try:
        from pipeline.embedding.encoder_description import read_description
        from pipeline.evaluation.probe_file import Probe
        from pipeline.prediction.choice import choose
    except ImportError:
        return
    try:
        probe = Probe.load(Path(folder))
        choice = choose(probe, settings.predict)
        found = read_description(Path(encoder)).sha256 if encoder not in settings.runs else ""
    except StatedError as error:
        yield problem("probe", str(error))
        return
    if found and found != probe.encoder:
        yield problem("probe", f"expected one for the encoder {found[:12]}, found one for {probe.encoder[:12]}")
    elif not choice.markers:
        yield warning("probe", f"no marker reaches predict.min_score {settings.predict.min_score:g}")
    else:
        yield ok("probe", f"of run {probe.run}: {', '.join(item.marker for item in choice.markers)}")
