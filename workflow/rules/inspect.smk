"""What inspect takes of the sheet and of the files that it names."""

from pipeline.slides.companions import slide_files_of
from pipeline.slides.tenx_files import dense_file

# Columns that speak of the dense side, which nothing asks for where the encoder comes from elsewhere.
DENSE_COLUMNS = (
    "dense",
    "transform",
    "dense_mpp",
    "markers",
    "dense_kind",
    "dense_image",
)
# What inspect takes of a row.
ROW_COLUMNS = (
    "patient",
    "sparse",
    "dense",
    "transform",
    "sparse_mpp",
    "dense_mpp",
    "markers",
    "dense_kind",
    "sparse_image",
    "dense_image",
)


def slide_files(wildcards):
    """Return the files of a slide that exist or can be drawn, with all that belong to an image beside it.

    Of an OME-Zarr folder these are its metadata: the time of a folder says nothing of what lies deeper in it. Inspect
    says of the others what is wrong with them.
    """
    row = SHEET[wildcards.slide]
    images = [row.sparse, *([] if FROM_ELSEWHERE else [dense_image(row)])]
    named = [*images, *([] if FROM_ELSEWHERE else [row.markers])]
    there = [path for path in named if path and (Path(path).exists() or is_demo(path))]
    beside = [
        str(path)
        for image in images
        if image in there
        for path in slide_files_of(Path(image))
        if path != Path(image) and not set("{}") & set(str(path))
    ]
    # Of a folder its files are the inputs.
    files = [path for path in there if not Path(path).is_dir()]
    return [outside(path) for path in dict.fromkeys([*files, *beside])]


def dense_image(row):
    """Return the file of the dense side, which the sheet may name by its folder; inspect says so where there is none."""
    try:
        return str(dense_file(Path(row.dense), row.dense_kind)) if row.dense else ""
    except StatedError:
        return row.dense


def sheet_row(wildcards):
    """Return a row as arguments of inspect; the dense side is hidden from an encoder from elsewhere.

    One function for all columns: of 1,000 slides, one for each takes a second of the plan.
    """
    row = SHEET[wildcards.slide]
    hidden = DENSE_COLUMNS if FROM_ELSEWHERE else ()
    values = {
        column: "" if column in hidden else getattr(row, column)
        for column in ROW_COLUMNS
    }
    return [
        f"--{column.replace('_', '-')}={'' if value is None else value}"
        for column, value in values.items()
    ]


def is_demo(path):
    """Whether the rule `demo` can draw this file."""
    return Path(path).parts[:2] == ("resources", "demo")


rule inspect:
    input:
        files=slide_files,
        transform=given_transform,
    output:
        "<results>/inspect/{slide}.json",
    log:
        "<logs>/inspect/{slide}.log",
    benchmark:
        "<logs>/inspect/{slide}.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    resources:
        mem_mb=per_attempt(1000),
        runtime=30,
    params:
        row=sheet_row,
        settings=to_json(SETTINGS.inspect),
        stage=stage,
        code=code_digest("inspect"),
    shell:
        "{params.stage} {log:q} inspect --slide {wildcards.slide} {params.row:q}"
        " --settings {params.settings:q} --out {output:q}"


rule inspect_all:
    input:
        collect("<results>/inspect/{slide}.json", slide=SLIDES),
    localrule: True
