rule register:
    input:
        record="<results>/inspect/{slide}.json",
        transform=given_transform,
    output:
        transform=directory("<results>/register/{slide}/transform.zarr"),
        itk="<results>/register/{slide}/transform.h5",
        qc="<results>/register/{slide}/qc.json",
        overlay=report(
            "<results>/register/{slide}/overlay.png",
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
    threads: 2
    resources:
        mem_mb=per_attempt(6000),
        runtime=60,
    params:
        python=register_python(),
        settings=to_json(SETTINGS.register),
        code=code_digest("register"),
    shell:
        "{params.python} -P -m pipeline register --record {input.record:q} --out-transform {output.transform:q}"
        " --out-itk {output.itk:q} --out-qc {output.qc:q} --out-overlay {output.overlay:q}"
        " --out-checkerboard {output.checkerboard:q} --out-residual {output.residual:q}"
        " --out-deformation {output.deformation:q} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule register_all:
    input:
        collect("<results>/register/{slide}/qc.json", slide=PAIRED),
    localrule: True
