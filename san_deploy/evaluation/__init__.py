"""A model on a labelled data set, by the field's protocols: figures, their page, and what repeats them.

views = TTA("none")
embedded = embed_files([crop.path for crop in crops], model, views)
result = evaluate_set(chosen, model, EvalConfig())
"""

from .config import EvalConfig, Expansion, Rerank
from .result import EvaluationResult, SingleShots, TrackletFigures
from .run import evaluate_set
from .test_time_augmentation import TTA, VIEWS

__all__ = [
    "TTA",
    "VIEWS",
    "EvalConfig",
    "EvaluationResult",
    "Expansion",
    "Rerank",
    "SingleShots",
    "TrackletFigures",
    "evaluate_set",
]
