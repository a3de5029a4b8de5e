"""How values read: with their unit, at a length that fits."""


def in_unit(value: float | None, unit: str, form: str = ".4g", with_unit: bool = True) -> str:
    """Return `value` as `form` says; energies in eV are shown in meV, and Angstrom by its sign."""
    if value is None:
        return "-"
    if unit == "eV" or unit.startswith("eV/"):
        value, unit = value * 1000, "m" + unit
    unit = unit.replace("Angstrom", "Å")
    return f"{value:{form}} {unit}" if with_unit else f"{value:{form}}"
