rule split:
    input:
        collect("<results>/tile/{slide}.zarr", slide=SLIDES),
    output:
        table="<results>/split/patches.tsv",
        summary="<results>/split/split.json",
    log:
        "<logs>/split.log",
    benchmark:
        "<logs>/split.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    resources:
        mem_mb=per_attempt(2000),
        runtime=30,
    params:
        stores=lambda wildcards, input: str(Path(input[0]).parent),
        slides=SLIDES,
        settings=to_json(SETTINGS.split),
        code=code_digest("split"),
    shell:
        "python -P -m pipeline split --stores {params.stores:q} --slides {params.slides} --out {output.table:q}"
        " --out-summary {output.summary:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
