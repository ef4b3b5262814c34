"""The window of `visual_odometry.py` made consistent: poses and landmarks that explain what was seen."""

from __future__ import annotations

import cv2
import numpy as np

ENOUGH = 1e-3
"""Share of the cost; a step that changes less is the last."""


def adjust(
    poses: np.ndarray, points: np.ndarray, view: np.ndarray, point: np.ndarray, seen: np.ndarray,
    baseline: float, noise: float, fixed: int, steps: int = 6,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Levenberg-Marquardt with Cauchy's weights; the Schur complement solves for the poses first.

    Args:
        poses: [K, 4, 4] world to camera, of which the first `fixed` stay.
        points: [L, 3] in the world.
        view, point: [M] which pose saw which point.
        seen: [M, 3] where: x / z, y / z and baseline / z in the camera's frame; NaN where not known.
        baseline: in the unit of the points.
        noise: what errors are normal, in the unit of `seen`; larger ones weigh less and less.

    Returns:
        Poses, points, and the length of each error [M].
    """
    K, L, damping = len(poses), len(points), 1e-4
    local, error = _errors(poses, points, view, point, seen, baseline)
    for _ in range(steps):
        x, y, z = local.T
        D = np.zeros((len(view), 3, 3))  # of x / z, y / z and baseline / z
        D[:, 0, 0] = D[:, 1, 1] = 1 / z
        D[:, 0, 2], D[:, 1, 2], D[:, 2, 2] = -x / z**2, -y / z**2, -baseline / z**2
        D[~np.isfinite(seen)] = 0
        J_pose, J_point = np.concatenate([D, -D @ skew(local)], axis=2), D @ poses[view, :3, :3]
        weight = 1 / (1 + (error**2).sum(axis=1) / noise**2)[:, None, None]
        H_pose, b_pose = _normal_equations(J_pose, weight, error, view, K, damping)
        H_point, b_point = _normal_equations(J_point, weight, error, point, L, damping)
        W = np.zeros((K, 6, L, 3))
        W[view, :, point] = J_pose.swapaxes(1, 2) * weight @ J_point
        inverse = np.linalg.inv(H_point)
        WC = np.einsum('kilj,ljm->kilm', W, inverse).reshape(6 * K, 3 * L)
        S = -WC @ W.reshape(6 * K, 3 * L).T
        for k in range(K):
            S[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += H_pose[k]
        free, step = slice(6 * fixed, None), np.zeros((K, 6))
        step.ravel()[free] = np.linalg.solve(S[free, free], (b_pose.ravel() - WC @ b_point.ravel())[free])
        shift = np.einsum('lij,lj->li', inverse, b_point - np.einsum('kilj,ki->lj', W, step))
        moved = np.array([matrix(cv2.Rodrigues(s[3:])[0], s[:3]) for s in step]) @ poses
        new_local, new_error = _errors(moved, points + shift, view, point, seen, baseline)
        cost, new_cost = _cost(error, noise), _cost(new_error, noise)
        if new_cost < cost:
            poses, points, local, error, damping = moved, points + shift, new_local, new_error, damping / 10
        else:
            damping *= 10
        if abs(cost - new_cost) < ENOUGH * cost:
            break
    return poses, points, np.linalg.norm(error, axis=1)


def _errors(
    poses: np.ndarray, points: np.ndarray, view: np.ndarray, point: np.ndarray, seen: np.ndarray, baseline: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points in their views' frames [M, 3], and how far each is from where it was seen [M, 3]."""
    local = np.einsum('mij,mj->mi', poses[view, :3, :3], points[point]) + poses[view, :3, 3]
    local[:, 2] = np.maximum(local[:, 2], 1e-6)
    x, y, z = local.T
    return local, np.nan_to_num(np.column_stack([x / z, y / z, baseline / z]) - seen)


def _normal_equations(
    J: np.ndarray, weight: np.ndarray, error: np.ndarray, block: np.ndarray, blocks: int, damping: float
) -> tuple[np.ndarray, np.ndarray]:
    """Damped diagonal blocks [blocks, n, n] and right sides [blocks, n]; row m of J [M, 3, n] is of block[m]."""
    n = J.shape[2]
    H, b, JW = np.zeros((blocks, n, n)), np.zeros((blocks, n)), J.swapaxes(1, 2) * weight
    np.add.at(H, block, JW @ J)
    np.add.at(b, block, -(JW @ error[..., None])[..., 0])
    return H + (damping * H + 1e-9) * np.eye(n), b


def _cost(error: np.ndarray, noise: float) -> float:
    return float(np.log1p((error**2).sum(axis=1) / noise**2).sum())


def matrix(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """[4, 4] of a rotation and a translation."""
    return np.vstack([np.column_stack([R, t]), [0, 0, 0, 1]])


def skew(v: np.ndarray) -> np.ndarray:
    """[N, 3, 3] whose product with a vector is the cross product of v [N, 3] with it."""
    return -np.cross(v[:, None], np.eye(3))
