"""The configuration, the sheet, and what the rules ask of them."""

import re
from dataclasses import replace
from pathlib import Path

from snakemake.exceptions import WorkflowError

from pipeline import settings as configuration
from pipeline.embedding.given_encoder import encoder_digest, results_name
from pipeline.errors import StatedError
from pipeline.outcomes.table import read_outcomes
from pipeline.provenance import code_digest, file_digest
from pipeline.settings import CHECK_KEYS, NAME_KEYS, PROBE_KEYS, to_json
from pipeline.settings.evaluate import baseline_of
from pipeline.sheet import read_sheet

try:
    # Snakemake has read these files already, but of a key that is given twice it took the last without a word.
    for path in configuration_files():
        configuration.read_mapping(path)
    SETTINGS = configuration.build(
        configuration.Settings, config, source="configuration"
    )
    SHEET = {row.slide: row for row in read_sheet(Path(SETTINGS.slides))}
    if SETTINGS.outcomes.table:
        # Before any slide is read: the stage itself comes last.
        read_outcomes(
            Path(SETTINGS.outcomes.table),
            SETTINGS.outcomes,
            {row.patient for row in SHEET.values()},
        )
except StatedError as error:
    raise WorkflowError(str(error)) from None

if WITH_CONTAINERS and not SETTINGS.containers.slides:
    stop("containers.slides: expected an image, because of --sdm apptainer, found none")
if WITH_CONTAINERS and SETTINGS.register.engine == "valis":
    if not SETTINGS.containers.valis:
        stop(
            "containers.valis: expected an image, because of register.engine: valis, found none"
        )


def image_of(environment):
    """Return the image that a rule runs in under `--sdm apptainer`, None without one."""
    return getattr(SETTINGS.containers, environment) or None


for name, row in SHEET.items():
    for path in row.files:
        if "{" in path or "}" in path:
            raise WorkflowError(
                f"slide {name}: expected a path without braces, which Snakemake takes for wildcards, found {path}"
            )

# Where neither is true, no encoder is configured: slides can be inspected, registered and tiled, but not embedded.
TRAINED = SETTINGS.embed.encoder in SETTINGS.runs
FROM_ELSEWHERE = not TRAINED and Path(SETTINGS.embed.encoder).is_dir()
# A run's results have its name. Those of an encoder from elsewhere name its run and hash: never in another one's place.
EMBEDDING = (
    results_name(Path(SETTINGS.embed.encoder))
    if FROM_ELSEWHERE
    else SETTINGS.embed.encoder
)
if FROM_ELSEWHERE and (
    not re.fullmatch(r"[^{}/\\]*[^{}/\\.]", EMBEDDING) or not EMBEDDING.isprintable()
):
    raise WorkflowError(
        f"embed.encoder: expected a folder whose name can name results, found {EMBEDDING!r}"
    )

SLIDES = list(SHEET)
# Where slides that lie elsewhere are fetched to.
STAGED = outside("resources/staged/{slide}")
PAIRED = [name for name, row in SHEET.items() if row.dense and not FROM_ELSEWHERE]

# Those whose dense side is fluorescence or may be: of the others the sheet says that there is no panel to check.
CHECKED = [name for name in PAIRED if SHEET[name].dense_kind in ("", "fluorescence")]

# The embeddings whose slide vectors are asked for what is known of patients.
OUTCOME_RUNS = list(SETTINGS.runs) if TRAINED else [EMBEDDING]

# What one process of a training asks a cluster for; `--set-threads train=N` says otherwise.
CLUSTER_THREADS = 8


def given_transform(wildcards):
    """The transform that the sheet names for a slide, if it is a file."""
    path = "" if FROM_ELSEWHERE else SHEET[wildcards.slide].transform
    return (
        [outside(path)] if path not in ("", "identity") and Path(path).exists() else []
    )


def given_tissue(wildcards):
    """The annotations that the sheet names for a slide, if there are any; tile says so where there are none."""
    path = SHEET[wildcards.slide].tissue
    return [outside(path)] if path and Path(path).exists() else []


def class_tables():
    """The table of classes of each pair for which the sheet names one."""
    return {name: SHEET[name].classes for name in PAIRED if SHEET[name].classes}


def pair_files(wildcards):
    """The transform and the verdict of a slide that has a dense partner."""
    if wildcards.slide not in PAIRED:
        return {}
    folder = f"<results>/register/{wildcards.slide}"
    return {"transform": f"{folder}/transform.zarr", "qc": f"{folder}/qc.json"}


def background_check(wildcards):
    """The check that tile takes the factors from, where autofluorescence is to be subtracted."""
    wanted = SETTINGS.panel.background == "subtract" and wildcards.slide in CHECKED
    return [f"<results>/panel/{wildcards.slide}.json"] if wanted else []


def dropped_channels(wildcards):
    """The checks that say which channels a run leaves out, if it is to leave any out and looks at the dense side."""
    looks = set(SETTINGS.runs[wildcards.run].modalities) != {"sparse"}
    wanted = SETTINGS.panel.drop == "auto" and looks
    return collect("<results>/panel/{slide}.json", slide=CHECKED) if wanted else []


def paired_stores(wildcards):
    """Return the stores that split, training and evidence rest on."""
    if not PAIRED:
        stop(
            f"{SETTINGS.slides}: expected a slide with a dense partner to train on, found none"
        )
    return [f"<results>/tile/{slide}.zarr" for slide in PAIRED]


def encoder_folder(wildcards):
    """Return the encoder that an embedding is made with."""
    if wildcards.name in SETTINGS.runs and not FROM_ELSEWHERE:
        return f"<results>/train/{wildcards.name}/encoder"
    check_encoder()
    return outside(SETTINGS.embed.encoder)


def encoder_hash(wildcards):
    """Return the hash of an encoder from elsewhere: a file that takes its place may be older than the results."""
    return encoder_digest(Path(SETTINGS.embed.encoder)) if FROM_ELSEWHERE else ""


def probe_folder(wildcards):
    """Return the probe that predicts: one from elsewhere, or that of the embedding's own training."""
    if SETTINGS.predict.probe:
        if not Path(SETTINGS.predict.probe).is_dir():
            stop(
                f"predict.probe: expected the folder of a probe, found {SETTINGS.predict.probe}"
            )
        return outside(SETTINGS.predict.probe)
    if not TRAINED:
        stop(
            "predict.probe: expected the folder of a probe for an encoder from elsewhere, found none"
        )
    return f"<results>/evaluate/probes/{wildcards.name}"


def probe_hash(wildcards):
    """Return the hash of a probe from elsewhere."""
    folder = Path(SETTINGS.predict.probe or ".")
    return file_digest(folder) if SETTINGS.predict.probe and folder.is_dir() else ""


def patient_table(wildcards):
    """Return the table of patients that outcomes reads."""
    if not SETTINGS.outcomes.table:
        stop("outcomes.table: expected the table of patients, found none")
    check_encoder()
    return outside(SETTINGS.outcomes.table)


def outcome_baseline():
    """Return the run that slide vectors of the others are compared with; empty for none."""
    single = [name for name, run in SETTINGS.runs.items() if not run.repeats]
    return baseline_of(SETTINGS.evaluate.baseline, single) if TRAINED else ""


def check_encoder():
    """Stop the plan unless there is an encoder to embed with."""
    if not TRAINED and not FROM_ELSEWHERE:
        stop(
            f"embed.encoder: expected the name of a run ({', '.join(SETTINGS.runs) or 'none is configured'}) "
            f"or an encoder folder, found {SETTINGS.embed.encoder}"
        )


def per_attempt(mem_mb):
    """Memory in MB that grows with each attempt: a cluster kills what takes more, and `--retries` tries again."""

    def resource(wildcards, attempt):
        return mem_mb * attempt

    return resource


def cores_per_run(wildcards):
    """Return the threads of a training: a share of this machine's cores, or what a job on a cluster asks for.

    Several torch threads on contended cores are slower than one each. Inside a cluster's job the cores are its own.
    """
    if CORES is None:
        return CLUSTER_THREADS * processes_per_run()
    if IN_A_CLUSTER_JOB:
        return CORES
    return max(processes_per_run(), CORES // max(1, len(SETTINGS.runs)))


def run_settings(wildcards):
    """Return the settings of one training run as JSON, without the name of the run that it repeats."""
    return to_json(SETTINGS.runs[wildcards.run], without=("repeats",))


def run_panel(wildcards):
    """Return the aliases of markers as JSON for a run that looks at the dense side; others see no marker."""
    looks = set(SETTINGS.runs[wildcards.run].modalities) != {"sparse"}
    return to_json(SETTINGS.panel, only=NAME_KEYS) if looks else "{}"


def given_weights(wildcards):
    """Return the weights that a run starts from, if they are there; train says so where they are not."""
    folder = SETTINGS.runs[wildcards.run].weights
    path = Path(folder) / "model.safetensors"
    return [outside(str(path))] if folder and path.exists() else []


def weights_hash(wildcards):
    """Return the hash of the weights that a run starts from."""
    paths = given_weights(wildcards)
    return file_digest(Path(paths[0])) if paths else ""


def split_test():
    """Return those names of `split.test` that have a slide with a dense partner, or that the sheet does not know."""
    column = "slide" if SETTINGS.split.by == "slide" else "patient"
    paired = {getattr(SHEET[name], column) for name in PAIRED}
    spare = {getattr(row, column) for row in SHEET.values()} - paired
    return tuple(name for name in SETTINGS.split.test if name not in spare)


def split_stores(wildcards):
    """Return the stores to split, which are those of slides with a dense partner: no other one is trained on."""
    if SETTINGS.split.test and not split_test():
        stop(
            f"split.test: expected names with a slide that has a dense partner, found {', '.join(SETTINGS.split.test)}"
        )
    return paired_stores(wildcards)


def learned_classes(wildcards):
    """The tables of classes of a run that learns them, so that a table that changes reruns no other one."""
    run = SETTINGS.runs[wildcards.run]
    if run.learns_labels and not class_tables():
        stop(
            f"{SETTINGS.slides}: expected a table in the column classes for some pair, because the target of run "
            f"{wildcards.run} is label, found none"
        )
    return class_tables() if run.learns_labels else {}


def one_of(names):
    """A wildcard constraint that admits just these names."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    slide="[A-Za-z0-9_-]+",
    run="[A-Za-z0-9_-]+",
    name="[^/]+",
