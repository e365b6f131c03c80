"""What ships with the package: the starter model and the sample crops."""

from pathlib import Path

#: The model that is taken where none is named.
STARTER = Path(__file__).parent / "starter.onnx"
