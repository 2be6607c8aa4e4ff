"""Cost of a preset before it runs: arithmetic, memory, hours."""
