"""The machine and process that a run has: versions, CPU features, launchers, memory, output."""
