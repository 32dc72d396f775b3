"""Turn folders of slides into a cohort: find, recognise, pair, write, and report doubts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StatedError
from pipeline.progress import progress
from pipeline.provenance import finished
from pipeline.tools.doctor.findings import Finding, ok, warning
from pipeline.tools.init.configuration import (
    embedding_text,
    patches_for,
    tiling_text,
    training_for,
    training_text,
)
from pipeline.tools.init.files import slide_files
from pipeline.tools.init.names import Patients
from pipeline.tools.init.pairs import Paired, Proposal, propose_pairs
from pipeline.tools.init.recognise import Recognised, recognise
from pipeline.tools.init.sheet import Row, rows_of, sheet_text

if TYPE_CHECKING:
    from pipeline.embedding.encoder_description import EncoderDescription

SHEET, CONFIGURATION = Path("config/slides.tsv"), Path("config/config.yaml")
# Opening waits for the disk more than for the processor.
_READERS = 8


@dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Attributes:
        slides: folders, lists and files to look through.
        patients: how a path names the patient.
        encoder: an encoder's folder, for a cohort of H&E alone; None for one that trains.
        hours: that the three trainings may take where there is no GPU.
    """

    slides: tuple[Path, ...]
    patients: Patients
    encoder: Path | None
    hours: float


def init(folder: Path, wishes: Wishes) -> Iterator[Finding]:
    """Write sheet and configuration of a cohort, and yield what was found and what is unsure.

    Raises:
        StatedError: if one of the two files is there already, a place is not there, no H&E slide is found, or the
            encoder is none. Then nothing is written.
    """
    for name in (SHEET, CONFIGURATION):
        if os.path.lexists(folder / name):
            raise StatedError(file=folder / name, expected="no cohort there yet", found="this file")
    known = _description(wishes.encoder) if wishes.encoder else None
    found = slide_files(wishes.slides)
    yield from found.findings
    files: list[Recognised] = []
    for (path, _), seen in zip(found.files, _recognised(found.files), strict=True):
        if isinstance(seen, StatedError):
            yield warning(f"file {path}", f"left out: expected {seen.expected}, found {seen.found}")
        else:
            files.append(seen)
    paired = _alone(files) if known else propose_pairs(files)
    rows = rows_of(paired.slides, wishes.patients)
    yield from _doubts(rows, paired, wishes)
    running = [row for row in rows if row.runs]
    if not running:
        folders = ", ".join(str(folder) for folder in wishes.slides)
        raise StatedError(file=folders, expected="an H&E slide that can run", found=f"none in {len(found.files)} files")
    pairs = [row for row in running if row.proposal.dense]
    yield from _summary(running, pairs)
    if known and wishes.encoder:
        text = embedding_text(wishes.encoder, known.patch_px, known.mpp, _probe_of(wishes.encoder), folder)
    else:
        patches = patches_for([row.proposal.sparse for row in pairs or running])
        yield ok("patches", f"{patches.size_px} px of {patches.mpp:g} um: {patches.reason}")
        text = tiling_text(patches)
        if pairs:
            training = training_for(patches, gpus=_gpus(), cores=os.cpu_count() or 1, hours=wishes.hours)
            text = training_text(patches, training)
            yield ok("training", f"{training.encoder}, {training.epochs} epochs: {training.reason}")
    alone = [] if known else paired.alone
    sheet = sheet_text(rows, alone, folder, knows_patients=wishes.patients.pattern is not None)
    (folder / SHEET).parent.mkdir(parents=True, exist_ok=True)
    for name, content in ((SHEET, sheet), (CONFIGURATION, text)):
        with finished(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
        yield ok("written", str(folder / name))


def _description(encoder: Path) -> EncoderDescription:
    # Brings torch along, which a cohort that trains does not ask for yet.
    from pipeline.embedding.encoder_description import read_description

    return read_description(encoder)


def _recognised(files: Sequence[tuple[Path, Path]]) -> Iterator[Recognised | StatedError]:
    with ThreadPoolExecutor(_READERS) as readers:
        seen = readers.map(lambda item: recognise(*item), files)
        yield from progress(seen, label="init", unit="files", total=len(files))


def _alone(files: Sequence[Recognised]) -> Paired:
    """Return a slide per H&E file; what an encoder of H&E embeds needs no partner."""
    return Paired(tuple(Proposal(item) for item in files if item.side == "sparse"), ())


def _doubts(rows: Sequence[Row], paired: Paired, wishes: Wishes) -> Iterator[Finding]:
    for row in rows:
        yield from (warning(f"slide {row.slide}", doubt) for doubt in row.doubts)
        if row.needs:
            yield warning(f"slide {row.slide}", f"cannot run yet, a comment in the sheet: {row.needs}")
    for item in paired.alone if wishes.encoder is None else ():
        yield warning(f"file {item.path}", f"no H&E found for it{f'; {item.needs}' if item.needs else ''}")
    if paired.too_many:
        yield warning("pairs", "too many files without a common name to compare by content: name partners alike")
    if wishes.patients.pattern is None and len(rows) > 1 and wishes.encoder is None:
        yield warning("patients", "each slide counts as a separate patient; --patient-regex names them by their paths")


def _summary(running: Sequence[Row], pairs: Sequence[Row]) -> Iterator[Finding]:
    by = Counter(row.proposal.by for row in pairs)
    how = ", ".join(f"{count} by {name}" for name, count in sorted(by.items(), reverse=True))
    patients = len({row.patient for row in running})
    yield ok("slides", f"{len(running)} of {patients} patients, {len(pairs)} of them pairs{f' ({how})' if how else ''}")
    panels = Counter(row.proposal.dense.channels for row in pairs if row.proposal.dense)
    if panels:
        channels, count = panels.most_common(1)[0]
        shown = ", ".join(channels[:8]) + (f" and {len(channels) - 8} others" if len(channels) > 8 else "")
        others = f"; others in {len(pairs) - count} of {len(pairs)} pairs" if count < len(pairs) else ""
        yield ok("channels", f"{shown}{others}")


def _probe_of(encoder: Path) -> Path | None:
    """Return the probe that evaluate kept of an encoder in its own cohort's results (train/RUN/encoder)."""
    run = Path(os.path.abspath(encoder)).parent  # noqa: PTH100
    probe = run.parents[1] / "evaluate" / "probes" / run.name
    return probe if encoder.name == "encoder" and run.parent.name == "train" and probe.is_dir() else None


def _gpus() -> int:
    """Return how many GPUs the driver lists; torch, which says so too, takes more memory than a thousand slides."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0
