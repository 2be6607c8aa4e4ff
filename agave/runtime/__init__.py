"""What long work needs: devices and processes, saved states, stopping in time, progress."""
