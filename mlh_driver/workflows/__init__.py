"""What users want done with the model, from a start to a report: each a command and a Python function."""
