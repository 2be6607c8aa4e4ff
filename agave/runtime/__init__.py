"""Everything that long work needs, whatever it computes: devices, saved states, signals, progress."""
