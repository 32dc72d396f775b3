# The workflow lies in workflow/Snakefile, where the catalog of Snakemake workflows looks for it; here `snakemake` finds it
# without being told where it is.
include: "workflow/Snakefile"


# An included file does not choose the default target.
rule default:
    default_target: True
    input:
        rules.all.input,
    localrule: True
