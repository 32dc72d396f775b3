rule predict:
    input:
        features="<results>/embed/{name}/{slide}.h5",
        store="<results>/tile/{slide}.zarr",
        probe=probe_folder,
    output:
        directory("<results>/predict/{name}/{slide}"),
    log:
        "<logs>/predict/{name}/{slide}.log",
    benchmark:
        "<logs>/predict/{name}/{slide}.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    resources:
        mem_mb=per_attempt(3000),
        runtime=30,
    params:
        settings=to_json(SETTINGS.predict, without=("probe",)),
        probe=probe_hash,
        stage=stage,
        code=code_digest("predict"),
    shell:
        "{params.stage} {log:q} predict --features {input.features:q} --store {input.store:q}"
        " --probe={input.probe:q} --out {output:q} --settings {params.settings:q}"


rule predict_all:
    input:
        predictions,
    localrule: True
