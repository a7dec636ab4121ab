"""Maps for other tools: each module is one tool, and imports it only when it is used."""
