"""What rules take of the sheet: the files of a slide, its row, where it is fetched to, its neighbours."""

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
# So many names make a command of a kilobyte; half a minute is enough for fewer slides than that or for very small ones.
BLOCK = 64


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


def staged(wildcards):
    """Return the folder of a slide that has to be fetched; nothing of one that is here or is read where it lies."""
    return STAGED.format(slide=wildcards.slide) if is_staged(wildcards.slide) else []


def is_staged(slide):
    """Return whether some image of a slide has to be fetched; the dense one is not asked for by an encoder alone."""
    row = SHEET[slide]
    return (replace(row, dense="") if FROM_ELSEWHERE else row).staged


def record_of(wildcards, input):
    """Return the record that a stage reads: that of inspect, or of the fetched files."""
    return f"{input.staged}/record.json" if is_staged(wildcards.slide) else input.record


def staging_settings(wildcards, output):
    """Return the settings as JSON; since they depend on the output, other ones fetch nothing again."""
    return to_json(SETTINGS.staging, without=("keep",))


def neighbours(wildcards, output):
    """Return the slides of the same block that this encoder embeds too, those after this one first.

    A run that only evaluate asks for embeds pairs alone; a slide without a partner that someone names has no neighbours.
    """
    of_all = wildcards.name == EMBEDDING or bool(SETTINGS.outcomes.table)
    slides = SLIDES if of_all else PAIRED
    index = index_of(of_all).get(wildcards.slide)
    if index is None:
        return []
    start = index - index % BLOCK
    return slides[index + 1 : start + BLOCK] + slides[start:index]


@cache
def index_of(of_all):
    """Return the index of each slide among all, or among the pairs."""
    return {slide: index for index, slide in enumerate(SLIDES if of_all else PAIRED)}
