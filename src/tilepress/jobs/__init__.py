"""Long jobs that survive a kill: directories that appear whole, locks, fingerprints, JSON records."""
