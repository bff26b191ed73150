"""Fusion: a recorded step becomes fewer launches that do the same, bit for bit where they compute in float32 or more.

Each pass is a function of the Graph, in a file of its own. They rewrite what was recorded; nn and ops know nothing of
them. `program.explain()` shows what each one did, and what it left and why.
"""

from __future__ import annotations

from .casts import merge_casts
from .clipping import fuse_clipping
from .copies import compute_once, drop_copies, share_equal
from .elementwise import fuse_elementwise
from .embeddings import fuse_embeddings
from .graph import Graph
from .losses import fuse_losses
from .norm_casts import fuse_gradient_casts, fuse_norm_casts
from .norms import fuse_norm_dropouts, fuse_norms
from .pairs import pair_products
from .recording import Recording
from .sums import merge_sums

PASSES = (share_equal, drop_copies, compute_once, fuse_losses, fuse_embeddings, fuse_norms, fuse_norm_casts,
          fuse_norm_dropouts, fuse_gradient_casts, merge_sums, fuse_clipping, merge_casts, fuse_elementwise,
          pair_products)


def fused(recording: Recording) -> Graph:
    """What a recording's launches become."""
    graph = Graph(recording)
    for run in PASSES:
        run(graph)
    return graph
