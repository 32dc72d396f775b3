"""Run all checks one after the other; a problem found by one does not stop the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.settings import Settings, load
from pipeline.sheet import SheetRow, read_sheet
from pipeline.tools.doctor.environment import examine_engine, examine_packages, examine_python
from pipeline.tools.doctor.findings import Finding, ok, problem


def examine(config: Path, results: Path, *, use_conda: bool) -> Iterator[Finding]:
    """Yield what is found, in the order in which a run would meet it.

    Args:
        config: the configuration; paths in it and in its sheet are relative to the working directory.
        results: where the results will lie.
        use_conda: whether the run will make its own environments.
    """
    yield from examine_python()
    yield from examine_packages(use_conda=use_conda)
    try:
        settings = load(config)
    except StatedError as error:
        yield problem("configuration", str(error))
        return
    yield ok("configuration", f"{config}, {len(settings.runs)} runs")
    yield from examine_engine(settings.register.engine, use_conda=use_conda)
    try:
        rows = read_sheet(Path(settings.slides))
    except StatedError as error:
        yield problem("sheet", str(error))
        return
    yield ok("sheet", f"{settings.slides}, {len(rows)} slides of {len({row.patient for row in rows})} patients")
    yield from _examine_cohort(rows, settings, results)


def _examine_cohort(rows: tuple[SheetRow, ...], settings: Settings, results: Path) -> Iterator[Finding]:
    # Imported here, so that a broken environment is reported before it breaks the import.
    from pipeline.tools.doctor.resources import examine_disk, examine_gpu, examine_memory
    from pipeline.tools.doctor.runs import examine_encoder, examine_labels, examine_probe, examine_runs, examine_split
    from pipeline.tools.doctor.slides import examine_paths, examine_slides, markers_agree

    yield from examine_paths(rows)
    if settings.embed.encoder not in settings.runs:
        # As in the workflow: without a training no dense side is read.
        rows = tuple(
            SheetRow(
                row.slide,
                row.patient,
                row.sparse,
                sparse_mpp=row.sparse_mpp,
                tissue=row.tissue,
                sparse_image=row.sparse_image,
            )
            for row in rows
        )
    examined = examine_slides(rows, settings)
    yield from examined.findings
    yield from markers_agree(examined.records, settings)
    yield from examine_split(rows, settings)
    yield from examine_runs(settings)
    yield from examine_labels(rows, settings)
    yield from examine_encoder(examined.records, settings)
    yield from examine_probe(settings)
    yield from examine_disk(examined.records, settings, results)
    yield from examine_memory()
    yield from examine_gpu(settings)
