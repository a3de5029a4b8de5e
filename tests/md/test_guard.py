"""What ends a replica, and what is counted as never seen."""

import re

import numpy as np
import pytest
from ase.build import bulk, molecule

from hpc_kit.md.guard import Guard
from hpc_kit.md.job import Limits
from hpc_kit.md.systems import Systems
from hpc_kit.md.training import Range, range_of_frames
from hpc_kit.md.verlet import Verlet

ETHANOL = molecule("CH3CH2OH")


def still(seen: Range | None = None) -> tuple[Guard, Verlet]:
    systems = Systems.of([ETHANOL], 3)
    verlet = Verlet(systems, lambda s: (np.zeros(len(s)), np.zeros(s.pos.shape)), 1.0)
    guard = Guard([ETHANOL], Limits(), 300.0, seen)
    guard.begin(verlet)
    return guard, verlet


def test_nothing_is_wrong_with_the_start():
    guard, verlet = still(range_of_frames([(ETHANOL.numbers, ETHANOL.positions[None])], "itself"))
    assert guard.check(verlet) == {}
    guard.count(verlet.systems)
    assert guard.looked.tolist() == [3 * 36] and guard.outside.tolist() == [0]


def stretched(verlet):
    pos = verlet.systems.pos
    pos[9 + 2] += 0.6 * (pos[9 + 2] - pos[9 + 0])


def hot(verlet):
    verlet.systems.momenta[9:18] += np.random.default_rng(0).normal(0, 3, (9, 3))


def climbing(verlet):
    verlet.energies[1] += 1.0


def not_a_number(verlet):
    verlet.forces[10, 0] = np.nan


@pytest.mark.parametrize(
    "change, reason",
    [
        (stretched, "bond [CO][0-9]-[OH][0-9] broke: .* Angstrom, .* at the start"),
        (hot, "spike: the temperature is [0-9]+ K"),
        (climbing, r"spike: the total energy is \+111 meV/atom from that at the start"),
        (not_a_number, "NaN"),
    ],
)
def test_one_replica_ends_with_its_reason(change, reason):
    guard, verlet = still()
    change(verlet)
    found = guard.check(verlet)
    assert list(found) == [1]
    assert re.match(reason, found[1])


def test_an_atom_without_bonds_that_flies_away_is_seen():
    pair = molecule("H2O")
    pair.extend(molecule("H2O"))
    pair.positions[3:] += [4.0, 0, 0]
    verlet = Verlet(Systems.of([pair], 2), lambda s: (np.zeros(len(s)), np.zeros(s.pos.shape)), 1.0)
    guard = Guard([pair], Limits(), 300.0, None)
    verlet.systems.pos[6 + 3 : 12] += [20.0, 0, 0]
    assert "flew away" in guard.check(verlet)[1]


def test_a_pair_closer_than_the_training_saw_ends_and_others_are_counted():
    frames = np.repeat(ETHANOL.positions[None], 5, axis=0)
    guard, verlet = still(range_of_frames([(ETHANOL.numbers, frames)], "itself"))
    pos = verlet.systems.pos
    oxygen, hydrogen = 9 + 2, 9 + 3  # the hydrogen of OH, bonded
    pos[hydrogen] += 0.3 * (pos[oxygen] - pos[hydrogen])
    found = guard.check(verlet)
    assert "closer than believed: O2-H3 are 0.68 Angstrom apart; the training saw 0.97 at least" in found[1]
    guard.count(verlet.systems)
    assert 0 < guard.outside[0] < guard.looked[0]
    assert guard.by_pair.sum() == guard.outside[0]


def test_what_is_not_watched_is_told():
    guard = Guard([ETHANOL, bulk("NaCl", "rocksalt", a=5.64), molecule("C60") + ETHANOL], Limits(), 300.0, None)
    crystal, large = guard.unwatched(["ethanol", "salt", "large"])
    assert crystal == "salt: bonds, close pairs and atoms that fly away are not watched in a crystal"
    assert large == "large: close pairs are not watched in molecules of over 64 atoms"
