rule predict:
    input:
        features="<results>/embed/{name}/{slide}.h5",
        store="<results>/tile/{slide}.zarr",
        probe=PROBE,
    output:
        directory("<results>/predict/{name}/{slide}"),
    log:
        "<logs>/predict/{name}/{slide}.log",
    benchmark:
        "<logs>/predict/{name}/{slide}.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=per_attempt(3000),
        runtime=30,
    params:
        settings=to_json(SETTINGS.predict),
        code=code_digest("predict"),
    shell:
        "python -P -m pipeline predict --features {input.features:q} --store {input.store:q}"
        " --probe={input.probe:q} --out {output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule predict_all:
    input:
        collect(
            f"<results>/predict/{EMBEDDING}/{{slide}}", slide=SLIDES if PROBE else []
        ),
    localrule: True
