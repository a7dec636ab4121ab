"""Images, plots and HTML from arrays, with NumPy, Pillow and matplotlib only: no torch."""
