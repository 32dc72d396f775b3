rule train:
    input:
        stores=paired_stores,
        split="<results>/split/patches.tsv",
        weights=given_weights,
        # Train says of those that do not exist what is wrong with them.
        classes=lambda wildcards: [
            outside(path)
            for path in learned_classes(wildcards).values()
            if Path(path).exists()
        ],
    output:
        encoder=directory("<results>/train/{run}/encoder"),
        metrics="<results>/train/{run}/metrics.jsonl",
        curve=report(
            "<results>/train/{run}/curve.png",
            caption="../report/training.rst",
            category="Training",
            labels={"run": "{run}"},
        ),
        branches="<results>/train/{run}/branches.safetensors",
    log:
        "<logs>/train/{run}.log",
    benchmark:
        "<logs>/train/{run}.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    threads: cores_per_run
    resources:
        gpu=1,
        mem_mb=per_attempt(6000 * processes_per_run()),
        runtime=1440,
    params:
        stores=lambda wildcards, input: str(Path(input.stores[0]).parent),
        settings=run_settings,
        classes=lambda wildcards: [
            f"{name}={path}" for name, path in learned_classes(wildcards).items()
        ],
        panel=run_panel,
        weights=weights_hash,
        stage=stage,
        code=code_digest("train"),
    # A process per GPU, one where there is none; as a parameter it would have other GPUs train anew.
    shell:
        "{params.stage} {log:q} train --run {wildcards.run} --stores {params.stores:q} --split {input.split:q}"
        " --out-encoder {output.encoder:q} --out-metrics {output.metrics:q} --out-curve {output.curve:q}"
        " --threads {threads} --processes $(( {resources.gpu} > 1 ? {resources.gpu} : 1 ))"
        " --classes {params.classes:q} --panel {params.panel:q}"
        " --settings {params.settings:q}"


rule train_all:
    input:
        trainings,
    localrule: True
