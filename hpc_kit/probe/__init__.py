"""Tasks of kind "probe": a tiny piece of work that counts, to try a site."""
