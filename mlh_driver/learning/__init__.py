"""Active learning: explore with the model, label what it does not know, retrain, until it does.

seeds -> explore (MD with the model) -> frames -> label (DFT) -> error on them -> train -> model -> ...
"""
