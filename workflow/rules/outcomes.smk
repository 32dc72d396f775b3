rule outcomes:
    input:
        table=patient_table,
        vectors=collect("<results>/embed/{run}/slides.parquet", run=OUTCOME_RUNS),
        # Attention alone looks at patches.
        features=collect(
            "<results>/embed/{run}/{slide}.h5",
            run=OUTCOME_RUNS if SETTINGS.outcomes.attention_epochs else [],
            slide=SLIDES,
        ),
    output:
        summary="<results>/outcomes/summary.tsv",
        details="<results>/outcomes/details.json",
        predictions="<results>/outcomes/predictions.tsv",
    log:
        "<logs>/outcomes.log",
    benchmark:
        "<logs>/outcomes.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    threads: 2
    resources:
        gpu=int(SETTINGS.outcomes.attention_epochs > 0),
        mem_mb=per_attempt(6000),
        runtime=480,
    params:
        embeddings=lambda wildcards, input: str(Path(input.vectors[0]).parents[1]),
        runs=OUTCOME_RUNS,
        repeats=[
            f"{name}={SETTINGS.runs[name].repeats}"
            for name in OUTCOME_RUNS
            if TRAINED and SETTINGS.runs[name].repeats
        ],
        baseline=outcome_baseline(),
        settings=to_json(SETTINGS.outcomes, without=("table",)),
        stage=stage,
        code=code_digest("outcomes"),
    shell:
        "{params.stage} {log:q} outcomes --embeddings {params.embeddings:q} --runs {params.runs:q}"
        " --repeats {params.repeats:q} --baseline={params.baseline:q} --table={input.table:q}"
        " --out-summary {output.summary:q} --out-details {output.details:q}"
        " --out-predictions {output.predictions:q} --threads {threads} --settings {params.settings:q}"


rule outcomes_all:
    input:
        patient_table,
        answers,
    localrule: True
