"""Compute a reference's numbers with the package itself, in an environment made for it, and store them as npz.

    python tests/references/make.py NAME FOLDER [--python PYTHON]

runs tests/references/NAME.py in the environment FOLDER (made where it is not there) and writes NAME.npz beside this
file. NAME.py names `REQUIREMENTS` (arguments of one pip install a line), `STRUCTURES` ("molecules" or "crystals")
and `GRAPH` (the settings of their edges) as plain values, and is called as `NAME.py IN.npz OUT.npz`. The graphs are
made here, so that both sides see the same, and are stored beside the numbers, as `graph/...`.
"""

import argparse
import ast
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from some_graphs import batch_of, some_crystals, some_molecules  # noqa: E402

from hpc_kit.spec.data import Graph  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the interpreter to make the environment with")
    given = parser.parse_args()
    script = HERE / f"{given.name}.py"
    settings = _constants(script)
    python = given.folder / "bin" / "python"
    if not python.exists():
        subprocess.run([given.python, "-m", "venv", str(given.folder)], check=True)
        for requirements in settings["REQUIREMENTS"]:
            subprocess.run([str(python), "-m", "pip", "install", "-q", *requirements.split()], check=True)
    structures = {"molecules": some_molecules, "crystals": some_crystals}[settings["STRUCTURES"]]()
    batch = batch_of(structures, Graph(**settings["GRAPH"]))
    graph = {name: value.numpy() for name, value in vars(batch).items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        given_path, found_path = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given_path, **graph)
        subprocess.run([str(python), str(script), str(given_path), str(found_path)], check=True)
        with np.load(found_path) as found:
            content = dict(found) | {f"graph/{name}": value for name, value in graph.items()}
    np.savez_compressed(HERE / f"{given.name}.npz", **content)
    print(f"{given.name}.npz: {len(content)} arrays, {(HERE / f'{given.name}.npz').stat().st_size} bytes")


def _constants(script: Path) -> dict:
    """Return the module's upper-case constants without importing it: what it imports is not installed here."""
    assigned = [node for node in ast.parse(script.read_text()).body if isinstance(node, ast.Assign)]
    return {n.targets[0].id: ast.literal_eval(n.value) for n in assigned if n.targets[0].id.isupper()}


if __name__ == "__main__":
    main()
