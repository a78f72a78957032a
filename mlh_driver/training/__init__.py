"""Training: from labelled structures and settings to a model file."""
