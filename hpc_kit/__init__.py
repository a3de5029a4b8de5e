"""Batch training of graph neural networks for molecules, crystals and MOFs on shared supercomputers."""

__version__ = "0.1.0"
