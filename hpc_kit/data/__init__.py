"""Shard sets: how structures and targets lie on disk and how batches are made of them."""
