"""What the workflow uses of Snakemake beyond its documented language; nothing else touches it."""

import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from pipeline import provenance
from pipeline.installation import workflow_root

WITH_CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
WITH_CONTAINERS = (
    DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
)
# The cores of this machine that Snakemake may use; None on a cluster, where each job asks for its own.
CORES = workflow.resource_settings.cores
IN_A_CLUSTER_JOB = workflow.remote_exec
NAMED_CONFIGURATION = bool(workflow.overwrite_configfiles)


def stop(message):
    """End the plan with one line; a WorkflowError of an input function would come with a traceback."""
    sys.exit(f"error: {message}")


def check_configuration(path):
    """Stop with one line where there is no configuration; a workflow that uses this one as a module may have another."""
    if not workflow.modifier.skip_configfile and not Path(path).is_file():
        stop(f"file {Path(path).absolute()}: expected the configuration, found none")


def configuration_files():
    """Return the files that Snakemake has read the configuration from."""
    return [Path(path) for path in workflow.configfiles]


def _moves_paths():
    """Return whether a module statement gives this workflow a `prefix` or `replace_prefix`."""
    modifier = workflow.modifier.path_modifier
    while modifier is not None:
        if modifier.prefix is not None or modifier.modifies_prefixes:
            return True
        modifier = modifier.inner_modifier
    return False


_MOVES_PATHS = _moves_paths()


def outside(path):
    """Return the path of a file that is not a result; the `prefix` of a module is for results and leaves it as it is."""
    return local(path) if _MOVES_PATHS else path


def asked_for(target):
    """Return whether a target was named on the command line."""
    return target in workflow.dag_settings.targets


def place(pattern):
    """Return a path with its pathvars, such as <results>, filled in."""
    return Path(workflow.pathvars.apply(pattern))


def processes_per_run():
    """Return the processes of a training, one per GPU: `--set-resources train:gpu=N` asks for more than one."""
    asked = workflow.resource_settings.overwrite_resources.get("train", {}).get("gpu")
    value = getattr(asked, "value", asked)
    return max(1, value) if isinstance(value, int) else 1


def _script(python):
    """Return the command that starts a stage with an interpreter."""
    script = workflow_root() / "workflow" / "stage.sh"
    return f"bash {shlex.quote(str(script))} {shlex.quote(python)}"


# Parameters that depend on the output are not compared with those of the last run: a checkout or an interpreter that
# moves reruns nothing.


def stage(wildcards, output):
    """Return the start of a stage: with the interpreter of Snakemake, or that of the environment or container."""
    return _script("python" if WITH_CONDA or WITH_CONTAINERS else sys.executable)


def stage_of_register(wildcards, output):
    """Return how register starts: without conda or a container the engine valis has a separate interpreter."""
    own = provenance.SOURCE_ROOT / ".venv-valis" / "bin" / "python"
    # Where the folder is missing the stage itself says in one line what to do.
    packaged = WITH_CONDA or WITH_CONTAINERS
    if packaged or SETTINGS.register.engine != "valis" or not own.exists():
        return stage(wildcards, output)
    return _script(str(own))
