"""The configuration, the sheet, and what the rules ask of them."""

import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from pipeline import provenance, settings as configuration
from pipeline.errors import StatedError
from pipeline.provenance import code_digest
from pipeline.settings import to_json
from pipeline.sheet import read_sheet
from pipeline.slides.companions import slide_files_of

try:
    # Snakemake has read these files already, but of a key that is given twice it took the last without a word.
    for path in workflow.configfiles:
        configuration.read_mapping(Path(path))
    SETTINGS = configuration.build(
        configuration.Settings, config, source="configuration"
    )
    SHEET = {row.slide: row for row in read_sheet(Path(SETTINGS.slides))}
except StatedError as error:
    raise WorkflowError(str(error)) from None

# An encoder from elsewhere needs neither training nor the dense side of any slide.
TRAINED = SETTINGS.embed.encoder in SETTINGS.runs
# Columns that speak of the dense side, which nothing asks for where nothing is trained.
DENSE_COLUMNS = (
    "dense",
    "transform",
    "dense_mpp",
    "markers",
    "dense_kind",
    "dense_image",
)
# The folder's own name, whatever way leads to it: `.` and `..` would lead out of the results.
EMBEDDING = Path(os.path.abspath(SETTINGS.embed.encoder)).name
if not TRAINED and not Path(SETTINGS.embed.encoder).is_dir():
    raise WorkflowError(
        f"embed.encoder: expected the name of a run ({', '.join(SETTINGS.runs) or 'none is configured'}) "
        f"or an encoder folder, found {SETTINGS.embed.encoder}"
    )
if not re.fullmatch(r"[^{}/\\]*[^{}/\\.]", EMBEDDING) or not EMBEDDING.isprintable():
    raise WorkflowError(
        f"embed.encoder: expected a folder whose name can name results, found {EMBEDDING!r}"
    )

# A probe from elsewhere, or the one that the embedding's own training gives.
PROBE = SETTINGS.predict.probe or (
    f"<results>/evaluate/probes/{EMBEDDING}" if TRAINED else ""
)
if SETTINGS.predict.probe and not Path(SETTINGS.predict.probe).is_dir():
    raise WorkflowError(
        f"predict.probe: expected the folder of a probe, found {SETTINGS.predict.probe}"
    )

for name, row in SHEET.items():
    for path in row.files:
        if "{" in path or "}" in path:
            raise WorkflowError(
                f"slide {name}: expected a path without braces, which Snakemake takes for wildcards, found {path}"
            )

SLIDES = list(SHEET)
PAIRED = [name for name, row in SHEET.items() if row.dense and TRAINED]

# What one process of a training asks a cluster for; `--set-threads train=N` says otherwise.
CLUSTER_THREADS = 8


def processes_per_run():
    """The processes of a training, one per GPU: `--set-resources train:gpu=N` asks for more than one."""
    asked = workflow.resource_settings.overwrite_resources.get("train", {}).get("gpu")
    value = getattr(asked, "value", asked)
    return max(1, value) if isinstance(value, int) else 1


wildcard_constraints:
    slide="[A-Za-z0-9_-]+",
    run="[A-Za-z0-9_-]+",
    name="[^/]+",


# Our own code reaches every rule from this checkout, also under --use-conda, whose environments hold third-party
# packages only. Without conda the interpreter is the one that runs Snakemake, whether its environment is active or not.
_prefix = (
    f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(provenance.SOURCE_ROOT))}; "
)
if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
    _prefix += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
shell.prefix(_prefix)


def register_python():
    """The interpreter that registers: without conda, that of .venv-valis where the engine asks for it."""
    own = provenance.SOURCE_ROOT / ".venv-valis" / "bin" / "python"
    with_conda = (
        DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    )
    # Where the folder is missing the stage itself says in one line what to do.
    if with_conda or SETTINGS.register.engine != "valis" or not own.exists():
        return "python"
    # By the variable that the prefix sets, so that a checkout that moves reruns nothing.
    return '"$PYTHONPATH"/.venv-valis/bin/python'


def slide_files(wildcards):
    """Return the files of a slide that exist or can be drawn, with all that belong to an image beside it.

    Inspect says of the others what is wrong with them.
    """
    row = SHEET[wildcards.slide]
    images = [row.sparse, *([row.dense] if TRAINED else [])]
    named = [*images, *([row.markers] if TRAINED else [])]
    there = [path for path in named if path and (Path(path).exists() or is_demo(path))]
    beside = [
        str(path)
        for image in images
        if image in there
        for path in slide_files_of(Path(image))[1:]
        if not set("{}") & set(str(path))
    ]
    return list(dict.fromkeys([*there, *beside]))


def given_transform(wildcards):
    """The transform that the sheet names for a slide, if it is a file."""
    path = SHEET[wildcards.slide].transform if TRAINED else ""
    return [path] if path not in ("", "identity") and Path(path).exists() else []


def given_tissue(wildcards):
    """The annotations that the sheet names for a slide, if there are any; tile says so where there are none."""
    path = SHEET[wildcards.slide].tissue
    return [path] if path and Path(path).exists() else []


def class_tables():
    """The table of classes of each pair for which the sheet names one."""
    return {name: SHEET[name].classes for name in PAIRED if SHEET[name].classes}


def sheet_value(column):
    """A function that looks one column of the sheet up; the dense side is hidden where nothing is trained."""

    def value(wildcards):
        hidden = column in DENSE_COLUMNS and not TRAINED
        found = getattr(SHEET[wildcards.slide], column)
        return "" if hidden or found is None else str(found)

    return value


def pair_files(wildcards):
    """The transform and the verdict of a slide that has a dense partner."""
    if wildcards.slide not in PAIRED:
        return {}
    folder = f"<results>/register/{wildcards.slide}"
    return {"transform": f"{folder}/transform.zarr", "qc": f"{folder}/qc.json"}


def paired_stores(wildcards):
    """The stores that training and evidence rest on; a sheet without any pair can still be tiled."""
    if not PAIRED:
        raise WorkflowError(
            f"{SETTINGS.slides}: expected a slide with a dense partner to train on, found none"
        )
    return [f"<results>/tile/{slide}.zarr" for slide in PAIRED]


def encoder_folder(wildcards):
    """The encoder that an embedding is made with."""
    if wildcards.name in SETTINGS.runs and TRAINED:
        return f"<results>/train/{wildcards.name}/encoder"
    return SETTINGS.embed.encoder


def per_attempt(mem_mb):
    """Memory in MB that grows with each attempt: a cluster kills what takes more, and `--retries` tries again."""

    def resource(wildcards, attempt):
        return mem_mb * attempt

    return resource


def cores_per_run(wildcards):
    """The threads of a training: a share of this machine's cores, or what a job on a cluster asks for.

    Several torch threads on contended cores are slower than one each. Inside a cluster's job the cores are its own.
    """
    cores = workflow.resource_settings.cores
    if cores is None:
        return CLUSTER_THREADS * processes_per_run()
    if workflow.remote_exec:
        return cores
    return max(processes_per_run(), cores // max(1, len(SETTINGS.runs)))


def run_settings(wildcards):
    """The settings of one training run as JSON."""
    return to_json(SETTINGS.runs[wildcards.run])


def given_weights(wildcards):
    """The weights that a run starts from, if they are there; train says so where they are not."""
    folder = SETTINGS.runs[wildcards.run].weights
    path = Path(folder) / "model.safetensors"
    return [str(path)] if folder and path.exists() else []


def learned_classes(wildcards):
    """The tables of classes of a run that learns them, so that a table that changes reruns no other one."""
    run = SETTINGS.runs[wildcards.run]
    if run.learns_labels and not class_tables():
        raise WorkflowError(
            f"{SETTINGS.slides}: expected a table in the column classes for some pair, because the target of run "
            f"{wildcards.run} is label, found none"
        )
    return class_tables() if run.learns_labels else {}


def is_demo(path):
    """Whether the rule `demo` can draw this file."""
    return Path(path).parts[:2] == ("resources", "demo")


def one_of(names):
    """A wildcard constraint that admits just these names."""
    return "|".join(names) or "(?!)"
