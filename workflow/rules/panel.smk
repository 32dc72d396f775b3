# Nothing but the report and, where `panel` asks for it, tile and train wait for this.


rule panel:
    input:
        record="<results>/inspect/{slide}.json",
        staged=staged,
    output:
        "<results>/panel/{slide}.json",
    log:
        "<logs>/panel/{slide}.log",
    benchmark:
        "<logs>/panel/{slide}.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    threads: 2
    resources:
        mem_mb=per_attempt(2000),
        runtime=60,
    params:
        record=record_of,
        settings=to_json(SETTINGS.panel, only=CHECK_KEYS),
        stage=stage,
        code=code_digest("panel"),
    shell:
        "{params.stage} {log:q} panel --record {params.record:q} --out {output:q}"
        " --threads {threads} --settings {params.settings:q}"


rule panel_all:
    input:
        panels,
    localrule: True
