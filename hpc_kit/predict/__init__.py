"""Numbers from what was trained: Predictor, the command `hpc_kit predict`, jobs of kind "predict", a calculator."""
