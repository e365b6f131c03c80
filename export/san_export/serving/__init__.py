"""Model files set up for servers: Triton's repository, DeepStream's configuration. Needs no PyTorch, no server."""
