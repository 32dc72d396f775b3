rule tile:
    input:
        unpack(pair_files),
        given_tissue,
        background=background_check,
        record="<results>/inspect/{slide}.json",
        staged=staged,
    output:
        store=directory("<results>/tile/{slide}.zarr"),
        outlines="<results>/tile/{slide}.geojson",
    log:
        "<logs>/tile/{slide}.log",
    benchmark:
        "<logs>/tile/{slide}.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    container:
        image_of("slides")
    threads: 2
    resources:
        mem_mb=per_attempt(3000),
        runtime=240,
    params:
        record=record_of,
        pair=lambda wildcards, input: (
            f"--transform {shlex.quote(input.transform)} --qc {shlex.quote(input.qc)}"
            if wildcards.slide in PAIRED
            else ""
        ),
        tissue=lambda wildcards: (
            f"--tissue={shlex.quote(SHEET[wildcards.slide].tissue)}"
            if SHEET[wildcards.slide].tissue
            else ""
        ),
        background=lambda wildcards, input: (
            f"--background {shlex.quote(input.background[0])}"
            if input.background
            else ""
        ),
        settings=to_json(SETTINGS.tile),
        stage=stage,
        code=code_digest("tile"),
    shell:
        "{params.stage} {log:q} tile --record {params.record:q} {params.pair} {params.tissue} {params.background}"
        " --out {output.store:q} --outlines {output.outlines:q}"
        " --threads {threads} --settings {params.settings:q}"


rule tile_all:
    input:
        tiles,
    localrule: True
