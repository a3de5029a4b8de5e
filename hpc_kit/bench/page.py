"""What this room adds to the page of a run. The login side."""

from hpc_kit.bench.study_page import sections_of_any

__all__ = ["sections_of_any"]
