"""Networks that others trained, as artefacts of ours: `san import`."""
