"""Time and memory beside the plain forward, beside dense attention and beside other packages: `make bench`."""
