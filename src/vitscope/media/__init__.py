"""Media beyond images: clips, volumes and recordings, and the maps of them; without torch."""
