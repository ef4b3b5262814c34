"""The window of `visual_odometry.py` made consistent: poses and landmarks that explain what was seen."""

from __future__ import annotations

import cv2
import numpy as np

ENOUGH = 1e-3
"""Share of the cost; a step that changes less is the last."""


def adjust(
    poses: np.ndarray, points: np.ndarray, view: np.ndarray, point: np.ndarray, seen: np.ndarray,
    baseline: float, noise: float, fixed: int, doubt: float = 0.0, steps: int = 6,
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:  # fmt: skip
    """Levenberg-Marquardt with Cauchy's weights; the Schur complement solves for poses and focal length first.

    Errors are differences of pixels, in units of the focal length that `seen` was made with: in units of the one
    that is sought, a longer one would make all errors smaller.

    Args:
        poses: [K, 4, 4] world to camera, of which the first `fixed` stay.
        points: [L, 3] in the world.
        view, point: [M] which pose saw which point.
        seen: [M, 3] where: x / z, y / z and baseline / z in the camera's frame; NaN where not known.
        baseline: in the unit of the points.
        noise: what errors are normal, in the unit of `seen`; larger ones weigh less and less.
        doubt: share by which the focal length may well be wrong; 0 leaves it.

    Returns:
        Poses, points, the focal length as a multiple of the one `seen` was made with, and each error's length [M].
    """
    K, L, damping, focal = len(poses), len(points), 1e-4, 1.0
    columns = np.column_stack([6 * view[:, None] + np.arange(6), np.full(len(view), 6 * K)])
    free = slice(6 * fixed, 6 * K + (doubt > 0))
    trust = (noise / doubt) ** 2 if doubt else 0.0
    local, error = _errors(poses, points, focal, view, point, seen, baseline)
    for _ in range(steps):
        x, y, z = local.T
        D = np.zeros((len(view), 3, 3))  # of x / z, y / z and baseline / z
        D[:, 0, 0] = D[:, 1, 1] = 1 / z
        D[:, 0, 2], D[:, 1, 2], D[:, 2, 2] = -x / z**2, -y / z**2, -baseline / z**2
        D[~np.isfinite(seen)] = 0
        D *= focal
        by_focal = np.nan_to_num(error + seen)[..., None] / focal
        J, J_point = np.concatenate([D, -D @ skew(local), by_focal], axis=2), D @ poses[view, :3, :3]
        weight = 1 / (1 + (error**2).sum(axis=1) / noise**2)[:, None, None]
        JW, JW_point = J.swapaxes(1, 2) * weight, J_point.swapaxes(1, 2) * weight
        H, W, b = np.zeros((6 * K + 1, 6 * K + 1)), np.zeros((6 * K + 1, L, 3)), np.zeros(6 * K + 1)
        np.add.at(H, (columns[:, :, None], columns[:, None]), JW @ J)
        np.add.at(W, (columns, point[:, None]), JW @ J_point)
        np.add.at(b, columns, -(JW @ error[..., None])[..., 0])
        H[-1, -1] += trust
        b[-1] -= trust * (focal - 1)
        H_point, b_point = np.zeros((L, 3, 3)), np.zeros((L, 3))
        np.add.at(H_point, point, JW_point @ J_point)
        np.add.at(b_point, point, -(JW_point @ error[..., None])[..., 0])
        inverse = np.linalg.inv(H_point + (damping * H_point + 1e-9) * np.eye(3))
        WC = np.einsum('ilj,ljm->ilm', W, inverse).reshape(6 * K + 1, 3 * L)
        S = H + (damping * H + 1e-9) * np.eye(len(H)) - WC @ W.reshape(6 * K + 1, 3 * L).T
        step = np.zeros(6 * K + 1)
        step[free] = np.linalg.solve(S[free, free], (b - WC @ b_point.ravel())[free])
        shift = np.einsum('lij,lj->li', inverse, b_point - np.einsum('ilj,i->lj', W, step))
        moved = np.array([matrix(cv2.Rodrigues(s[3:])[0], s[:3]) for s in step[:-1].reshape(K, 6)]) @ poses
        new_local, new_error = _errors(moved, points + shift, focal + step[-1], view, point, seen, baseline)
        cost, new_cost = (
            _cost(e, noise) + trust * ((f - 1) / noise) ** 2 for e, f in ((error, focal), (new_error, focal + step[-1]))
        )
        if new_cost < cost:
            poses, points, focal, damping = moved, points + shift, focal + step[-1], damping / 10
            local, error = new_local, new_error
        else:
            damping *= 10
        if abs(cost - new_cost) < ENOUGH * cost:
            break
    return poses, points, focal, np.linalg.norm(error, axis=1)


def _errors(
    poses: np.ndarray, points: np.ndarray, focal: float, view: np.ndarray, point: np.ndarray, seen: np.ndarray,
    baseline: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Points in their views' frames [M, 3], and how far each is from where it was seen [M, 3]."""
    local = np.einsum('mij,mj->mi', poses[view, :3, :3], points[point]) + poses[view, :3, 3]
    local[:, 2] = np.maximum(local[:, 2], 1e-6)
    x, y, z = local.T
    return local, np.nan_to_num(focal * np.column_stack([x / z, y / z, baseline / z]) - seen)


def _cost(error: np.ndarray, noise: float) -> float:
    return float(np.log1p((error**2).sum(axis=1) / noise**2).sum())


def matrix(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """[4, 4] of a rotation and a translation."""
    return np.vstack([np.column_stack([R, t]), [0, 0, 0, 1]])


def skew(v: np.ndarray) -> np.ndarray:
    """[N, 3, 3] whose product with a vector is the cross product of v [N, 3] with it."""
    return -np.cross(v[:, None], np.eye(3))
