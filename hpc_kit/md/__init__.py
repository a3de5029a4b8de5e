"""Dynamics with learned forces, watched, and held against a reference: kind "dynamics"."""
