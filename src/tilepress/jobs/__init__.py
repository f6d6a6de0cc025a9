"""Long work that survives a kill: directories that appear whole, locks, fingerprints, JSON records."""
