"""san-deploy: Sharp Attention Networks for person re-identification, from training to the edge."""

__version__ = "0.1.0"
