"""Pictures of explanations. Numpy, Pillow and matplotlib only: no torch."""
