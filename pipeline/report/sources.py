"""What a page was made from: the hash of every result that it shows, by its path below the results folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.provenance import file_digest
from pipeline.report.results import Results


def sources(folder: Path, sheet: Path, results: Results, embedding: str) -> dict[str, str]:
    """Hash by name of the sheet and of what there is in the results folder.

    A store goes by what it says of itself, features by the table of slide vectors, which names each file's hash, and
    pictures by the qc.json or markers.json that they lie beside: neither pixels nor features are read through for it.
    """
    names = [f"inspect/{item.slide}.json" for item in results.slides]
    names += [f"panel/{item.slide}.json" for item in results.slides]
    names += [f"register/{item.slide}/qc.json" for item in results.slides]
    names += ["split/patches.tsv", "split/split.json", *(f"train/{run}/metrics.jsonl" for run in results.curves)]
    # An encoder's description says whether its run is a control, and so what the page calls it.
    names += [path.relative_to(folder).as_posix() for path in sorted(folder.glob("train/*/encoder/config.json"))]
    names += ["evaluate/summary.tsv", "evaluate/details.json", f"embed/{embedding}/slides.parquet"]
    names += [f"predict/{embedding}/{item.slide}/markers.json" for item in results.slides]
    found = {"sheet": file_digest(sheet)}
    found |= {name: file_digest(folder / name) for name in names if (folder / name).is_file()}
    stores = {f"tile/{item.slide}.zarr": item.store.path / "zarr.json" for item in results.slides if item.store}
    return found | {name: file_digest(path) for name, path in stores.items()}
