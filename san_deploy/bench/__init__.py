"""How fast a model is: the engine alone, and from files to embeddings. Models take turns, ratios are paired."""
