rule evaluate:
    input:
        stores=paired_stores,
        split="<results>/split/patches.tsv",
        features=collect(
            "<results>/embed/{run}/{slide}.h5", run=SETTINGS.runs, slide=PAIRED
        ),
        branches=collect(
            "<results>/train/{run}/branches.safetensors", run=SETTINGS.runs
        ),
        # Evaluate says of those that do not exist what is wrong with them.
        classes=[
            outside(path) for path in class_tables().values() if Path(path).exists()
        ],
    output:
        summary=report(
            "<results>/evaluate/summary.tsv",
            caption="../report/evidence.rst",
            category="Evidence",
        ),
        details="<results>/evaluate/details.json",
    log:
        "<logs>/evaluate.log",
    benchmark:
        "<logs>/evaluate.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    resources:
        # Dense encoders look at as many patches as an embedding does; all else is light.
        gpu=int(SETTINGS.evaluate.dense_side),
        mem_mb=per_attempt(6000),
        runtime=1440 if SETTINGS.evaluate.dense_side else 60,
    params:
        stores=lambda wildcards, input: str(Path(input.stores[0]).parent),
        embeddings=lambda wildcards, input: str(Path(input.features[0]).parents[1]),
        trainings=lambda wildcards, input: str(Path(input.branches[0]).parents[1]),
        runs=list(SETTINGS.runs),
        repeats=[
            f"{name}={run.repeats}"
            for name, run in SETTINGS.runs.items()
            if run.repeats
        ],
        classes=[f"{name}={path}" for name, path in class_tables().items()],
        settings=to_json(SETTINGS.evaluate),
        panel=to_json(SETTINGS.panel, only=NAME_KEYS),
        stage=stage,
        code=code_digest("evaluate"),
    shell:
        "{params.stage} {log:q} evaluate --stores {params.stores:q} --split {input.split:q}"
        " --embeddings {params.embeddings:q} --trainings {params.trainings:q} --runs {params.runs} --repeats {params.repeats} --classes {params.classes:q} --out-summary {output.summary:q}"
        " --out-details {output.details:q} --panel {params.panel:q} --settings {params.settings:q}"


rule evaluate_probe:
    input:
        stores=paired_stores,
        split="<results>/split/patches.tsv",
        features=collect("<results>/embed/{{run}}/{slide}.h5", slide=PAIRED),
    output:
        directory("<results>/evaluate/probes/{run}"),
    log:
        "<logs>/evaluate/probes/{run}.log",
    benchmark:
        "<logs>/evaluate/probes/{run}.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    resources:
        mem_mb=per_attempt(4000),
        runtime=60,
    params:
        stores=lambda wildcards, input: str(Path(input.stores[0]).parent),
        embeddings=lambda wildcards, input: str(Path(input.features[0]).parents[1]),
        settings=to_json(SETTINGS.evaluate, only=PROBE_KEYS),
        panel=to_json(SETTINGS.panel, only=NAME_KEYS),
        stage=stage,
        code=code_digest("evaluate_probe"),
    shell:
        "{params.stage} {log:q} evaluate-probe --stores {params.stores:q} --split {input.split:q}"
        " --embeddings {params.embeddings:q} --run {wildcards.run:q} --out {output:q}"
        " --panel {params.panel:q} --settings {params.settings:q}"


rule evaluate_all:
    input:
        evidence,
    localrule: True
