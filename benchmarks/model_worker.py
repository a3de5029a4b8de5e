"""One side of benchmarks/models.py: trains an epoch whenever it is told to, and otherwise waits.

Usage: model_worker.py SETTINGS.json, where `role` is "ours" or a module of benchmarks/peers. Commands come on
standard input, one a line, answers go out as lines of JSON: `epoch` trains one and gives its seconds and, where
known, its mean loss; `flops` counts the operations of the matrix products of one; `peak` gives the most memory held,
MB. The first line out says which versions are at work. A peer's interpreter needs no hpc_kit.
"""

import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def ours(settings: dict) -> Callable[[], float]:
    """Return an epoch of training of our model, on batches from the package's own loader."""
    import torch
    from pydantic import TypeAdapter

    from hpc_kit import machine
    from hpc_kit.data.loader import Dataset
    from hpc_kit.data.sampling import Limits
    from hpc_kit.models import build_model
    from hpc_kit.models.compiling import compiled
    from hpc_kit.spec.data import Graph
    from hpc_kit.spec.models import Model

    if settings["keep"]:
        machine.keep_freed_memory()
    torch.manual_seed(settings["seed"])
    graph = Graph(**settings["graph"])
    data = Dataset(Path(settings["folder"]), [settings["target"]], graph)
    index, limits = np.arange(settings["graphs"]), Limits(settings["batch_size"])
    model = build_model(TypeAdapter(Model).validate_python(settings["model"]), graph)
    predict = compiled(model) if settings["compile"] else model
    optimizer = torch.optim.AdamW(model.parameters())
    ahead = 2 if torch.get_num_threads() > 1 else 0
    number = 0

    def epoch() -> float:
        nonlocal number
        losses = []
        for batch in data.batches(data.plan(index, limits, settings["seed"], number), ahead=ahead):
            batch.pos.requires_grad_(settings["forces"])
            energy = predict(batch)
            loss = (energy - ((batch.targets - settings["mean"]) / settings["std"]).to(energy.dtype)).square().mean()
            if settings["forces"]:
                (slope,) = torch.autograd.grad(energy.sum(), batch.pos, create_graph=True)
                loss = loss + (slope + batch.forces / settings["std"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        number += 1
        return float(torch.stack(losses).mean())

    return epoch


def peers(settings: dict, module) -> Callable[[], float | None]:
    with np.load(settings["arrays"]) as file:
        return module.make(dict(file), settings)


def flops(epoch: Callable) -> int:
    """Return the floating-point operations of an epoch's matrix products, forward and backward.

    By the formulas of torch's FlopCounterMode, whose own hooks do not bear a gradient taken inside a model.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    found = 0

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal found
            name, kwargs = function._overloadpacket, kwargs or {}
            if name in flop_registry:
                found += flop_registry[name](*args, **kwargs)
            elif name is getattr(torch.ops.mkldnn, "_linear_pointwise", None):  # hpc_kit.models.layers.product
                found += 2 * args[0].numel() * args[1].shape[0]
            return function(*args, **kwargs)

    with Counter():
        epoch()
    return found


def main() -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = json.loads(Path(sys.argv[1]).read_text())
    libraries = ["torch"]
    if settings["role"] == "ours":
        epoch = ours(settings)
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
        module = importlib.import_module(settings["role"])
        libraries, epoch = module.LIBRARIES, peers(settings, module)

    def answer(**what) -> None:
        print(json.dumps(what), file=answers)

    answer(versions=[f"{name} {importlib.metadata.version(name)}" for name in libraries])
    for command in sys.stdin:
        if command.strip() == "epoch":
            began = time.perf_counter()
            loss = epoch()
            answer(epoch_s=time.perf_counter() - began, loss=loss)
        elif command.strip() == "flops":
            answer(flops=flops(epoch))
        else:
            answer(peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


main()
