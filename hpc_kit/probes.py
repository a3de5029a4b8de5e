"""What only an imported library can tell: `python -m hpc_kit.probes NAME` tries one thing and prints JSON.

Each runs in a process of its own, so that one library that cannot be loaded says nothing about the others. Not for:
judging what is found (images/doctor.py).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def torch_probe() -> dict[str, Any]:
    """Multiply two matrices of 256 x 256 on the device, and compare with float64 on the CPU."""
    began = time.perf_counter()
    import torch

    seconds = time.perf_counter() - began
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    error = ((a.to(device) @ a.to(device)).cpu().double() - a.double() @ a.double()).abs().max().item()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "device": device,
        "gpus": torch.cuda.device_count(),
        "architectures": torch.cuda.get_arch_list(),
        "capability": list(torch.cuda.get_device_capability()) if device == "cuda" else None,
        "nccl": list(torch.cuda.nccl.version()) if device == "cuda" else None,
        "error": error,
        "import_s": seconds,
    }


def pyg_probe() -> dict[str, Any]:
    """Sum messages over the edges of a ring of four nodes, on the device."""
    import torch
    import torch_geometric
    from torch_geometric.utils import scatter

    device = "cuda" if torch.cuda.is_available() else "cpu"
    src, dst = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]], device=device)
    sums = scatter(torch.arange(4.0, device=device)[src], dst, dim_size=4)
    return {"version": torch_geometric.__version__, "device": device, "sums": sums.tolist()}


def dgl_probe() -> dict[str, Any]:
    """The same with DGL, whether its graphs can live on a GPU, and whether GraphBolt can be loaded."""
    import dgl
    import dgl.function as fn
    import torch

    found: dict[str, Any] = {"version": dgl.__version__, "torch": torch.__version__}
    libraries = Path(dgl.__file__).parent / "graphbolt"
    found["graphbolt_for"] = sorted(
        file.name.removeprefix("libgraphbolt_pytorch_").removesuffix(".so")
        for file in libraries.glob("libgraphbolt*.so")
    )
    try:
        import dgl.graphbolt
    except (ImportError, OSError) as error:
        found["graphbolt_error"] = str(error)[:300]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    graph = dgl.graph((torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0])))
    try:
        graph = graph.to(device)
    except dgl.DGLError as error:
        return found | {"device": "cpu", "error": str(error)[:300]}
    graph.ndata["h"] = torch.arange(4.0, device=device)
    graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "s"))
    return found | {"device": device, "sums": graph.ndata["s"].tolist()}


def mpi_probe() -> dict[str, Any]:
    """Say which of how many processes this is by MPI's word and by the launcher's, and sum the ranks over MPI."""
    from mpi4py import MPI

    from hpc_kit.ranks import find_ranks

    world, told = MPI.COMM_WORLD, find_ranks()
    return {
        "rank": world.Get_rank(),
        "size": world.Get_size(),
        "sum": world.allreduce(world.Get_rank()),
        "library": MPI.Get_library_version().split(",")[0].split("\n")[0].strip(" \0"),
        "launcher": told.launcher,
        "launched": told.size,
    }


def hdf5_probe(folder: str) -> dict[str, Any]:
    """Write a file in `folder` and open it for reading, with HDF5's locks as they are set."""
    import tempfile

    import h5py

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "probe.h5"
        with h5py.File(path, "w") as file:
            file["x"] = [1.0, 2.0]
        with h5py.File(path, "r") as file:
            return {"version": h5py.version.hdf5_version, "read": file["x"][:].tolist()}


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "torch": torch_probe,
    "torch_geometric": pyg_probe,
    "dgl": dgl_probe,
    "mpi": mpi_probe,
    "hdf5": hdf5_probe,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(PROBES[sys.argv[1]](*sys.argv[2:])) + "\n")
