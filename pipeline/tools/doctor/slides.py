"""Open the slides of a sheet as inspect would, without reading them through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.marker_names import Aliases, check_overlap, panel_of, respelt
from pipeline.registration.stain import channel_named, nuclear_channel
from pipeline.settings import Settings
from pipeline.sheet import SheetRow
from pipeline.slides.chosen_mpp import Tell
from pipeline.slides.kinds import kind_named
from pipeline.slides.kinds.base import PointKind
from pipeline.slides.record import SlideRecord
from pipeline.slides.stage import inspect_slide
from pipeline.tiling.annotations import read_annotations
from pipeline.tiling.stage import FINER_TOLERANCE, qupath_origin
from pipeline.tools.doctor.findings import Finding, ok, problem, warning
from pipeline.tools.doctor.shared_images import shared_images
from pipeline.tools.doctor.tissue import examine_tissue
from pipeline.training.components import component_panel, run_panel
from pipeline.training.rows import MPP_TOLERANCE

# A dense pixel that covers more than 4 x 4 patch pixels shows no cell any more.
_COARSE_DENSE = 4.0


@dataclass(frozen=True)
class Examined:
    """A sheet after a look at each slide: what opens, and what was found."""

    records: tuple[SlideRecord, ...]
    findings: tuple[Finding, ...]


def examine_slides(rows: Sequence[SheetRow], settings: Settings) -> Examined:
    """Open both sides of every slide, and report the faults of both."""
    records: list[SlideRecord] = []
    findings: list[Finding] = []
    drawn = [row for row in rows if _is_drawn_first(row)]
    rows = [row for row in rows if row not in drawn]
    for row in rows:
        remarks: list[str] = []
        record, faults = _examined(row, settings, remarks.append)
        findings += [warning(f"slide {row.slide}", line.removeprefix(f"slide {row.slide}, ")) for line in remarks]
        findings += [problem(f"slide {row.slide}", fault) for fault in faults]
        if record is not None:
            records.append(record)
            findings += _resolution(record, settings)
            findings += _nuclei(record, settings)
            findings += _tissue(record, row, settings)
        findings += _classes(row)
    pairs = sum(record.dense is not None for record in records)
    opened = f"{len(records)} of {len(rows)} open, {pairs} of them pairs"
    if drawn:
        findings.insert(0, ok("slides", f"{len(drawn)} of the demo, which the workflow draws first"))
    if rows:
        findings.insert(0, ok("slides", opened) if len(records) == len(rows) else problem("slides", opened))
    findings += shared_images(rows, settings)
    findings += _one_resolution(records, settings)
    return Examined(tuple(records), tuple(findings))


def _is_drawn_first(row: SheetRow) -> bool:
    """Return whether the rule demo makes the slide's missing files (see is_demo in workflow/rules/sheet.smk)."""
    missing = [Path(path) for path in (row.sparse, row.dense) if path and not Path(path).exists()]
    return bool(missing) and all(path.parts[:2] == ("resources", "demo") for path in missing)


def _examined(row: SheetRow, settings: Settings, tell: Tell) -> tuple[SlideRecord | None, list[str]]:
    try:
        return inspect_slide(row, settings.inspect, hashed=False, tell=tell), []
    except StatedError as error:
        faults = [_without_slide(error)]
    if row.dense and not (row.dense_kind and isinstance(kind_named(row.dense_kind), PointKind)):
        # The sparse side may have hidden a second fault: the pair is looked at once more from the other side.
        for alone in (
            replace(row, dense="", dense_mpp=None, markers="", transform="", dense_kind="", dense_image=""),
            replace(
                row,
                sparse=row.dense,
                sparse_mpp=row.dense_mpp,
                dense="",
                dense_mpp=None,
                markers="",
                transform="",
                dense_kind="",
                sparse_image=row.dense_image,
                dense_image="",
            ),
        ):
            try:
                inspect_slide(alone, settings.inspect, hashed=False, tell=lambda _: None)
            except StatedError as error:
                fault = _without_slide(error)
                # A multiplex image is no RGB one, and need not be.
                if fault not in faults and "on the sparse side" not in error.expected:
                    faults.append(fault.replace("sparse_mpp", "dense_mpp") if alone.sparse == row.dense else fault)
    return None, list(dict.fromkeys(faults))


def _without_slide(error: StatedError) -> str:
    return str(StatedError(expected=error.expected, found=error.found, file=error.file))


def _resolution(record: SlideRecord, settings: Settings) -> Iterator[Finding]:
    """Yield the patches' um per pixel against the slide's: tile refuses to invent detail."""
    subject, wanted = f"slide {record.slide}", settings.tile.mpp
    mpp = record.sparse.mpp if wanted == "native" else float(wanted)
    if mpp < record.sparse.mpp * FINER_TOLERANCE:
        yield problem(subject, f"expected tile.mpp {record.sparse.mpp:g} or coarser, found {mpp:g} um/px")
    is_image = record.dense is not None and kind_named(record.dense.kind).is_image
    if record.dense is not None and is_image and record.dense.mpp > mpp * _COARSE_DENSE:
        found = f"dense side of {record.dense.mpp:g} um/px for patches of {mpp:g} um/px: too coarse to show cells"
        yield warning(subject, found)
    width_um, height_um = record.sparse.extent_um
    side_um = settings.tile.size_px * mpp
    if min(width_um, height_um) < side_um:
        yield problem(subject, f"{width_um:.0f} x {height_um:.0f} um, smaller than one patch of {side_um:.0f} um")


def _nuclei(record: SlideRecord, settings: Settings) -> Iterator[Finding]:
    if record.dense is None or kind_named(record.dense.kind).nuclei != "channel":
        return
    try:
        if settings.register.channel is not None:
            channel_named(record.dense.channels, settings.register.channel)
        if settings.register.channel is None or settings.register.nuclear_channel is not None:
            nuclear_channel(record.dense.channels, settings.register.nuclear_channel)
    except StatedError as error:
        yield problem(f"slide {record.slide}", str(error))
    unnamed = [name for name in record.dense.channels if name[:1] == "C" and name[1:].isdecimal()]
    if unnamed:
        yield warning(
            f"slide {record.slide}", f"channels without a name: {', '.join(unnamed)}; the column markers names them"
        )


def _tissue(record: SlideRecord, row: SheetRow, settings: Settings) -> Iterator[Finding]:
    """Yield the annotations of a slide, read as tile will read them, or what it will find without."""
    if not row.tissue:
        yield from examine_tissue(record)
    else:
        try:
            origin_px = qupath_origin(record, settings.tile)
            read_annotations(Path(row.tissue), record.sparse.size_xy, slide=record.slide, origin_px=origin_px)
        except StatedError as error:
            yield problem(f"slide {record.slide}", _without_slide(error))


def _classes(row: SheetRow) -> Iterator[Finding]:
    """Yield whether the table of classes is there that evaluate reads hours later.

    Of slides without pairs it reads none.
    """
    if row.classes and row.dense and not Path(row.classes).is_file():
        yield problem(f"slide {row.slide}", f"file {row.classes}: expected a table of classes, found no such file")


def examine_paths(rows: Sequence[SheetRow]) -> Iterator[Finding]:
    """Yield paths that the workflow refuses, of all columns, also those that a run without training does not read."""
    for row in rows:
        for path in row.files:
            if "{" in path or "}" in path:
                yield problem(f"slide {row.slide}", f"expected a path without braces, found {path}")


def _one_resolution(records: Sequence[SlideRecord], settings: Settings) -> Iterator[Finding]:
    """Yield native patches of slides of several resolutions cannot be trained on together."""
    if settings.tile.mpp != "native" or not records:
        return
    trained = [record for record in records if record.dense is not None and settings.embed.encoder in settings.runs]
    for group, said in ((trained, problem), (records, warning)):
        mpps = {record.slide: record.sparse.mpp for record in group}
        if mpps and max(mpps.values()) > min(mpps.values()) * (1 + MPP_TOLERANCE):
            low, high = min(mpps, key=mpps.__getitem__), max(mpps, key=mpps.__getitem__)
            found = f"native patches from {mpps[low]:g} ({low}) to {mpps[high]:g} um/px ({high}); set tile.mpp"
            yield said("resolution", found)
            return


def markers_agree(records: Sequence[SlideRecord], settings: Settings) -> Iterator[Finding]:
    """Yield markers by how many slides have them: what only one slide has is often another name of a known one.

    Those that a run chooses are looked for among them.
    """
    sides = {record.slide: record.dense for record in records if record.dense is not None}
    channels = {slide: kind_named(side.kind).value_names(side) for slide, side in sides.items()}
    if not channels:
        return
    aliases = Aliases(settings.panel.aliases, settings.panel.known_aliases)
    try:
        joint = panel_of(channels, aliases)
    except StatedError as error:
        yield problem("markers", str(error))
        return
    try:
        check_overlap(joint, channels)
    except StatedError as error:
        yield warning("markers", str(error))
    for name, run in settings.runs.items():
        if set(run.modalities) == {"sparse"}:
            continue
        try:
            panel, components = run_panel(channels, aliases, run.markers, run.branches)
        except StatedError as error:
            yield problem(f"run {name}", str(error))
            continue
        try:
            for component in components.values():
                check_overlap(component_panel(panel, component), channels)
        except StatedError as error:
            yield warning(f"run {name}", str(error))
    counts = Counter(index for indices in joint.indices.values() for index in indices)
    alone = [joint.markers[place] for place, count in counts.items() if count == 1] if len(channels) > 1 else []
    said = f"{len(joint.markers)} in {len(channels)} pairs" + (
        f"; in one only: {', '.join(alone[:8])}" if alone else ""
    )
    names = [" = ".join(group) for group in respelt([name for side in channels.values() for name in side], aliases)]
    said += f"; taken as one: {', '.join(names)}" if names else ""
    yield ok("markers", said)
