rule split:
    input:
        split_stores,
    output:
        table="<results>/split/patches.tsv",
        summary="<results>/split/split.json",
    log:
        "<logs>/split.log",
    benchmark:
        "<logs>/split.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    resources:
        mem_mb=per_attempt(2000),
        runtime=30,
    params:
        stores=lambda wildcards, input: str(Path(input[0]).parent),
        slides=PAIRED,
        settings=to_json(replace(SETTINGS.split, test=split_test())),
        stage=stage,
        code=code_digest("split"),
    shell:
        "{params.stage} {log:q} split --stores {params.stores:q} --slides {params.slides} --out {output.table:q}"
        " --out-summary {output.summary:q} --settings {params.settings:q}"
