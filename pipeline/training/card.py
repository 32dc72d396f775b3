"""Write the card of an encoder: what it is, its training data, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.settings.branches import read_branches
from pipeline.settings.train import TARGET_WEIGHT
from pipeline.slides.kinds import kind_named

# Of a larger panel, as of most gene counts, config.json alone lists all.
_MOST_NAMES = 64


def card(config: dict[str, Any], last: dict[str, Any] | None) -> str:
    """Return the contents of card.md."""
    own = config["more_from_less"]
    settings, training, patch = own["settings"], own["training"], own["patch"]
    beside = _what_it_was_trained_beside(settings, own["dense"], own["classes"])
    return f"""# {own["run"]}: encoder of H&E patches

A `{config["architecture"]}` that turns an H&E patch of {patch["input_px"]} x {patch["input_px"]} pixels at \
{patch["mpp"]:.4g} um per pixel into {own["feature_dim"]} features. {beside}

## Use

    timm.create_model("{config["architecture"]}", num_classes=0, in_chans=3, checkpoint_path="model.safetensors"\
{"".join(f", {key}={value}" for key, value in config["model_args"].items())})

Pixels are scaled to 0 to 1, then normalised with mean {_figures(config["pretrained_cfg"]["mean"])} and standard \
deviation {_figures(config["pretrained_cfg"]["std"])} (R, G, B).

## Training

| | |
|---|---|
| slides | {len(training["slides"])}: {", ".join(training["slides"])} |
| patients | {len(training["patients"])}: {", ".join(training["patients"])} |
| patches | {training["patches"]} of {patch["size_px"]} x {patch["size_px"]} px |
| dense side | {_panel(own)} |
| branches | {", ".join(_branch(branch) for branch in settings["branches"])} |
| objective | {_objective(settings)} |
| pairing | {settings["pairing"]} |
| epochs, batch, peak rate, seed | {settings["epochs"]}, {settings["batch_size"]}, {settings["lr"]:g}, \
{settings["seed"]} |
| initial weights | {_initial(own)} |
| at the end | {_at_the_end(last)} |

## Limits

- Trained on the slides above only: stains, scanners and tissues unlike theirs are untested. `embed` tells what share \
of a slide lies outside the range of their features, which `range.safetensors` holds.
- Patches must have the resolution above; `embed` refuses a difference of more than 5 %.
- Features are for research. They are not a diagnosis and were not validated for any clinical use.

## Licence

The code that made this encoder is under Apache-2.0. The weights derive from the training slides: whatever licence and \
consent bind those slides bind the weights, and are for whoever passes them on to check.

SHA-256 of `model.safetensors`: `{own["weights_sha256"]}`
"""


def _what_it_was_trained_beside(settings: dict[str, Any], dense: dict[str, Any] | None, classes: Sequence[str]) -> str:
    other = " of OTHER places" if settings["pairing"] == "shuffled" else ""
    if not settings["epochs"]:
        weights = "those that it was given" if settings["weights"] else "random"
        return f"A BASELINE: its weights are {weights}, for it was not trained at all."
    task = _task(settings, dense, classes, other)
    if task and len(settings["branches"]) == 2:
        return f"A REFERENCE: it was trained, supervised, to {task}."
    also = f" It was also trained, supervised, to {task}." if task else ""
    if all(branch.modality != "dense" for branch in read_branches(settings["branches"])):
        alone = "on H&E patches only" if task else "on H&E patches only: a baseline without a privileged modality"
        return f"It was trained {alone}.{also}"
    return _what_stood_beside_it(settings, dense or {}) + also


def _seen_by_encoder(settings: dict[str, Any], dense: dict[str, Any], whole: str) -> list[str]:
    """Return what each dense encoder saw; `whole` are the words for all of the panel."""
    branches, components = read_branches(settings["branches"]), dense.get("components", {})
    encoders = dict.fromkeys(branch.encoder for branch in branches if branch.modality == "dense")
    return [", ".join(components[name]) if name in components else whole for name in encoders]


def _branch(entry: str | dict[str, Any]) -> str:
    """Return a branch in the words of the configuration."""
    if isinstance(entry, str):
        return entry
    markers = " ".join(entry["markers"][:_MOST_NAMES])
    parts = [f"markers {markers}"] * bool(markers) + [f"encoder {entry['encoder']}", f"projector {entry['projector']}"]
    return f"{entry['modality']} ({', '.join(parts)})"


def _objective(settings: dict[str, Any]) -> str:
    """Return the loss, with those of its settings only that have a say in it."""
    target = ""
    if "target" in settings["branches"]:
        target = "squared error of the values" if settings["target"] == "values" else "cross-entropy of the classes"
        if len(settings["branches"]) == 2:
            return target
    objective = str(settings["objective"])
    if objective == "vicreg":
        objective += f", convention {settings['convention']}"
    if objective in ("infonce", "nt-xent"):
        objective += f", temperature {settings['temperature']:g}"
    if settings["alignment"] == "parts":
        objective += ", aligned in parts"
    if settings["pair_weights"]:
        objective += f", pairs weighed {', '.join(f'{weight:g}' for weight in settings['pair_weights'])}"
    return f"{objective}; {target}, weighed {_target_weight(settings):g}" if target else objective


def _panel(own: dict[str, Any]) -> str:
    if own["dense"] is None:
        return "none"
    absent, names = own["markers_absent"], own["dense"]["panel"]
    masked = {name: f" (masked in {', '.join(slides)})" for name, slides in absent.items()}
    shown = names[:_MOST_NAMES]
    panel = ", ".join(f"{name}{masked.get(name, '')}" for name in shown)
    if len(names) > len(shown):
        panel += f" and {len(names) - len(shown)} more"
    return f"{own['dense']['kind']}: {panel}"


def _initial(own: dict[str, Any]) -> str:
    settings = own["settings"]
    if not settings["weights"]:
        return "random; no pretrained weights were used"
    digest = own["provenance"].get("inputs", {}).get("weights", "")
    rank = settings["low_rank"]
    how = f"attention adapted with rank {rank}, the rest as it was" if rank else "all trained further"
    return f"{Path(settings['weights']).name} (SHA-256 {digest[:12]}), {how if settings['epochs'] else 'as they were'}"


def _at_the_end(last: dict[str, Any] | None) -> str:
    if last is None:
        return "nothing was trained"
    return f"loss {last['loss']:.3f}, effective rank of the features {last['feature_rank']:.1f}"


def _figures(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _task(settings: dict[str, Any], dense: dict[str, Any] | None, classes: Sequence[str], other: str) -> str:
    """Return what a target branch was to do, in words that follow "to"; empty without one."""
    if classes:
        return f"tell the class of patches{other} ({', '.join(classes)})"
    if "target" not in settings["branches"] or dense is None:
        return ""
    what = "the class of patches" if settings["target"] == "class" else "the values of patches"
    named = f"{len(dense['panel'])} markers" if len(dense["panel"]) > _MOST_NAMES else ", ".join(dense["panel"])
    return f"predict {what}{other} ({named}) from the H&E patch"


def _what_stood_beside_it(settings: dict[str, Any], dense: dict[str, Any]) -> str:
    names = kind_named(dense["kind"]).beside(dense["panel"])
    if settings["pairing"] == "shuffled":
        return f"A CONTROL: beside it stood dense patches ({names}) of OTHER places, in a fixed random pairing."
    if settings["pairing"] == "blank":
        return "A CONTROL: beside it stood a dense branch that saw nothing."
    seen = _seen_by_encoder(settings, dense, names)
    branch, shown = "a dense branch" if len(seen) == 1 else f"{len(seen)} dense branches", "; in ".join(seen)
    return f"It was trained beside {branch} that saw the same tissue in {shown}; it needs the H&E patch alone."


def _target_weight(settings: dict[str, Any]) -> float:
    return TARGET_WEIGHT if settings["target_weight"] is None else float(settings["target_weight"])
