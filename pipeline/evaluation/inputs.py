"""Name the inputs of the stage evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.evaluation.reading import Cohort
from pipeline.provenance import file_digest
from pipeline.settings import PanelSettings


@dataclass(frozen=True)
class EvaluationInputs:
    """The files of an evaluation.

    Attributes:
        stores: folder of the stores `{slide}.zarr`.
        split: `patches.tsv` of the stage split.
        embeddings: folder that holds one folder of features per run.
        runs: names of the runs, in the order of the table.
        repeats: for each run that repeats another one with a further seed, the name of that one; its scores join
            those of the other.
        panel: what slides call the same marker.
        trainings: folder that holds, for every run, RUN/encoder and RUN/branches.safetensors; without it no dense
            patches are looked for from H&E, the dense side cannot be probed, and nothing tells which markers a
            training saw.
        classes: for each slide that has one, the table of its classes.
        probes: for runs whose ridge probes evaluate-probe has fitted, their folder: they are not fitted again.
    """

    stores: Path
    split: Path
    embeddings: Path
    runs: Sequence[str]
    repeats: Mapping[str, str] = field(default_factory=dict)
    panel: PanelSettings = field(default_factory=PanelSettings)
    trainings: Path | None = None
    classes: Mapping[str, Path] = field(default_factory=dict)
    probes: Mapping[str, Path] = field(default_factory=dict)

    def digests(self, cohort: Cohort) -> dict[str, str]:
        """Return the hash of the split, of each store, of each run's features, and of tables and probes, by name."""
        inputs = {self.split.name: file_digest(self.split)}
        for slide in cohort.slides:
            name = slide.slide
            inputs[f"tile/{name}.zarr"] = file_digest(self.stores / f"{name}.zarr" / "zarr.json")
            inputs |= {f"embed/{run}/{name}.h5": file_digest(self.embeddings / run / f"{name}.h5") for run in self.runs}
        inputs |= {f"classes/{name}": file_digest(path) for name, path in self.classes.items()}
        return inputs | {f"probes/{run}": file_digest(path) for run, path in self.probes.items()}
