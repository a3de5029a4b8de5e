"""What users write, as typed models; everything else in the package may import it, it imports nothing of it."""
