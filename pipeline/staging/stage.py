"""The stage stage: a slide that lies elsewhere is fetched, checked by what inspect saw, and read like any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.elsewhere.address import file_name, is_elsewhere, is_zarr_address
from pipeline.elsewhere.opening import open_source
from pipeline.elsewhere.source import Source
from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.provenance import finished
from pipeline.settings import StagingSettings
from pipeline.slides.kinds import kind_named
from pipeline.slides.opening import open_slide
from pipeline.slides.record import SideRecord, SlideRecord, to_mapping
from pipeline.slides.stage import check_planes, source_digest
from pipeline.staging.fetching import fetch
from pipeline.staging.room import clear, room_for

RECORD = "record.json"
_SAME_MPP = 1e-3


def stage_slide(record: SlideRecord, out: Path, settings: StagingSettings) -> SlideRecord:
    """Fetch the images of a slide that lie elsewhere into a folder, and write a record of them as they are there.

    An image that is here, or OME-Zarr, which is read where it lies, keeps its place. What an earlier attempt fetched of
    the same version of a file is not fetched again.

    Args:
        record: of inspect.
        out: the folder to write; `record.json` in it is what later stages read.
        settings: of the stage.

    Returns:
        The record that was written.

    Raises:
        StatedError: if a file cannot be read, is not the one that was inspected, shows something else, or there is no
            room for it.
    """
    sides = {name: side for name, side in _sides(record).items() if is_staged(side)}
    sources = {name: _opened(side, record.slide) for name, side in sides.items()}
    size = sum(source.state.size for source in sources.values())
    with room_for(out.parent, record.slide, size, settings) as parts:
        for name, source in sources.items():
            _fetch(source, parts / name, f"stage {record.slide} {name}", settings, record.slide)
        with finished(out) as temporary:
            found = {}
            for name, side in sides.items():
                place = temporary / name / file_name(side.path)
                place.parent.mkdir(parents=True)
                (parts / name).replace(place)
                final = out / name / place.name
                found[name] = replace(_seen(side, place, record.slide), path=str(final))
            whole = replace(record, sparse=found.get("sparse", record.sparse), dense=found.get("dense", record.dense))
            text = json.dumps(to_mapping(whole), indent=2, ensure_ascii=False) + "\n"
            (temporary / RECORD).write_text(text, encoding="utf-8")
        clear(parts)
    return whole


def is_staged(side: SideRecord) -> bool:
    """Return whether an image has to be fetched."""
    return is_elsewhere(side.path) and not is_zarr_address(side.path)


def _sides(record: SlideRecord) -> Mapping[str, SideRecord]:
    return {"sparse": record.sparse} | ({"dense": record.dense} if record.dense else {})


def _opened(side: SideRecord, slide: str) -> Source:
    try:
        source = open_source(side.path)
    except StatedError as error:
        raise StatedError(slide=slide, file=side.path, expected=error.expected, found=error.found) from None
    if str(source.state) != side.state:
        expected = f"the file as inspected, {side.state}"
        found = f"{source.state}: it changed; delete the record of inspect to inspect it again"
        raise StatedError(slide=slide, file=side.path, expected=expected, found=found)
    return source


def _fetch(source: Source, part: Path, label: str, settings: StagingSettings, slide: str) -> None:
    """Complete a part; one of another version of the file is begun anew."""
    state = part.with_name(f"{part.name}.json")
    told = json.dumps({"address": source.address, "state": str(source.state)})
    if not state.is_file() or state.read_text(encoding="utf-8") != told:
        part.unlink(missing_ok=True)
        state.write_text(told, encoding="utf-8")
    there = part.stat().st_size if part.exists() else 0
    resumed = f", goes on at byte {there}" if there else ""
    say(f"{label}: {source.state.size / 1e6:.1f} MB of {source.address}{resumed}")
    try:
        fetch(source, part, connections=settings.connections, label=label)
    except StatedError as error:
        raise StatedError(slide=slide, file=error.file, expected=error.expected, found=error.found) from None


def _seen(side: SideRecord, path: Path, slide: str) -> SideRecord:
    """Return the record of an image that was fetched, opened as one that always was here."""
    kind = kind_named(side.kind)
    with open_slide(path, slide=slide, image=side.image, shows=kind.shows) as opened:
        check_planes(opened)
        header = opened.header
    found = (header.size_xy, len(header.channels), header.dtype)
    wanted = (side.size_xy, len(side.channels), side.dtype)
    if found != wanted:
        raise StatedError(slide=slide, file=side.path, expected=f"the image as inspected, {wanted}", found=f"{found}")
    mpp = side.mpp
    if side.mpp_source == "file" and header.mpp is not None:
        if abs(header.mpp - side.mpp) > _SAME_MPP * side.mpp:
            found_mpp = f"{header.mpp:.6g}"
            raise StatedError(
                slide=slide, file=side.path, expected=f"{side.mpp:.6g} um/px as inspected", found=found_mpp
            )
        mpp = header.mpp
    return replace(
        side,
        reader=header.reader,
        mpp=mpp,
        levels=header.levels,
        bounds_xy=header.bounds_xy,
        sha256=source_digest(path),
        state="",
    )
