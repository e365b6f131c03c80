"""Batches for training, drawn by processes ahead of the network. What a process runs (`worker`) imports no PyTorch."""
