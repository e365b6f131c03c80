"""Relation-aware global attention (Zhang et al., CVPR 2020, arXiv 1904.02998), without the map of relations.

Each half of a block weighs nodes by their relations to all other nodes. In the spatial half the nodes are the
positions of a feature map and their features its channels; in the channel half it is the other way round.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: By how much each layer of a block narrows what it reads.
RATIO = 8


def _narrowed(size: int) -> int:
    # At least 1: the published sizes are far above, those of a small network on small crops are not.
    return max(1, size // RATIO)


class RelationAttention(nn.Module):
    """One half of a block: a weight in (0, 1) for each node.

    Nodes are embedded twice, as Theta and Phi, both `(D, P)` for P nodes. The affinity of two is
    G[i, j] = <Theta_i, Phi_j>, neither scaled nor normalised. Node p is described by G[p, :] and G[:, p], which
    a linear layer A | B narrows to S numbers. As nothing lies between G and that layer,

        A G^T + B G = (A Phi^T) Theta + (B Theta^T) Phi

    and the `(P, P)` map is never made: the same function of the same weights, for a sixth of the products.

    Args:
        features: numbers that describe a node.
        nodes: P; weights belong to nodes, so that it is fixed.
        literal: make the map, as the authors' code does. For comparisons; slower, and larger by far.
    """

    def __init__(self, features: int, nodes: int, *, literal: bool = False) -> None:
        super().__init__()
        self.nodes = nodes
        self.literal = literal
        self.embedded, related = _narrowed(features), _narrowed(nodes)
        hidden = _narrowed(1 + related)
        # Theta, Phi and the unary embedding, one above the other: they read the same.
        self.embed = nn.Sequential(
            nn.Conv2d(features, 3 * self.embedded, 1, bias=False),
            nn.BatchNorm2d(3 * self.embedded),
            nn.ReLU(inplace=True),
        )
        # A^T and B^T, drawn as the one 1 x 1 convolution on 2 P channels that they are in the authors' code.
        bound = 1.0 / math.sqrt(2 * nodes)
        self.outgoing = nn.Parameter(torch.empty(nodes, related).uniform_(-bound, bound))
        self.incoming = nn.Parameter(torch.empty(nodes, related).uniform_(-bound, bound))
        self.norm = nn.BatchNorm1d(related)
        self.weigh = nn.Sequential(
            nn.Conv2d(1 + related, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 1, 1, bias=False),
            nn.BatchNorm2d(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, features, h, w)` with h * w nodes to `(N, 1, nodes, 1)`."""
        embedded = self.embed(x).reshape(-1, 3 * self.embedded, self.nodes)
        pair, unary = embedded[:, : 2 * self.embedded], embedded[:, 2 * self.embedded :]
        relations = self._literal(pair) if self.literal else self._relations(pair)
        described = torch.cat([unary.mean(1, keepdim=True), torch.relu(relations)], 1)  # (N, 1 + S, P)
        return torch.sigmoid(self.weigh(described.unsqueeze(3)))

    def _relations(self, pair: Tensor) -> Tensor:
        """Theta above Phi, `(N, 2 D, P)`, to the narrowed and normalised relations, `(N, S, P)`."""
        theta, phi = pair.chunk(2, 1)
        narrowed = torch.cat([phi @ self.outgoing, theta @ self.incoming], 1)  # (N, 2 D, S)
        if self.training:
            return self.norm(narrowed.transpose(1, 2) @ pair)
        # Folded here, as no exporter folds a norm into a product of two values. The scale comes before that
        # product, which otherwise may leave FP16's range; and TensorRT 10.3 folds an FP16 norm in FP16.
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        return (narrowed * scale).transpose(1, 2) @ pair + shift[:, None]

    def _literal(self, pair: Tensor) -> Tensor:
        """The same by way of the map."""
        theta, phi = pair.chunk(2, 1)
        affinity = theta.transpose(1, 2) @ phi  # (N, P, P)
        relations = torch.cat([affinity.transpose(1, 2), affinity], 1)  # (N, 2 P, P)
        return self.norm(torch.cat([self.outgoing, self.incoming]).T @ relations)


class RelationBlock(nn.Module):
    """Attention over positions, over channels, or over positions and then over channels.

    Args:
        channels: of the feature map.
        size_hw: its height and width.
        variant: `s`, `c` or `sc`.
        literal: see `RelationAttention`.
    """

    def __init__(
        self, channels: int, size_hw: tuple[int, int], *, variant: str = "sc", literal: bool = False
    ) -> None:
        super().__init__()
        self.channels, self.size_hw = channels, size_hw
        places = size_hw[0] * size_hw[1]
        self.spatial = RelationAttention(channels, places, literal=literal) if "s" in variant else None
        self.channel = RelationAttention(places, channels, literal=literal) if "c" in variant else None

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, H, W)` to the same shape."""
        return self.attend(x)[0]

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The weighted features, and the gates they were multiplied with: `(N, 1, H, W)`, `(N, channels, 1, 1)`."""
        gates: list[Tensor] = []
        if self.spatial is not None:
            gates.append(self.spatial(x).reshape(-1, 1, *self.size_hw))
            x = x * gates[-1]
        if self.channel is not None:
            places = self.size_hw[0] * self.size_hw[1]
            turned = x.reshape(-1, self.channels, places).transpose(1, 2)  # (N, H W, channels)
            gates.append(self.channel(turned.unsqueeze(3)).reshape(-1, self.channels, 1, 1))
            x = x * gates[-1]
        return x, gates
