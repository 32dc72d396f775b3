rule inspect:
    input:
        files=slide_files,
        transform=given_transform,
    output:
        "<results>/inspect/{slide}.json",
    log:
        "<logs>/inspect/{slide}.log",
    benchmark:
        "<logs>/inspect/{slide}.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    resources:
        mem_mb=per_attempt(1000),
        runtime=30,
    params:
        patient=sheet_value("patient"),
        sparse=sheet_value("sparse"),
        dense=sheet_value("dense"),
        transform=sheet_value("transform"),
        sparse_mpp=sheet_value("sparse_mpp"),
        dense_mpp=sheet_value("dense_mpp"),
        markers=sheet_value("markers"),
        dense_kind=sheet_value("dense_kind"),
        sparse_image=sheet_value("sparse_image"),
        dense_image=sheet_value("dense_image"),
        settings=to_json(SETTINGS.inspect),
        stage=stage,
        code=code_digest("inspect"),
    shell:
        "{params.stage} {log:q} inspect --slide {wildcards.slide} --patient={params.patient:q}"
        " --sparse={params.sparse:q} --dense={params.dense:q} --transform={params.transform:q}"
        " --sparse-mpp={params.sparse_mpp:q} --dense-mpp={params.dense_mpp:q} --markers={params.markers:q}"
        " --dense-kind={params.dense_kind:q}"
        " --sparse-image={params.sparse_image:q} --dense-image={params.dense_image:q}"
        " --settings {params.settings:q} --out {output:q}"


rule inspect_all:
    input:
        collect("<results>/inspect/{slide}.json", slide=SLIDES),
    localrule: True
