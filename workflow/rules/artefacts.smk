"""What each target stands for: every file that its stage leaves, so that one that was deleted is made again."""


def panels(wildcards):
    """Return the checks of every dense side that may be fluorescence."""
    return collect("<results>/panel/{slide}.json", slide=CHECKED)


def registrations(wildcards):
    """Return what register leaves of every pair."""
    names = ("transform.zarr", "transform.h5", "qc.json")
    names += tuple(
        f"{name}.png" for name in ("overlay", "checkerboard", "residual", "deformation")
    )
    return collect("<results>/register/{slide}/{file}", slide=PAIRED, file=names)


def tiles(wildcards):
    """Return what tile leaves of every slide."""
    return collect(
        "<results>/tile/{slide}.{end}", slide=SLIDES, end=("zarr", "geojson")
    )


def trainings(wildcards):
    """Return the split and what train leaves of every run; nothing where the encoder comes from elsewhere."""
    if FROM_ELSEWHERE:
        return []
    if not SETTINGS.runs:
        stop("runs: expected a training, found none")
    paired_stores(wildcards)
    names = ("encoder", "metrics.jsonl", "curve.png", "branches.safetensors")
    return [
        *collect("<results>/split/{file}", file=("patches.tsv", "split.json")),
        *collect("<results>/train/{run}/{file}", run=SETTINGS.runs, file=names),
    ]


def embeddings(wildcards):
    """Return the features of every slide by the encoder that is asked for, and their table."""
    check_encoder()
    return [
        f"<results>/embed/{EMBEDDING}/slides.parquet",
        *(f"<results>/embed/{EMBEDDING}/{slide}.h5" for slide in SLIDES),
    ]


def scores(wildcards):
    """Return the scores of all runs, and the probe of the embedding's own one."""
    if not trainings(wildcards):
        return []
    names = (
        "summary.tsv",
        "details.json",
        *([f"probes/{EMBEDDING}"] if TRAINED else []),
    )
    return collect("<results>/evaluate/{file}", file=names)


def evidence(wildcards):
    """Return the scores and the features that they rest on."""
    made = scores(wildcards)
    runs = SETTINGS.runs if made else []
    return [*made, *collect("<results>/embed/{run}/{slide}.h5", run=runs, slide=PAIRED)]


def predictions(wildcards):
    """Return the predicted markers of every slide, where there is a probe."""
    check_encoder()
    if not TRAINED and not SETTINGS.predict.probe:
        return []
    return [f"<results>/predict/{EMBEDDING}/{slide}" for slide in SLIDES]


def answers(wildcards):
    """Return what slide vectors and patches tell of patients, where there is a table of them."""
    if not SETTINGS.outcomes.table or not (TRAINED or FROM_ELSEWHERE):
        return []
    names = ("summary.tsv", "details.json", "predictions.tsv")
    return collect("<results>/outcomes/{file}", file=names)
