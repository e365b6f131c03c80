"""Training of Sharp Attention Networks in PyTorch. Imported as `san_train`."""
