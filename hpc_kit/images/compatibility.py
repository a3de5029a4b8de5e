"""Which versions bear each other: the traps that no package's own metadata tells of.

The table is applied to a lock before anything is built, and by doctor to what is installed.
"""

from collections.abc import Mapping

from packaging.version import Version

# DGL's release -> the torch versions it brings a compiled GraphBolt for (libgraphbolt_pytorch_<version>.so).
DGL_TORCH = {
    "2.1.0": ("2.0.0", "2.0.1", "2.1.0", "2.1.1", "2.1.2", "2.2.0", "2.2.1"),
    "2.2.1": ("2.0.0", "2.0.1", "2.1.0", "2.1.1", "2.1.2", "2.2.0", "2.2.1", "2.2.2", "2.3.0"),
    "2.3.0": ("2.3.0", "2.3.1"),
    "2.4.0": ("2.4.0",),
}
DGL_TORCHDATA = {"2.1.0": "0.7.1"}  # later ones have no torchdata.datapipes.iter as GraphBolt imports it
# CUDA's major version -> the oldest driver whose libraries run it (NVIDIA, CUDA compatibility: minor version rules).
OLDEST_DRIVER = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


def problems(
    versions: Mapping[str, str], device: str, cuda: str | None = None, driver: str | None = None
) -> list[str]:
    """Return what cannot work together among `versions` (canonical name -> version), a sentence each.

    device: what the environment is for, "cpu" or "cuda"; cuda: the version that torch is built for; driver: the
    oldest driver the image is meant for.
    """
    found = []
    torch, dgl = versions.get("torch"), versions.get("dgl")
    if cuda is not None:
        oldest = OLDEST_DRIVER.get(cuda.split(".")[0])
        if oldest is None:
            found.append(f"CUDA {cuda}: its oldest driver is not known here; add it to images/compatibility.py")
        elif driver is not None and Version(driver) < Version(oldest):
            found.append(f"CUDA {cuda} needs driver {oldest} or newer, and the image is meant for {driver}")
    if torch is not None:
        found += _torch(versions, torch, device, cuda)
    if dgl is not None:
        found += _dgl(versions, dgl, torch, device)
    return found


def _torch(versions: Mapping[str, str], torch: str, device: str, cuda: str | None) -> list[str]:
    build, found = Version(torch).local, []
    if device == "cuda" and build == "cpu":
        found.append(f"torch {torch} is a build for the CPU in an image for CUDA")
    if device == "cpu" and build is not None and build.startswith("cu"):
        found.append(f"torch {torch} is a build for CUDA in an image for the CPU")
    if cuda is None:
        return found
    if build is not None and build.startswith("cu") and build != f"cu{cuda.replace('.', '')}":
        found.append(f"torch {torch} is built for CUDA {build[2:]}, not {cuda}")
    runtime = versions.get(f"nvidia-cuda-runtime-cu{cuda.split('.')[0]}", versions.get("nvidia-cuda-runtime"))
    if runtime is not None and _minor(runtime) != cuda:
        found.append(f"the CUDA runtime is {runtime}, not {cuda}: another package has moved it")
    return found


def _dgl(versions: Mapping[str, str], dgl: str, torch: str | None, device: str) -> list[str]:
    release, build = Version(dgl).public, Version(dgl).local
    found = []
    if release not in DGL_TORCH:
        found.append(f"dgl {dgl} is not in the table of images/compatibility.py: {', '.join(DGL_TORCH)} are")
    elif torch is None or Version(torch).public not in DGL_TORCH[release]:
        fitting = ", ".join(DGL_TORCH[release])
        found.append(f"dgl {dgl} has no GraphBolt library for torch {torch}: import dgl fails; take torch {fitting}")
    if device == "cuda" and build is None:
        found.append(f"dgl {dgl} is the build for the CPU that the default index has, in an image for CUDA")
    if device == "cuda" and build is not None and torch is not None and Version(torch).local not in (None, build):
        found.append(f"dgl {dgl} and torch {torch} are built for different CUDA versions")
    if "numpy" in versions and Version(versions["numpy"]).major >= 2:
        found.append(f"dgl {dgl} is compiled against numpy 1 and numpy is {versions['numpy']}: take numpy<2")
    needed, there = DGL_TORCHDATA.get(release), versions.get("torchdata")
    if needed is not None and there != needed:
        found.append(f"dgl {dgl} imports torchdata {needed} and no other; torchdata is {there}")
    return found


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
