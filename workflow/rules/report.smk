rule report:
    input:
        sheet=outside(SETTINGS.slides),
        embedding=embeddings,
        records=collect("<results>/inspect/{slide}.json", slide=SLIDES),
        checks=panels,
        pairs=collect("<results>/register/{slide}/qc.json", slide=PAIRED),
        stores=collect("<results>/tile/{slide}.zarr", slide=SLIDES),
        encoders=trainings,
        evidence=scores,
        predictions=predictions,
        answers=answers,
    output:
        report(
            "<results>/report/index.html",
            caption="../report/cohort.rst",
            category="The cohort",
        ),
    log:
        "<logs>/report.log",
    benchmark:
        "<logs>/report.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    threads: 2
    resources:
        mem_mb=per_attempt(4000),
        runtime=60,
    params:
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        embedding=EMBEDDING,
        settings=to_json(SETTINGS.report),
        stage=stage,
        code=code_digest("report"),
    shell:
        "{params.stage} {log:q} report --results {params.results:q} --sheet={input.sheet:q}"
        " --embedding={params.embedding:q} --out {output:q} --threads {threads} --settings {params.settings:q}"


rule report_all:
    input:
        "<results>/report/index.html",
    localrule: True
