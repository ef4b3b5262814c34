"""Losses of SuperPoint's two trainings, and those that several papers share, as functions of tensors alone.

Each is a mean over pairs (or pictures) of what each comes to on its own, so that the loss of a batch is the mean of
the losses of its parts, however it is cut.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, grid_sample, normalize, pixel_unshuffle

from superpoint_ros.networks import STRIDE, cell_centres
from superpoint_training.recipes.geometry import blur, by_pixel, gaussian, pixel_grid, warp

POSITIVE_WEIGHT, POSITIVE_MARGIN, NEGATIVE_MARGIN = 0.05, 1.0, 0.2
"""lambda_d, m_p and m_n of SuperPoint's descriptor loss."""
SAFE_RADIUS = 8.0
"""Pixels within which points are no negatives of one another."""


def detector_loss(logits: Tensor, cells: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy over the 65 channels of every cell (SuperPoint, equations 2 and 3).

    Args:
        logits: `[B, 65, h, w]`.
        cells: `[B, h, w]` int64, the label's pixel within the cell in raster order, 64 where there is none.
        valid: `[B, h, w]` bool, cells that count.

    Returns:
        mean over the pictures of the mean over a picture's valid cells; 0 for one that has none.
    """
    return mean_of_means(cross_entropy(logits.float(), cells, reduction='none'), valid)


def expected_detector_loss(logits: Tensor, expected: Tensor, valid: Tensor) -> Tensor:
    """`detector_loss` for labels that are no pixels but how many keypoints each pixel is expected to have.

    Args:
        logits: `[B, 65, h, w]`.
        expected: `[B, 8h, 8w]`; what a cell lacks to 1 is that it has none, and one that has more is scaled down to 1.
        valid: `[B, h, w]` bool, cells that count.

    Returns:
        as `detector_loss`; never 0, but the entropy of the labels, for a prediction that agrees with them.
    """
    pixels = pixel_unshuffle(expected[:, None], STRIDE)
    sums = pixels.sum(1, keepdim=True)
    shares = torch.cat([pixels / sums.clamp(min=1), (1 - sums).clamp(min=0)], dim=1)
    return mean_of_means(cross_entropy(logits.float(), shares, reduction='none'), valid)


def mean_of_means(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over the first axis of the mean over the others, of which only the valid count."""
    per_example = (values * valid).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
    return per_example.mean()


def repeatability_loss(
    scores: Tensor,
    other_scores: Tensor,
    homography: Tensor,
    valid: Tensor,
    other_valid: Tensor,
    *,
    sigma: float = 1.5,
    price: float = 0.5,
) -> Tensor:
    """What a picture's keypoints cost: each has its price, and is paid for by those of the other picture near it.

    Every cell draws a pixel, or none, with the probabilities of its 65 channels. A keypoint drawn at x is worth
    `S(Hx) - price`, where S is the other picture's probability of a keypoint blurred by a Gaussian of height 1: the
    expected closeness, in [0, 1], of what the other picture finds there. Minus the expected worth of all keypoints is
    the loss. So a pixel gains that both pictures find, and one that is found again too rarely loses, whatever the
    labels say. Gradients reach `scores` alone; call it both ways.

    Args:
        scores, other_scores: `[B, 8h, 8w]` of the two pictures, see `score_map`.
        homography: `[B, 3, 3]` float, this picture's pixels to the other's.
        valid, other_valid: `[B, h, w]` bool, cells that count.
        sigma: of the Gaussian, pixels.
        price: closeness at which a keypoint is worth nothing.

    Returns:
        mean over the pictures of the mean over cells that both show; 0 for pictures that share nothing.
    """
    with torch.no_grad():
        closeness = blur(other_scores, gaussian(sigma, other_scores)).clamp(max=1)
        found, shared = _seen_through(closeness, other_valid, homography)
        shared &= by_pixel(valid)
    return -mean_of_means(scores * (found - price), shared) * STRIDE**2


def _seen_through(map_: Tensor, valid: Tensor, homography: Tensor) -> tuple[Tensor, Tensor]:
    """The map `[B, H, W]` of the picture that the homography leads to, and where it shows valid cells."""
    height, width = map_.shape[-2:]
    moved = warp(pixel_grid(height, width, map_), homography.to(map_.dtype)).unflatten(1, (height, width))
    grid = (moved + 0.5) / map_.new_tensor([width, height]) * 2 - 1
    seen = grid_sample(torch.stack([map_, by_pixel(valid).to(map_.dtype)], dim=1), grid, align_corners=False)
    return seen[:, 0], seen[:, 1] > 0.999


def constant_prediction_loss(density: float, cell_count: int) -> float:
    """The detector loss of the best prediction that does not look at the picture, for comparison.

    Args:
        density: mean number of labelled cells a picture.
        cell_count: cells of a picture.
    """
    share = torch.tensor(min(max(density / cell_count, 1e-6), 1 - 1e-6))
    return float(-(share * torch.log(share / STRIDE**2) + (1 - share) * torch.log1p(-share)))


def dense_hinge_loss(first: Tensor, second: Tensor, centres_in_second: Tensor, valid: Tensor) -> Tensor:
    """The paper's descriptor loss over all pairs of cells (equations 4 to 6), similarities below 0 taken for 0.

    With s = 1 where a cell's centre, warped, is at most 8 px from the other cell's centre, and c = max(0, d.d'), each
    pair contributes `lambda_d * s * max(0, m_p - c) + (1 - s) * max(0, c - m_n)`. Descriptors are L2-normalised, for
    which the paper's lambda_d = 250 does not train; 0.05 does (see `docs/training.md`).

    Args:
        first, second: `[B, D, h, w]` descriptor maps, not normalised.
        centres_in_second: `[B, h * w, 2]` the first picture's cell centres in pixels of the second.
        valid: `[B, h * w]` bool, cells of the second picture that show the first.

    Returns:
        mean over the pictures of the mean over a picture's valid pairs, times h * w; 0 for one that has none.
    """
    rows, columns = second.shape[-2:]
    centres = cell_centres(rows, columns, second.device).reshape(1, -1, 2)
    together = torch.cdist(centres_in_second.float(), centres) <= STRIDE
    a, b = (normalize(d.float(), dim=1).flatten(2) for d in (first, second))
    similarity = (a.transpose(1, 2) @ b).relu()
    hinges = hinge(similarity, together, POSITIVE_WEIGHT, POSITIVE_MARGIN, NEGATIVE_MARGIN)
    counted = valid[:, None, :].expand_as(similarity)
    # Multiplied up so that the loss weighs about as much as the detector's; pairs outnumber cells by h * w.
    return mean_of_means(hinges, counted) * (rows * columns)


def hinge(
    similarity: Tensor, together: Tensor, positive_weight: float, positive_margin: float, negative_margin: float
) -> Tensor:
    """`lambda_d * s * max(0, m_p - d.d') + (1 - s) * max(0, d.d' - m_n)` elementwise (SuperPoint, equation 6)."""
    pull = positive_weight * together * (positive_margin - similarity).relu()
    push = ~together * (similarity - negative_margin).relu()
    return pull + push


def info_nce_loss(
    first: Tensor,
    second: Tensor,
    points_in_second: Tensor,
    valid: Tensor,
    *,
    temperature: float = 0.07,
    rivals: Tensor | None = None,
) -> Tensor:
    """Each descriptor must find its counterpart among those of all points not within `SAFE_RADIUS`, both ways.

    Args:
        first, second: `[B, N, D]` descriptors of corresponding points, normalised.
        points_in_second: `[B, N, 2]` where they lie in the second picture, pixels.
        valid: `[B, N]` bool.
        temperature: divides similarities.
        rivals: `[B, N, D]` normalised, one more negative for each of the first.

    Returns:
        mean over the pairs of the mean cross-entropy of a pair's valid points; 0 for one that has none.
    """
    similarity = first.float() @ second.float().transpose(1, 2) / temperature
    itself = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    positions = points_in_second.float()
    near = torch.cdist(positions, positions) < SAFE_RADIUS
    ignored = ~itself & (near | ~valid[:, None, :] | ~valid[:, :, None])
    logits = similarity.masked_fill(ignored, -1e4)
    target = torch.arange(similarity.shape[1], device=similarity.device).expand(similarity.shape[:2])
    forth = logits
    if rivals is not None:
        forth = torch.cat([logits, (first.float() * rivals.float()).sum(-1, keepdim=True) / temperature], dim=2)
    both = cross_entropy(forth.transpose(1, 2), target, reduction='none') + cross_entropy(
        logits, target, reduction='none'
    )
    return mean_of_means(both / 2, valid)


def location_loss(distances: Tensor, together: Tensor) -> Tensor:
    """How far keypoints that belong together lie apart, in pixels: `L = mean_k d_k`, `[B, N]` each.

    UnsuperPoint, section 4.1, equation 6; KP2D, section 3.1.
    """
    return mean_of_means(distances, together)


def score_loss(scores: Tensor, other_scores: Tensor, together: Tensor) -> Tensor:
    """Keypoints that belong together have one score: `L = mean_k (s_a - s_b)^2`, `[B, N]` each.

    UnsuperPoint, section 4.1, equation 7; KP2D, section 3.1.
    """
    return mean_of_means((scores - other_scores).square(), together)


def unsupervised_point_loss(scores: Tensor, distances: Tensor, together: Tensor) -> Tensor:
    """A keypoint that is found again nearer than others should score higher (UnsuperPoint, section 4.1, equation 8).

        L = mean_k s_k (d_k - mean(d)),   s_k = (s_a + s_b) / 2

    Args:
        scores: `[B, N]` the mean scores s_k of pairs of keypoints.
        distances: `[B, N]` d_k, pixels.
        together: `[B, N]` bool, pairs that count.

    Returns:
        mean over the pictures; 0 for one without pairs. No pair's scores of 0 are its minimum: wherever some distances
        are below their mean, raising those scores makes it negative.
    """
    mean = (distances * together).sum(1, keepdim=True) / together.sum(1, keepdim=True).clamp(min=1)
    return mean_of_means(scores * (distances - mean), together)
