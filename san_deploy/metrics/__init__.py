"""Ranking metrics, computed as the field does, in FP32, with a stated tie policy and no Q x G matrix.

    scores = Similarity(query, gallery)          # or rerank.Reranked(query, gallery)
    labels = RankingLabels(query_person=..., gallery_person=..., query_camera=..., gallery_camera=...)
    result = rank_queries(scores, labels)         # rank of each positive of each query
    ranking = result.summary()                    # CMC, mAP, mINP

`evaluate` is these lines in one call.
"""

from .cuhk03 import SingleShot, draw_single_shot, single_shot
from .labels import RankingLabels
from .lists import RankList, rank_lists
from .ranking import (
    AP_DEFINITION,
    QueryRanks,
    Ranking,
    evaluate,
    evaluate_among,
    rank_positives,
    rank_queries,
)
from .scores import Scores, Similarity
from .tracklets import centre_cameras, evaluate_tracklets, join_cameras, pool_cameras, pool_tracklets

__all__ = [
    "AP_DEFINITION",
    "QueryRanks",
    "RankList",
    "Ranking",
    "RankingLabels",
    "Scores",
    "Similarity",
    "SingleShot",
    "centre_cameras",
    "draw_single_shot",
    "evaluate",
    "evaluate_among",
    "evaluate_tracklets",
    "join_cameras",
    "pool_cameras",
    "pool_tracklets",
    "rank_lists",
    "rank_positives",
    "rank_queries",
    "single_shot",
]
