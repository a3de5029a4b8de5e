"""Batch training of graph neural networks for molecules, crystals and MOFs on shared supercomputers."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Load what scripts and notebooks use when they use it: the command line starts without it."""
    if name == "read_run":
        from hpc_kit.report.frames import read_run

        return read_run
    if name == "Predictor":
        from hpc_kit.predict.predictor import Predictor

        return Predictor
    if name == "Calculator":
        from hpc_kit.predict.calculator import Calculator

        return Calculator
    raise AttributeError(f"module 'hpc_kit' has no attribute {name!r}")
