"""Every unit conversion of the package. Inside it: eV, Angstrom, eV/Angstrom.

Quantities that are no energies keep the unit their field reports them in (debye, bohr^3, cal/(mol K)).
"""

from ase import units

HARTREE = units.Hartree  # eV; CODATA 2014, as ASE
KCAL_PER_MOL = units.kcal / units.mol  # eV
