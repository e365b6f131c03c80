"""What is trained: the network, the layers that only training needs, and the terms of their loss."""

from __future__ import annotations

from torch import Tensor, nn

from .losses import identity_term, mask_margin_term, triplet_term, tv_term
from .models import Head, Network, Outputs
from .ranks import Ranks
from .recipe import Recipe


class Learner(nn.Module):
    """The network and an identity classifier for each of its heads.

    Args:
        model: the network.
        classes: identities to tell apart.
        logit_scale: see `Recipe`.
    """

    def __init__(self, model: Network, classes: int, *, logit_scale: float) -> None:
        super().__init__()
        self.model = model
        self.logit_scale = logit_scale
        # The first has the name that it had when there was one only, so that older runs resume.
        self._names = [f"classifier{index or ''}" for index in range(len(model.head_dims))]
        for name, dim in zip(self._names, model.head_dims, strict=True):
            classifier = nn.Linear(dim, classes, bias=False)
            nn.init.normal_(classifier.weight, std=0.001 if not logit_scale else 1.0)
            self.add_module(name, classifier)

    def logits(self, out: Outputs) -> list[Tensor]:
        """`(N, classes)` float32 of each head."""
        return [
            self._of_head(self.get_submodule(name), head.identity.float())
            for name, head in zip(self._names, out.heads, strict=True)
        ]

    def _of_head(self, classifier: nn.Module, rows: Tensor) -> Tensor:
        if not self.logit_scale:
            return classifier(rows)
        assert isinstance(classifier, nn.Linear)
        cosine = nn.functional.normalize(rows, dim=1) @ nn.functional.normalize(classifier.weight, dim=1).T
        return cosine * self.logit_scale


def loss_terms(
    learner: Learner,
    out: Outputs,
    label: Tensor,
    recipe: Recipe,
    *,
    hard_masks: bool,
    ranks: Ranks | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of the loss (eq. 8, and what the recipe adds), each a scalar with a gradient.

    Args:
        learner: whose classifiers are asked.
        out: of this process's part of the batch.
        label: `(N,)` int64, identities of that part.
        recipe: the weights.
        hard_masks: whether the last phase of the recipe has begun.
        ranks: processes that share the batch. The triplet loss is then of the whole batch; the other terms are this
            process's part of their mean, so that sums over processes are the loss, and its gradient.
    """
    ranks = ranks or Ranks()
    terms: dict[str, Tensor] = {}
    if recipe.triplet_weight:
        heads = [Head(ranks.gather(head.metric), head.identity) for head in out.heads]
        terms["triplet"] = triplet_term(heads, ranks.gather(label), recipe)
    if recipe.identity_weight:
        terms["identity"] = identity_term(learner.logits(out), label, recipe) / ranks.world
    if recipe.tv_weight and out.attended:
        terms["tv"] = tv_term(out.attended, recipe) / ranks.world
    if hard_masks and recipe.mask_margin_weight and out.pi:
        terms["mask_margin"] = mask_margin_term(out.pi, recipe) / ranks.world
    return terms
