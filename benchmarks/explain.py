"""Attributions a second beside plain loops over single graphs, and whether maps of PhysNet and SchNet on the HOMO
energy of QM9 molecules can be trusted.

Usage: python benchmarks/explain.py [--molecules 4000] [--loop 300] [--repeats 5] [--run RUN] [--structures 1000]
First: SchNet of the default size with the same weights on both sides, contributions of atoms to the energy (gradient
times activation of the last layer's input). Ours is one pass over a batch; the loops take one graph after another:
torch_geometric's model with a hook and torch.autograd, the same by captum's LayerGradientXActivation where captum
is installed, and our own model. Graphs are made before, on all sides, and values are compared. Second: the jobs
train-homo (unless RUN is a run of it) and explain-homo, as they ship, on `structures` molecules. Prints Markdown;
recorded runs are in benchmarks/results/.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import machine_line, spread
from predict import GRAPH, HERE, SCHNET, SEED, Peer, molecules, times, write_best

from hpc_kit import machine
from hpc_kit.data.batches import GraphStore
from hpc_kit.data.shards import Arrays, pack
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.explain.explainer import Explainer

Loop = Callable[[], list[np.ndarray]]


def arrays_of(count: int) -> Arrays:
    structures = [from_ase(str(i), atoms, {}, None) for i, atoms in enumerate(molecules(count))]
    return pack(structures, ["energy"], GRAPH)


def by_hook(model: torch.nn.Module, data: list) -> list[np.ndarray]:
    """Return each graph's contributions: the input of the last linear layer times its gradient."""
    seen, found = {}, []
    hook = model.model.lin2.register_forward_pre_hook(lambda _, given: seen.update(features=given[0]))
    for one in data:
        output = model(one)
        (gradient,) = torch.autograd.grad(output.sum(), seen["features"])
        found.append((gradient * seen["features"]).sum(1).detach().numpy())
    hook.remove()
    return found


def by_positions(model: torch.nn.Module, data: list) -> list[np.ndarray]:
    """Return the length of each atom's gradient by its position."""
    found = []
    for one in data:
        kept, one.pos = one.pos, one.pos.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(one).sum(), one.pos)
        one.pos = kept
        found.append(gradient.norm(dim=1).numpy())
    return found


def by_captum(model: torch.nn.Module, data: list) -> list[np.ndarray]:
    from captum.attr import LayerGradientXActivation

    def energy(pos: torch.Tensor, one) -> torch.Tensor:
        return model(one)

    method = LayerGradientXActivation(energy, model.model.lin2)
    return [
        method.attribute(one.pos, additional_forward_args=(one,), attribute_to_layer_input=True)
        .sum(1)
        .detach()
        .numpy()
        for one in data
    ]


def attributions(home: Path, given: argparse.Namespace) -> None:
    sys.path.insert(0, str(HERE / "peers"))
    from pyg_schnet import Precomputed
    from torch_geometric.data import Batch

    torch.manual_seed(SEED)
    peer = Precomputed(SCHNET.model_dump(), GRAPH.cutoff, own_edges=False).eval()
    write_best(home / "schnet.pt", SCHNET, peer.model.state_dict())
    kinds = {name: Explainer.load(home / "schnet.pt", methods=(name,), device="cpu") for name in ("cam", "positions")}
    arrays, few = arrays_of(given.molecules), arrays_of(given.loop)
    store = GraphStore(few, ["energy"])
    single = [store.batch(np.array([i])) for i in range(given.loop)]
    data = [Batch.from_data_list([one]) for one in (Peer(molecules(given.loop))[i] for i in range(given.loop))]
    # label: the map, and what makes it of one graph after another
    loops: dict[str, tuple[str, Loop]] = {
        "torch_geometric, a hook and torch.autograd": ("cam", lambda: by_hook(peer, data)),
        "our own model": ("cam", lambda: [kinds["cam"].maps(0, one).maps["cam"].numpy() for one in single]),
        "torch_geometric and torch.autograd": ("positions", lambda: by_positions(peer, data)),
    }
    try:
        import captum

        loops[f"torch_geometric and captum {captum.__version__}"] = ("cam", lambda: by_captum(peer, data))
    except ModuleNotFoundError:
        pass
    ours: dict[str, list[float]] = {name: [] for name in [*kinds, "prediction alone"]}
    theirs: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(given.repeats + 1):
        if repeat == 1:  # the first warms up
            ours, theirs = ({name: [] for name in rates} for rates in (ours, theirs))
        maps = {}
        for name, explainer in kinds.items():
            began = time.perf_counter()
            maps[name] = explainer.of_arrays(arrays).maps[name][0]
            ours[name].append(given.molecules / (time.perf_counter() - began))
        began = time.perf_counter()
        kinds["cam"].predictor.of_arrays(arrays, [])
        ours["prediction alone"].append(given.molecules / (time.perf_counter() - began))
        for name, (kind, loop) in loops.items():
            began = time.perf_counter()
            values = loop()
            theirs[name].append(len(values) / (time.perf_counter() - began))
            together, size = np.concatenate(values), np.abs(maps[kind]).max()
            np.testing.assert_allclose(together, maps[kind][: len(together)], rtol=1e-3, atol=1e-3 * size)
    print(f"\n{given.molecules} molecules of QM9 in batches of 128; loops over {given.loop} of them\n")
    print("| map | by | structures/s | ours is, times | target |\n|---|---|---|---|---|")
    for name, rates in ours.items():
        print(f"| {name} | ours | {spread(rates, ',.0f')} | | |")
    for name, (kind, _) in loops.items():
        target = "" if name.startswith("our") else "10"
        print(f"| {kind} | {name} | {spread(theirs[name], ',.0f')} | {times(ours[kind], theirs[name])} | {target} |")
    if not any("captum" in name for name in loops):
        print("\nNot run: captum, which is not installed.")


def trust(home: Path, given: argparse.Namespace) -> None:
    run, out = given.run, home / "explained"
    if run is None:
        run = home / "homo"
        began = time.perf_counter()
        hpc_kit(home, "run", "train-homo", "--run", str(run))
        print(f"\ntrain-homo took {time.perf_counter() - began:.0f} s")
    options = [f"explain.models={run.absolute()}", f"explain.limit={given.structures}", "explain.csv=true"]
    options.append(f"explain.trust={{structures: {given.structures}}}")
    began = time.perf_counter()
    hpc_kit(home, "run", "explain-homo", "--run", str(out), *(part for text in options for part in ("--set", text)))
    (task,) = (out / "tasks").iterdir()
    metrics = json.loads((task / "metrics.json").read_text())
    print(f"\nexplain-homo of {given.structures} molecules took {time.perf_counter() - began:.0f} s")
    print("\n| model | seeds | MAE, meV | map | largest remainder, meV |\n|---|---|---|---|---|")
    for model in metrics["models"]:
        for method in metrics["methods"]:
            rest = model["remainder"].get(method)
            left = "" if rest is None else f"{1000 * rest['largest']:.2g}"
            print(f"| {model['label']} | {model['seeds']} | {1000 * model['mae']:.1f} | {method} | {left} |")
    head = ["model", "map", "top quarter zeroed: change, meV (random atoms)", "top quarter removed", "seeds agree"]
    head += ["random weights (draws)", "of absolute values", "passed"]
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for model in metrics["models"]:
        for method, found in model["trust"].items():
            cells = [model["label"], method]
            for way in ("zero", "remove"):
                plus = found["fidelity"][way]["plus"]
                sure = "" if plus["better"] else ", not clear of zero"
                cells.append(f"{1000 * plus['value']:.0f} ({1000 * plus['random']:.0f}){sure}")
            random = found["randomisation"]
            cells.append("-" if found["agreement"] is None else f"{found['agreement']['spearman']:.2f}")
            last = random["spearman"][-1]
            low, high = random["spread"] or (None, None)
            cells.append("constant" if last is None else f"{last:.2f} ({low:.2f} to {high:.2f})")
            cells.append("" if random["size"][-1] is None else f"{random['size'][-1]:.2f}")
            cells.append({True: "yes", False: "**no**", None: "-"}[random["passed"]])
            print(f"| {' | '.join(cells)} |")
    for method, pairs in metrics["between"].items():
        for pair, found in pairs.items():
            print(f"\n{method}: {pair} agree with Spearman {found['spearman']:.2f} over {found['structures']}.")
    roles(task / "roles.csv")


def roles(path: Path) -> None:
    """Print what the maps say of each role with at least 30 atoms: the mean in meV, and the weight."""
    rows = [row for row in csv.DictReader(path.open()) if row["kind"] == "role" and int(row["atoms"]) >= 30]
    columns = list(dict.fromkeys((row["model"], row["method"]) for row in rows))
    print(f"\n| atom | number | {' | '.join(' '.join(column) for column in columns)} |")
    print("|---|---|" + "---|" * len(columns))
    for name in dict.fromkeys(row["name"] for row in rows):
        cells, count = [], 0
        for column in columns:
            row = next((r for r in rows if (r["model"], r["method"]) == column and r["name"] == name), None)
            count = count if row is None else row["atoms"]
            signed = column[1] in ("cam", "grad_cam")
            mean = f"{1000 * float(row['above_mean']):+.0f} meV, " if row and signed else ""
            cells.append("" if row is None else f"{mean}{float(row['weight']):.2f}")
        print(f"| {name} | {count} | {' | '.join(cells)} |")
    print(
        "\nMean above the structure's mean atom, and weight: absolute value over that of the structure's mean atom."
    )


def hpc_kit(home: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "hpc_kit", *arguments], cwd=home, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"hpc_kit {' '.join(arguments)}: {done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", type=int, default=4000)
    parser.add_argument("--loop", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--structures", type=int, default=1000)
    parser.add_argument("--run", type=Path, help="a run of train-homo [it is made]")
    given = parser.parse_args()
    machine.keep_freed_memory()
    print(f"{machine_line(torch=torch.__version__)}; median (range) of {given.repeats}")
    with tempfile.TemporaryDirectory() as home:
        attributions(Path(home), given)
        trust(Path(home), given)


if __name__ == "__main__":
    main()
