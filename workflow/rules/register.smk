rule register:
    input:
        record="<results>/inspect/{slide}.json",
        staged=staged,
        transform=given_transform,
    output:
        transform=directory("<results>/register/{slide}/transform.zarr"),
        itk="<results>/register/{slide}/transform.h5",
        qc="<results>/register/{slide}/qc.json",
        overlay=report(
            "<results>/register/{slide}/overlay.png",
            caption="../report/registration.rst",
            category="Registration",
            labels={"slide": "{slide}"},
        ),
        checkerboard="<results>/register/{slide}/checkerboard.png",
        residual="<results>/register/{slide}/residual.png",
        deformation="<results>/register/{slide}/deformation.png",
    log:
        "<logs>/register/{slide}.log",
    benchmark:
        "<logs>/register/{slide}.benchmark.tsv"
    conda:
        (
            "../../envs/valis.yaml"
            if SETTINGS.register.engine == "valis"
            else "../../envs/slides.yaml"
        )
    container:
        image_of("valis" if SETTINGS.register.engine == "valis" else "slides")
    threads: 2
    resources:
        mem_mb=per_attempt(6000),
        runtime=60,
    params:
        record=record_of,
        settings=to_json(SETTINGS.register),
        stage=stage_of_register,
        code=code_digest("register"),
    shell:
        "{params.stage} {log:q} register --record {params.record:q} --out-transform {output.transform:q}"
        " --out-itk {output.itk:q} --out-qc {output.qc:q} --out-overlay {output.overlay:q}"
        " --out-checkerboard {output.checkerboard:q} --out-residual {output.residual:q}"
        " --out-deformation {output.deformation:q} --settings {params.settings:q}"


rule register_all:
    input:
        registrations,
    log:
        "<logs>/register.log",
    localrule: True
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    params:
        stage=stage,
        folder=lambda wildcards, input: (
            Path(input[0]).parents[1] if input else "results/register"
        ),
        slides=PAIRED,
    # It has no output, so that every run of this target ends with the table.
    shell:
        "{params.stage} {log:q} verdicts --registrations {params.folder:q} --slides {params.slides}"


# A pair that could not be registered keeps register_all from running; the table is then all the more worth having.
onerror:
    if asked_for("register_all"):
        from pipeline.registration.verdicts import table

        print(
            table(
                place("<results>/register"), PAIRED, logs=place("<logs>/register")
            )
        )
