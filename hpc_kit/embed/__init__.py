"""Maps of what models have learned of structures, and how rough a property is over it."""
