"""A model on a labelled data set, by the field's protocols: figures, their page, and what repeats them.

views = Views("none")
embedded = embed_crops([crop.path for crop in crops], model, views)
result = evaluate_set(chosen, model, Choices())
"""

from .choices import Choices, Expansion, Rerank
from .embedding import Embedded, embed_crops
from .result import Evaluation, SingleShots, TrackletFigures
from .run import evaluate_set
from .views import VIEWS, Views

__all__ = [
    "VIEWS",
    "Choices",
    "Embedded",
    "Evaluation",
    "Expansion",
    "Rerank",
    "SingleShots",
    "TrackletFigures",
    "Views",
    "embed_crops",
    "evaluate_set",
]
