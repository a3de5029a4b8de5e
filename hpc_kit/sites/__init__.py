"""From a site file to command lines, to blocks of its scheduler and to Parsl."""

from hpc_kit.sites.own_script import load_site

__all__ = ["load_site"]
