"""Running a model one decoder layer at a time."""
