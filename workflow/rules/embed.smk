# A job embeds small slides of its block ahead, and their jobs take those over: see docs/stages/embed.md.
rule embed:
    input:
        store="<results>/tile/{slide}.zarr",
        encoder=encoder_folder,
    output:
        "<results>/embed/{name}/{slide}.h5",
    log:
        "<logs>/embed/{name}/{slide}.log",
    benchmark:
        "<logs>/embed/{name}/{slide}.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    resources:
        gpu=1,
        mem_mb=per_attempt(4000),
        runtime=240,
    params:
        settings=to_json(SETTINGS.embed, without=("encoder",)),
        encoder=encoder_hash,
        neighbours=neighbours,
        stage=stage,
        code=code_digest("embed"),
    shell:
        "{params.stage} {log:q} embed --store {input.store:q} --encoder={input.encoder:q} --out {output:q}"
        " --threads {threads} --neighbours {params.neighbours} --settings {params.settings:q}"


rule embed_slides:
    input:
        features=collect("<results>/embed/{{name}}/{slide}.h5", slide=SLIDES),
        # Prototypes are fitted on training patches; a cohort that brings its encoder along has none.
        split=["<results>/split/patches.tsv"] if TRAINED else [],
    output:
        "<results>/embed/{name}/slides.parquet",
    log:
        # Beside the slides' own logs it would be that of a slide named `slides`.
        "<logs>/embed_slides/{name}.log",
    benchmark:
        "<logs>/embed_slides/{name}.benchmark.tsv"
    conda:
        "../../envs/torch.yaml"
    container:
        image_of("torch")
    resources:
        mem_mb=per_attempt(2000),
        runtime=30,
    params:
        features=lambda wildcards, input: str(Path(input.features[0]).parent),
        split="--split" if TRAINED else "",
        slides=SLIDES,
        stage=stage,
        code=code_digest("embed_slides"),
    shell:
        "{params.stage} {log:q} embed-slides --features {params.features:q} --slides {params.slides}"
        " {params.split} {input.split:q} --out {output:q}"


rule embed_all:
    input:
        embeddings,
    localrule: True
