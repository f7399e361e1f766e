"""The skeleton graph of the graph convolution networks: 27 points of OpenHands, and its adjacency matrices.

Shapes: V = 27 points, K = 3 subsets of a point's neighbours.
"""

import numpy as np

from islr.data.poses.pose import BODY, HAND_ROOT, LEFT_HAND, RIGHT_HAND

# Thumb tip, then knuckle and tip of the four fingers.
_FINGERS = (4, 5, 8, 9, 12, 13, 16, 17, 20)
_BODY = (0, 2, 5, 11, 12, 13, 14)  # nose, eyes, shoulders, elbows
# The mediapipe-27 preset of OpenHands (its `PoseSelect`): points of the canonical 75.
POINTS = tuple(BODY.start + point for point in _BODY) + tuple(
    hand.start + point for hand in (LEFT_HAND, RIGHT_HAND) for point in (HAND_ROOT, *_FINGERS)
)
CENTRE = 0  # the nose
_LEFT_ROOT, _RIGHT_ROOT = len(_BODY), len(_BODY) + 1 + len(_FINGERS)


def _hand_edges(root: int) -> tuple[tuple[int, int], ...]:
    """From the hand's root to the thumb's tip and each knuckle, and from a knuckle to its tip."""
    fingers = [(root + knuckle, root + knuckle + 1) for knuckle in range(2, len(_FINGERS), 2)]
    return ((root, root + 1), *(edge for knuckle, tip in fingers for edge in ((root, knuckle), (knuckle, tip))))


# Pairs (from, to), "inward" in its st_gcn.yaml; an elbow is joined to the hand's root, which stands for the wrist.
EDGES = (
    *((2, 0), (1, 0), (0, 3), (0, 4), (3, 5), (4, 6), (5, _LEFT_ROOT), (6, _RIGHT_ROOT)),
    *_hand_edges(_LEFT_ROOT),
    *_hand_edges(_RIGHT_ROOT),
)


def spatial_partition() -> np.ndarray:
    """ST-GCN's spatial configuration (arXiv 1801.07455, section 3.3), float32 `[K, V, V]`, entry (from, to).

    A point itself; neighbours no nearer to the centre than it; neighbours nearer. As in the original code, with a
    neighbourhood of one hop every distance above one is infinite, and two infinities are equally far.
    """
    joined = np.eye(len(POINTS), dtype=np.float32)
    for start, end in EDGES:
        joined[start, end] = joined[end, start] = 1
    weights = joined / joined.sum(axis=0)
    hops = np.where(joined[CENTRE] > 0, 1.0, np.inf)
    hops[CENTRE] = 0
    itself = np.eye(len(POINTS), dtype=bool)
    nearer = hops[:, None] < hops[None]
    return np.stack([weights * itself, weights * (~itself & ~nearer), weights * (~itself & nearer)])


def directed_partition() -> np.ndarray:
    """A point itself, neighbours along the edges and against them, each normalised: float32 `[K, V, V]`.

    As in 2s-AGCN and its followers; entry (to, from) of an edge.
    """
    inward = np.zeros((len(POINTS), len(POINTS)), np.float32)
    for start, end in EDGES:
        inward[end, start] = 1
    outward = inward.T
    return np.stack([np.eye(len(POINTS), dtype=np.float32), *(_per_column(links) for links in (inward, outward))])


def _per_column(links: np.ndarray) -> np.ndarray:
    return links / np.maximum(links.sum(axis=0), 1)
