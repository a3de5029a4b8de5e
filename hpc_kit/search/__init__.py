"""Hyperparameter search: kind "search". rank 0 asks and tells, the other ranks train."""
