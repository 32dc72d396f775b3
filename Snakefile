from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/internals.smk"


# The file named on the command line IS the configuration; it is not merged into the demo's.
if not NAMED_CONFIGURATION:
    check_configuration("config/config.yaml")

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/artefacts.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/inspect.smk"
include: "workflow/rules/register.smk"
include: "workflow/rules/tile.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        embeddings,
        "<results>/report/index.html",
        registrations,
        collect("<results>/inspect/{slide}.json", slide=SLIDES),
        tiles,
        trainings,
        evidence,
        predictions,
    localrule: True
