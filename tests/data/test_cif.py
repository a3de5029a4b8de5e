"""CIF files: their symmetry in all the ways files state it, and what is refused because a graph would be wrong."""

import io
import warnings
from collections import Counter

import ase.io
import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.geometry import get_distances
from conftest import SHARED_DATA

from hpc_kit.data.sources.cif import read_cif
from hpc_kit.data.structures import RejectedError

TYPES = "_atom_site_type_symbol\n"
SITES = f"loop_\n_atom_site_label\n{TYPES}_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
CUBIC, HEXAGONAL = (3.567, 3.567, 3.567, 90, 90, 90), (3.7598, 3.7598, 10.5475, 90, 90, 120)
RHOMBOHEDRAL = (4.1318, 4.1318, 4.1318, 54.126, 54.126, 54.126)
CARBON = "C1 C 0.125 0.125 0.125\n"


def cif(cell: tuple, sites: str, *items: str, columns: str = "") -> bytes:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"_cell_{name} {value}" for name, value in zip(names, cell, strict=True)]
    return "\n".join(["data_x", *lines, *items, SITES + columns + sites]).encode()


def written(atoms) -> bytes:
    file = io.BytesIO()
    ase.io.write(file, atoms, format="cif")
    return file.getvalue()


def neighbours(atoms: Atoms, nearest: int) -> np.ndarray:
    """Return the sorted distances from the first atom, images included: what the order of atoms does not change."""
    whole = atoms.repeat(3)
    distances = get_distances(whole.positions[:1], whole.positions, cell=whole.cell, pbc=True)[1][0]
    return np.sort(distances)[1 : nearest + 1]


def name(symbol: str) -> str:
    return f"_symmetry_space_group_name_H-M '{symbol}'"


# Symmetry


@pytest.mark.parametrize(
    "items",
    [
        [name("F d -3 m :2")],
        [name("F d -3 m Z")],
        [name("F d -3 m"), "_space_group_IT_coordinate_system_code 2"],
        ["_space_group_IT_number 227", "_space_group_IT_coordinate_system_code 2"],
        ["_space_group_name_Hall '-F 4vw 2vw 3'"],
        ["_symmetry_space_group_name_Hall '-F 4vw 2vw 3'"],
        ["_space_group.name_Hall '-F 4vw 2vw 3'", "_space_group.IT_number 227"],
        [name("Fd3m:2")],
        [name("F d -3 m"), "_chemical_formula_sum C", "_cell_formula_units_Z 8"],
    ],
)
def test_diamond_has_eight_atoms_however_its_setting_is_stated(items):
    atoms = read_cif(cif(CUBIC, CARBON, *items))
    assert len(atoms) == 8
    assert neighbours(atoms, 16) == pytest.approx(neighbours(bulk("C", cubic=True, a=3.567), 16))


def test_origin_that_nothing_states_is_refused():
    with pytest.raises(RejectedError, match="two origins and nothing in the file says which"):
        read_cif(cif(CUBIC, CARBON, name("F d -3 m")))


def test_operations_win_over_the_name():
    """They are those of origin 2, the name alone would be ambiguous and the number that of another group."""
    found = spglib.get_symmetry_from_database(526)
    operations = [f"'{text}'" for text in texts(found["rotations"], found["translations"])]
    loop = "\n".join(["loop_", "_space_group_symop_operation_xyz", *operations])
    atoms = read_cif(cif(CUBIC, CARBON, name("F m -3 m"), "_space_group_IT_number 1", loop))
    assert len(atoms) == 8 and neighbours(atoms, 4) == pytest.approx([3.567 * 3**0.5 / 4] * 4)


def texts(rotations: np.ndarray, translations: np.ndarray) -> list[str]:
    rows = []
    for rotation, shift in zip(rotations, translations, strict=True):
        parts = []
        for row, constant in zip(rotation, shift, strict=True):
            terms = "".join(f"{'+' if n > 0 else '-'}{axis}" for n, axis in zip(row, "xyz", strict=True) if n)
            parts.append(f"{terms}+{constant:.5f}")
        rows.append(", ".join(parts))
    return rows


@pytest.mark.parametrize(
    ("cell", "items", "atoms"),
    [
        (RHOMBOHEDRAL, [name("R -3 m")], 2),
        (RHOMBOHEDRAL, [name("R -3 m :R")], 2),
        (RHOMBOHEDRAL, ["_space_group_IT_number 166"], 2),
        (RHOMBOHEDRAL, ["_space_group_name_Hall '-P 3* 2'"], 2),
        (HEXAGONAL, [name("R -3 m")], 6),
        (HEXAGONAL, [name("R -3 m H")], 6),
        (HEXAGONAL, [name("R-3mH")], 6),
    ],
)
def test_arsenic_in_rhombohedral_and_hexagonal_axes(cell, items, atoms):
    site = "As1 As 0.2271 0.2271 0.2271\n" if cell is RHOMBOHEDRAL else "As1 As 0 0 0.2271\n"
    found = read_cif(cif(cell, site, *items))
    assert len(found) == atoms
    assert neighbours(found, 6) == pytest.approx([2.517] * 3 + [3.120] * 3, abs=0.01)


def test_axes_that_contradict_the_cell_are_refused():
    with pytest.raises(RejectedError, match="does not fit the cell"):
        read_cif(cif(RHOMBOHEDRAL, "As1 As 0.2271 0.2271 0.2271\n", name("R -3 m :H")))


def test_hall_symbols_differ_by_a_blank():
    sites, cell = "C1 C 0.1 0.2 0.3\n", (6, 6, 7, 90, 90, 120)
    halls = [f"_space_group_name_Hall '{hall}'" for hall in ("P 3 2", "P 32")]
    assert [len(read_cif(cif(cell, sites, hall))) for hall in halls] == [6, 3]


def test_unique_axis_follows_the_cell():
    sites = "C1 C 0.1 0.2 0.3\n"
    b_unique = read_cif(cif((5, 6, 7, 90, 105, 90), sites, name("P 21/c")))
    c_unique = read_cif(cif((5, 7, 6, 90, 90, 105), "C1 C 0.1 0.3 0.2\n", name("P 1 1 21/b")))
    assert len(b_unique) == len(c_unique) == 4
    assert neighbours(b_unique, 12) == pytest.approx(neighbours(c_unique, 12))


@pytest.mark.parametrize(("old", "new"), [("C m c a", "C m c e"), ("B m a b", "B m e b")])
def test_names_before_and_after_1992_agree(old, new):
    old, new = (read_cif(cif((5, 6, 7, 90, 90, 90), "C1 C 0.1 0.2 0.3\n", name(n))).positions for n in (old, new))
    assert len(old) == 16 and np.allclose(old, new)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([name("F d -3 m :3")], "no setting '3'"),
        ([name("F q -3 m")], "'F q -3 m' is not in spglib's table"),
        (["_space_group_name_Hall '-F 4vw 2vw 9'"], "write out the symmetry operations"),
        ([name("F d -3 m :2"), "_space_group_IT_number 225"], "is number 227, the file says 225"),
        (["loop_\n_space_group_symop_operation_xyz\nx,y,z\n-y,x,z"], "are no group"),
        (["loop_\n_space_group_symop_operation_xyz\nx,y,z\n-x,-y"], "not one such as"),
        (["loop_\n_space_group_symop_magn_operation_xyz\nx,y,z,+1"], "magnetic or modulated"),
        (
            ["loop_\n_space_group_symop_operation_xyz\nx,y,z", "_chemical_formula_sum C", "_cell_formula_units_Z 8"],
            "the cell holds 'C1'; the file's formula is 'C1' with Z = 8",
        ),
    ],
)
def test_symmetry_in_doubt_is_refused(items, reason):
    with pytest.raises(RejectedError, match=reason):
        read_cif(cif(CUBIC, CARBON, *items))


def test_coarsely_rounded_coordinates_give_one_atom_a_place():
    magnesium = read_cif(cif((3.2, 3.2, 5.2, 90, 90, 120), "Mg1 Mg 0.33 0.67 0.25\n", name("P 63/m m c")))
    assert len(magnesium) == 2


def test_cif_in_p1_and_with_symmetry_give_the_same_crystal():
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    sites = "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5\n"
    expanded = read_cif(cif((5.64, 5.64, 5.64, 90, 90, 90), sites, "_space_group_IT_number 225"))
    plain = read_cif(written(salt))
    assert sorted(expanded.symbols) == sorted(plain.symbols)
    assert neighbours(expanded, 26) == pytest.approx(neighbours(plain, 26))


# Counts


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (["_chemical_formula_sum 'C'", "_cell_formula_units_Z 8"], None),
        (["_chemical_formula_sum 'C8'", "_cell_formula_units_Z 8"], None),  # as pymatgen writes it
        (["_chemical_formula_sum 'C2'", "_cell_formula_units_Z 4"], None),
        (["_chemical_formula_sum '?'", "_cell_formula_units_Z 4"], None),
        (["_chemical_formula_sum 'C'"], None),
        (["_chemical_formula_sum 'C'", "_cell_formula_units_Z 4"], "the cell holds 'C8'; .* 'C1' with Z = 4"),
        (["_chemical_formula_sum 'C H4'"], "no multiple of the file's formula 'C1 H4'"),
        (["_chemical_formula_sum 'Si'"], "no multiple"),
    ],
)
def test_atoms_are_counted_against_the_formula(items, reason):
    content = cif(CUBIC, CARBON, name("F d -3 m :2"), *items)
    if reason is None:
        assert len(read_cif(content)) == 8
    else:
        with pytest.raises(RejectedError, match=reason):
            read_cif(content)


@pytest.mark.parametrize("multiplicity", [8, 24])  # of the site, and the order of its symmetry as SHELXL-97 has it
def test_multiplicity_of_a_site_is_believed_in_both_its_meanings(multiplicity):
    content = cif(CUBIC, f"C1 C 0.125 0.125 0.125 {multiplicity}\n", name("F d -3 m :2"), columns=MULTIPLICITY)
    assert len(read_cif(content)) == 8


MULTIPLICITY = "_atom_site_symmetry_multiplicity\n"


def test_other_multiplicity_is_refused():
    content = cif(CUBIC, "C1 C 0.125 0.125 0.125 16\n", name("F d -3 m :2"), columns=MULTIPLICITY)
    with pytest.raises(RejectedError, match="site 'C1' has 8 images in the cell, the file says 16"):
        read_cif(content)


# Sites


@pytest.mark.parametrize(
    ("site", "column", "reason"),
    [
        ("M1 '0.615(5)Cu + 0.385(5)Al' 0 0 0\n", "", "is not one element: a mixed or partly occupied site"),
        ("M1 Cu0.6Al0.4 0 0 0\n", "", "'Cu0.6Al0.4' is not one element"),
        ("M1 Cu/Al 0 0 0\n", "", "'Cu/Al' is not one element"),
        ("M1 CuAl 0 0 0\n", "", "unknown element symbol|not one element"),
        ("M1 Cu0.6 0 0 0\n", "", "'Cu0.6' is not one element"),
        ("M1 Wat 0 0 0\n", "", "unknown element symbol 'Wat'"),
        ("Cu1 Cu 0 0 0 0,5\n", "_atom_site_occupancy\n", "occupancy '0,5' of site 'Cu1' is not a number"),
        ("Cu1 Cu 0 0 0 0.5(1)\n", "_atom_site_occupancy\n", "site 'Cu1' is occupied to 0.5"),
        ("Cu1 Cu 0 0 0 2\n", "_atom_site_occupancy\n", "occupancy 2 of site 'Cu1' is more than 1"),
        ("Cu1 Cu 0 0 ?\n", "", "coordinate '\\?' of site 'Cu1' is not a number"),
        ("Cu1 Cu 0 0 0\nCu2 Cu 0 0\n", "", "incomplete row|Wrong number"),
        ("C1 C 0 0 0 1\nC2 C 0 0 .4 2\n", "_atom_site_disorder_group\n", "2 disorder groups"),
        ("C1 C 0 0 0 -1\n", "_atom_site_disorder_group\n", "disorder about a symmetry element"),
        ("C1 C 0 0 0\nC2 C 0 0 0.0757\n", "", "two atoms 0.27 Angstrom apart .'C[12]' and 'C[12]'."),
    ],
)
def test_site_that_is_not_one_whole_atom_is_refused(site, column, reason):
    with pytest.raises(RejectedError, match=reason):
        read_cif(cif(CUBIC, site, columns=column))


def test_full_occupancies_and_one_disorder_group_are_read():
    columns = "_atom_site_occupancy\n_atom_site_disorder_group\n"
    assert len(read_cif(cif(CUBIC, "C1 C 0 0 0 1.00(1) .\nC2 C 0 0 0.4 . 1\n", columns=columns))) == 2


def test_elements_are_read_from_types_and_from_labels_alone():
    types = "A Fe3+ 0 0 0\nB O2- 0.5 0 0\nC D 0 0.5 0\nD CU 0 0 0.5\nE Cl- .5 .5 0\nF C1 .5 .5 .5\n"
    assert Counter(read_cif(cif(CUBIC, types)).symbols) == Counter("Fe O H Cu Cl C".split())
    labels = cif(CUBIC, "Fe1 0 0 0\nOW1 0.5 0 0\nD2A 0 0.5 0\nH12B 0 0 0.5\n").replace(TYPES.encode(), b"")
    assert list(read_cif(labels).symbols) == ["Fe", "O", "H", "H"]


def test_label_with_two_readings_is_refused():
    content = cif(CUBIC, "CA1 0 0 0\n").replace(TYPES.encode(), b"")
    with pytest.raises(RejectedError, match="may be C or Ca: add the column _atom_site_type_symbol"):
        read_cif(content)


def test_cif_of_two_structures_is_rejected():
    with pytest.raises(RejectedError, match="2 structures"):
        read_cif(written([bulk("Cu"), bulk("Si")]))


def test_cif_that_is_none_is_rejected():
    with pytest.raises(RejectedError, match="0 structures|not a CIF"):
        read_cif(b"not a crystal")


# Real crystals


def symmetric_cif(crystal: Atoms, statement: str) -> tuple[bytes, Atoms]:
    """Return a crystal's standard cell as a CIF file of its different sites, and whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lattice, places, numbers = spglib.standardize_cell(
            (crystal.cell.array, crystal.get_scaled_positions(), crystal.numbers), symprec=1e-3
        )
        found = spglib.get_symmetry_dataset((lattice, places, numbers), symprec=1e-3)
        kind = spglib.get_spacegroup_type(found.hall_number)
    whole = Atoms(numbers=numbers, scaled_positions=places, cell=lattice, pbc=True)
    sites = sorted(set(found.crystallographic_orbits))
    text = "".join(f"X{i} {whole.symbols[i]} {' '.join(f'{x:.6f}' for x in places[i])}\n" for i in sites)
    if statement == "hall":
        item = f"_space_group_name_Hall '{kind.hall_symbol}'"
    else:
        item = name(f"{kind.international_full}:{kind.choice}".rstrip(":"))
    return cif(tuple(whole.cell.cellpar()), text, item), whole


@pytest.mark.parametrize("statement", ["hall", "name"])
def test_jarvis_crystals_come_back_from_their_different_sites(statement):
    files = sorted((SHARED_DATA / "jarvis_sample").glob("POSCAR-*.vasp"))
    if not files:
        pytest.skip("shared/data/jarvis_sample is not beside this repository")
    reduced = 0
    for file in files[:25]:
        content, whole = symmetric_cif(ase.io.read(file), statement)
        atoms = read_cif(content)
        reduced += len(whole) > content.count(b"\nX")
        assert Counter(atoms.symbols) == Counter(whole.symbols), file
        for first, second in ((atoms, whole), (whole, atoms)):
            distances = get_distances(first.positions, second.positions, cell=whole.cell, pbc=True)[1]
            assert distances.min(axis=1).max() < 1e-3, file
    assert reduced > 15
