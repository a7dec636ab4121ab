"""Turn images into the pixels that a model takes, and measure which part of the photo they show."""
