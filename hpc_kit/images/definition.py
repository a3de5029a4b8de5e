"""The Apptainer definition of a recipe: rendered text, committed beside the recipe. Pure."""

from hpc_kit.spec.image import STAGES, Image, wanted

HOME = "/opt/hpc_kit"  # where an image keeps its Python environment
LABEL = "org.hpc_kit"


def definition(image: Image) -> str:
    """Return NAME.def. It is built with the wheelhouse shown at /mnt, and without a network."""
    stages = []
    for stage in image.stages:
        stages += [f"    # {stage}: {STAGES[stage]}", f"    install --requirement /mnt/{image.name}/{stage}.txt"]
    pins = dict(wanted(text)[:2] for packages in image.stages.values() for text in packages)
    versions = " ".join(f"{name}={pins[name]}" for name in ("torch", "dgl", "numpy", image.mpi) if name in pins)
    environment = {"PYTHONNOUSERSITE": "1", **image.environment}
    return f"""\
# {image.description}. Made from {image.name}.yaml by `hpc_kit image lock`, not by hand.
# `hpc_kit image build {image.name}` fills the wheelhouse and calls this as
#   apptainer build --bind WHEELHOUSE:/mnt:ro {image.name}.sif {image.name}.def
# Every package has its version and hash in {image.name}.lock; nothing is downloaded in here.
Bootstrap: {{{{ bootstrap }}}}
From: {{{{ from }}}}

%arguments
    bootstrap=docker
    from={image.base.docker}
    lock=unknown
    commit=unknown
    own=own

%post
    set -eu
    # the same bytes each time: no times and no random order in what is compiled
    export PYTHONHASHSEED=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
    python3 -c 'import sys; v = sys.version_info; assert f"{{v[0]}}.{{v[1]}}" == "{image.python}", sys.version'
    python3 -m venv {HOME}
    install() {{
        {HOME}/bin/python -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \\
            --find-links /mnt "$@"
    }}
{chr(10).join(stages)}
    # hpc_kit itself: nothing depends on it
    install /mnt/{{{{ own }}}}/*.whl
    cp /mnt/{image.name}/image.lock {HOME}/image.lock
    {HOME}/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash {HOME}/lib >/dev/null || true
    dpkg-query -W >{HOME}/base-packages.txt

%environment
    export PATH={HOME}/bin:$PATH
    unset PYTHONPATH PYTHONHOME
{chr(10).join(f"    export {name}={value}" for name, value in environment.items())}

%labels
    {LABEL}.image {image.name}
    {LABEL}.device {image.device}
    {LABEL}.mpi {image.mpi}
    {LABEL}.architecture {image.architecture}
    {LABEL}.versions {versions}
    {LABEL}.lock {{{{ lock }}}}
    {LABEL}.commit {{{{ commit }}}}

%test
    exec {HOME}/bin/hpc_kit doctor --folder /tmp

%runscript
    exec hpc_kit "$@"
"""
