"""Makes hpc_kit/embedded/qm9_sample: 4,000 QM9 molecules drawn at random from the qm9pack package.

Usage: pip install --no-deps qm9pack==1.0.3 && python scripts/make_sample.py
The sample holds QM9's 15 published properties and leaves out the atomisation energies derived from them.
"""

import json
import shutil
import sys

import numpy as np

from hpc_kit.data.shards import write_shard_set
from hpc_kit.data.sources import open_source
from hpc_kit.data.sources.qm9 import PROPERTIES
from hpc_kit.spec.shipped import shipped_folder

COUNT, SEED = 4000, 2014


def main() -> None:
    qm9 = open_source("qm9", None, {})
    total = sum(1 for _ in qm9.records())
    chosen = set(np.random.Generator(np.random.PCG64(SEED)).choice(total, COUNT, replace=False).tolist())
    structures = [qm9.convert(*record) for index, record in enumerate(qm9.records()) if index in chosen]
    for structure in structures:
        structure.targets = {name: structure.targets[name] for name in PROPERTIES}
    source = {
        **{key: qm9.origin[key] for key in ("dataset", "doi", "licence", "from")},
        "sample": f"{COUNT} of {total} molecules, numpy PCG64({SEED}).choice without replacement, QM9's order",
    }
    targets = {name: qm9.targets[name] for name in PROPERTIES}
    folder = shipped_folder("embedded") / "qm9_sample"
    shutil.rmtree(folder, ignore_errors=True)
    manifest = write_shard_set(folder, structures, "qm9_sample", source, targets)
    print(json.dumps({"graphs": manifest.graphs, "sha256": manifest.sha256}), file=sys.stdout)


main()
