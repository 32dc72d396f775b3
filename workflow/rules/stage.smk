# Slides that lie elsewhere are fetched for the stages that read all their tissue, and removed once those are done.
rule stage:
    input:
        record="<results>/inspect/{slide}.json",
    output:
        directory(STAGED) if SETTINGS.staging.keep else temp(directory(STAGED)),
    log:
        "<logs>/stage/{slide}.log",
    benchmark:
        "<logs>/stage/{slide}.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    # It waits for a network or for room, not for a processor: on its own it would keep those that make room waiting.
    threads: 0
    resources:
        mem_mb=per_attempt(1000),
        runtime=1440,
        staging=1,
    params:
        settings=staging_settings,
        stage=stage,
    shell:
        "{params.stage} {log:q} stage --record {input.record:q} --out {output:q} --settings {params.settings:q}"
