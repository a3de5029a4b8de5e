"""Makes hpc_kit/embedded/qm9_sample: 4,000 QM9 molecules drawn at random from the qm9pack package.

Usage: pip install --no-deps qm9pack==1.0.3 && python scripts/make_sample.py
The sample holds QM9's 15 published properties and leaves out the atomisation energies derived from them.
"""

import shutil

import numpy as np

from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.sources import open_source
from hpc_kit.data.sources.qm9 import PROPERTIES
from hpc_kit.spec.shipped import shipped_folder

COUNT, SEED = 4000, 2014


class Sample:
    """A random part of QM9, as a source."""

    name = "qm9_sample"
    splits: dict = {}

    def __init__(self):
        self.qm9 = open_source("qm9", None, {})
        total = sum(1 for _ in self.qm9.records())
        chosen = np.random.Generator(np.random.PCG64(SEED)).choice(total, COUNT, replace=False)
        self.chosen = set(chosen.tolist())
        self.targets = {name: self.qm9.targets[name] for name in PROPERTIES}
        self.origin = {
            **{key: self.qm9.origin[key] for key in ("dataset", "doi", "licence", "from")},
            "sample": f"{COUNT} of {total} molecules, numpy PCG64({SEED}).choice without replacement, QM9's order",
        }

    def records(self):
        return (record for index, record in enumerate(self.qm9.records()) if index in self.chosen)

    def convert(self, id, raw):
        structure = self.qm9.convert(id, raw)
        structure.targets = {name: structure.targets[name] for name in PROPERTIES}
        return structure


if __name__ == "__main__":
    folder = shipped_folder("embedded") / "qm9_sample"
    shutil.rmtree(folder, ignore_errors=True)
    manifest = prepare(Sample(), folder, Settings(graph=None, shard_size=COUNT), workers=0)
    (folder / "rejects.jsonl").unlink()
    print(manifest.graphs, "molecules", manifest.sha256)
