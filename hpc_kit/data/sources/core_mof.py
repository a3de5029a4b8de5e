"""CoRE MOF: experimental metal-organic frameworks, cleaned for simulation, from the installed package core-mof.

2019: Chung et al., J. Chem. Eng. Data 64, 5985 (2019), doi 10.1021/acs.jced.9b00835, data doi 10.5281/zenodo.7691378.
2014: Chung et al., Chem. Mater. 26, 6185 (2014), doi 10.1021/cm502594j, data doi 10.5281/zenodo.3228673.
The data are CC BY 4.0: cite them. Pore properties were computed with Zeo++.
"""

from pathlib import Path

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import archives
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.hmof import MOFs
from hpc_kit.data.sources.tables import Table
from hpc_kit.spec.errors import InputError

OPTIONS = {
    "set": "ASR (2019, all solvent removed; default), FSR (2019, free solvent removed) or 2014 (no properties)",
    "max_unpacked_gb": archives.OPTIONS["max_unpacked_gb"],
}
_SETS = {"ASR": "2019-ASR", "FSR": "2019-FSR", "2014": "2014"}
# target: (column of the table, unit, description). The column cm3_g is the density: AV_VF / AV_cm3_g in every row.
PROPERTIES = {
    "lcd": ("LCD", "Angstrom", "largest cavity diameter"),
    "pld": ("PLD", "Angstrom", "pore limiting diameter"),
    "lfpd": ("LFPD", "Angstrom", "largest sphere along the free path"),
    "density": ("cm3_g", "g/cm3", "density of the crystal"),
    "asa_m2_cm3": ("ASA_m2_cm3", "m2/cm3", "accessible surface area by volume"),
    "asa_m2_g": ("ASA_m2_g", "m2/g", "accessible surface area by mass"),
    "nasa_m2_cm3": ("NASA_m2_cm3", "m2/cm3", "surface area that is not accessible, by volume"),
    "nasa_m2_g": ("NASA_m2_g", "m2/g", "surface area that is not accessible, by mass"),
    "av_vf": ("AV_VF", "", "accessible void fraction"),
    "av_cm3_g": ("AV_cm3_g", "cm3/g", "accessible volume by mass"),
    "nav_cm3_g": ("NAV_cm3_g", "cm3/g", "volume that is not accessible, by mass"),
}


def open_source(path: Path | None, options: dict[str, str]) -> MOFs:
    """Open one set of CoRE MOF; `path` may name the package's data folder where it is not installed."""
    chosen = opt.choice(options, "set", list(_SETS), "ASR")
    if path is None:
        folder, place = opt.installed("core-mof", "CoRE_MOF/data")
    else:
        folder, place = opt.existing(path, "core_mof", "the data folder of the package core-mof", "folder"), path.name
    stem = _SETS[chosen]
    for file in (f"{stem}.csv", f"{stem}.tar.xz"):
        if not (folder / file).is_file():
            raise InputError(f"{folder}: holds no {file}; name the data folder of the package core-mof")
    origin = {
        "dataset": f"CoRE MOF {stem}",
        "doi": "10.1021/cm502594j" if chosen == "2014" else "10.1021/acs.jced.9b00835",
        "licence": "CC BY 4.0",
        "from": place,
    }
    if chosen == "2014":
        return MOFs("core_mof", folder / f"{stem}.tar.xz", None, {}, {}, origin, archives.bounds(options))
    table = Table(folder / f"{stem}.csv", "filename", [column for column, _, _ in PROPERTIES.values()])
    targets = {name: Target(unit=unit, description=text) for name, (_, unit, text) in PROPERTIES.items()}
    rename = {column: name for name, (column, _, _) in PROPERTIES.items()}
    return MOFs("core_mof", folder / f"{stem}.tar.xz", table, rename, targets, origin, archives.bounds(options))
