# The synthetic cohort of config/slides.tsv. No other sheet names these files, so no other cohort runs these rules.


rule demo:
    output:
        sparse=outside("resources/demo/{slide}/he.tif"),
        dense=outside("resources/demo/{slide}/multiplex.ome.tif"),
        truth=outside(directory("resources/demo/{slide}/truth")),
    log:
        "<logs>/demo/{slide}.log",
    benchmark:
        "<logs>/demo/{slide}.benchmark.tsv"
    wildcard_constraints:
        slide=one_of(name for name, row in SHEET.items() if row.dense),
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    resources:
        mem_mb=per_attempt(3000),
        runtime=10,
    params:
        stage=stage,
        code=code_digest("demo"),
    shell:
        "{params.stage} {log:q} demo --slide {wildcards.slide} --out-sparse {output.sparse:q}"
        " --out-dense {output.dense:q} --out-truth {output.truth:q}"


# A slide of which no multiplex image was taken.
rule demo_sparse_only:
    output:
        sparse=outside("resources/demo/{slide}/he.tif"),
        truth=outside(directory("resources/demo/{slide}/truth")),
    log:
        "<logs>/demo/{slide}.log",
    benchmark:
        "<logs>/demo/{slide}.benchmark.tsv"
    wildcard_constraints:
        slide=one_of(name for name, row in SHEET.items() if not row.dense),
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    resources:
        mem_mb=per_attempt(3000),
        runtime=10,
    params:
        stage=stage,
        code=code_digest("demo"),
    shell:
        "{params.stage} {log:q} demo --slide {wildcards.slide} --out-sparse {output.sparse:q}"
        " --out-truth {output.truth:q}"
