rule tile:
    input:
        unpack(pair_files),
        record="<results>/inspect/{slide}.json",
    output:
        directory("<results>/tile/{slide}.zarr"),
    log:
        "<logs>/tile/{slide}.log",
    benchmark:
        "<logs>/tile/{slide}.benchmark.tsv"
    conda:
        "../../envs/slides.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(3000),
        runtime=240,
    params:
        pair=lambda wildcards, input: (
            f"--transform {shlex.quote(input.transform)} --qc {shlex.quote(input.qc)}"
            if wildcards.slide in PAIRED
            else ""
        ),
        settings=to_json(SETTINGS.tile),
        code=code_digest("tile"),
    shell:
        "python -P -m pipeline tile --record {input.record:q} {params.pair} --out {output:q}"
        " --threads {threads} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule tile_all:
    input:
        collect("<results>/tile/{slide}.zarr", slide=SLIDES),
    localrule: True
