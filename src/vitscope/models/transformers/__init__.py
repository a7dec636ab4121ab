"""Adapt models of transformers: images, clips and sounds, with their processors."""
