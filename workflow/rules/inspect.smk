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
