"""From checkpoints to model files that describe and check themselves. Imported as `san_export`."""
