"""Visual odometry from the front-end's topics alone: how a back-end lives on them, in one file.

    python examples/visual_odometry.py                                   # one camera: `features`; up to scale
    python examples/visual_odometry.py --ros-args -p stereo:=true        # two: `stereo_matches`; metres
    python examples/visual_odometry.py --ros-args -p focal_doubt:=0.03   # not calibrated: may be 3 % off; it is found

It sees no image. What it takes of a message are track ids and rays, and of two cameras the depth; matching, the
check of matches and ids that survive a missed frame are the front-end's work. Each image is located against the
landmarks of the last few keyframes by PnP, and each new keyframe adjusts the whole window. There is no map beyond
the window and no loop closure: that is what a SLAM system adds. Where too few landmarks are left, it goes on as it
moved last, or after a pause from where it was, and begins anew; one camera then has another scale.

Publishes `odometry` (nav_msgs/Odometry) and `path` (nav_msgs/Path): the camera's optical frame in that of the
first image, x right, y down, z forward. One camera can't know the scale: its first baseline is 1 long. Covariances
are left at 0, not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import rclpy
from bundle_adjustment import adjust, matrix
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from nav_msgs.msg import Odometry, Path
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from superpoint_ros.clouds import read_features, read_stereo_matches, stamp_ns

WINDOW = 10  # keyframes
FEWEST = 20  # landmarks that locate an image
PATH = 1000  # poses
NEW_KEYFRAME = 12.0  # pixels that the median track moved since the last keyframe
STILL_SEEN = 0.4  # of an image's tracks are in the last keyframe, or it becomes one: what stays longest is far away
FIRST_PARALLAX = np.radians(2.0)  # of the median track, without rotation, between the first two of one camera
WIDE_ENOUGH = np.radians(1.0)  # between two rays that make a landmark
FARTHEST = 60.0  # baselines; beyond, stereo depth says little, and motion has to triangulate
OUTLIER = 3.0  # pixels
NOISE = 1.0  # pixels; errors beyond weigh less and less
PAUSE = 1.0  # seconds; after longer ones a camera is not expected to have gone on as it moved


@dataclass
class Keyframe:
    """An image that the window remembers.

    Attributes:
        ids: [N] track ids, ascending.
        seen: [N, 3] where: ray x and y at z = 1, and disparity, baseline / depth; NaN where it is not known.
        pose: [4, 4], world to camera.
    """

    ids: np.ndarray
    seen: np.ndarray
    pose: np.ndarray


class VisualOdometry:
    """Poses of a camera from track ids and rays. Knows no ROS. `focal_doubt` is the parameter of that name."""

    def __init__(self, focal_doubt: float = 0.0) -> None:
        self.focal, self._doubt = 1.0, focal_doubt  # what was found, as a multiple of what was given
        self._window: list[Keyframe] = []
        self._points: dict[int, np.ndarray] = {}
        self._pose, self._motion = np.eye(4), np.zeros(6)
        self._baseline: float | None = None

    def update(
        self, ids: np.ndarray, seen: np.ndarray, focal: float, baseline: float = 1.0, seconds: float = 1.0
    ) -> np.ndarray | None:
        """Take the next image. Returns its pose, camera to world, or None before anything is known of it.

        ids: [N] track ids. seen: as in `Keyframe`. focal: pixels; the unit of the thresholds. baseline: of the
        stereo pair, in the unit that poses shall have; `seen` may have been made with another one each time, as
        `focal_length` guesses. seconds: since the image before; 0 for one that comes twice.
        """
        focal, seen = focal * self.focal, np.asarray(seen, float) / self.focal
        if self._baseline is None and np.isfinite(seen[:, 2]).any():
            self._baseline = baseline
        if self._baseline is not None:
            seen[:, 2] *= self._baseline / baseline
            baseline = self._baseline
        order, step = np.argsort(ids), self._motion * (seconds if seconds <= PAUSE else 0)
        expected = matrix(cv2.Rodrigues(step[:3])[0], step[3:]) @ self._pose
        frame = Keyframe(ids[order].astype(np.int64), seen[order], expected)
        if self._points and not self._locate(frame, OUTLIER / focal):
            self._window, self._points = [], {}  # lost: begin anew, from where the last motion leads
        begins = not self._points
        if begins and not self._begin(frame, focal):
            self._pose = frame.pose
            return None
        if self._window[-1] is not frame and self._is_new(frame, focal):
            self._window = [*self._window, frame][-WINDOW:]
        if self._window[-1] is frame:
            self._add_points(frame, baseline, OUTLIER / focal)
            if self._points:
                self._adjust(baseline, focal)
        if not begins and seconds > 0:  # the first pose of one camera may have another scale
            moved = frame.pose @ np.linalg.inv(self._pose)
            self._motion = np.append(cv2.Rodrigues(moved[:3, :3])[0], moved[:3, 3]) / seconds
        self._pose = frame.pose
        return np.linalg.inv(frame.pose)

    def _begin(self, frame: Keyframe, focal: float) -> bool:
        """The first keyframe of stereo, or the first two of one camera, once they are far enough apart."""
        if np.isfinite(frame.seen[:, 2]).sum() >= FEWEST:
            self._window = [frame]
            return True
        if not self._window or len(shared(self._window[0], frame)[0]) < 2 * FEWEST:
            self._window = [frame]
            return False
        first = self._window[0]
        a, b = shared(first, frame)
        before, now = first.seen[a, :2], frame.seen[b, :2]
        essential, inlier = cv2.findEssentialMat(before, now, np.eye(3), cv2.USAC_ACCURATE, 0.999, OUTLIER / focal / 3)
        if essential is None or essential.shape != (3, 3):
            return False
        found, R, t, _ = cv2.recoverPose(essential, before, now, np.eye(3), mask=inlier)
        turned = cv2.convertPointsToHomogeneous(before)[:, 0] @ R.T
        parallax = angles(turned, cv2.convertPointsToHomogeneous(now)[:, 0])
        if found < FEWEST or np.median(parallax) < FIRST_PARALLAX:
            return False
        frame.pose = matrix(R, t.ravel()) @ first.pose
        self._window = [first, frame]
        return True

    def _locate(self, frame: Keyframe, threshold: float) -> bool:
        """Set the frame's pose, and leave out what contradicts it."""
        rows = np.flatnonzero([number in self._points for number in frame.ids.tolist()])
        if len(rows) < FEWEST:
            return False
        points = np.array([self._points[number] for number in frame.ids[rows].tolist()])
        rays, K, straight = frame.seen[rows, :2].copy(), np.eye(3), np.zeros(4)
        turn, t = cv2.Rodrigues(frame.pose[:3, :3])[0], frame.pose[:3, 3:].copy()
        found, turn, t, inlier = cv2.solvePnPRansac(
            points, rays, K, straight, turn, t, True, 200, threshold, 0.999, flags=cv2.SOLVEPNP_ITERATIVE
        )
        if not found or inlier is None or len(inlier) < FEWEST:
            return False
        inlier = inlier.ravel()
        turn, t = cv2.solvePnPRefineLM(points[inlier], rays[inlier], K, straight, turn, t)
        frame.pose = matrix(cv2.Rodrigues(turn)[0], t.ravel())
        frame.seen[np.delete(rows, inlier)] = np.nan
        return True

    def _is_new(self, frame: Keyframe, focal: float) -> bool:
        """Whether the view changed enough since the last keyframe for this one to tell something new."""
        a, b = shared(self._window[-1], frame)
        moved = np.linalg.norm(self._window[-1].seen[a, :2] - frame.seen[b, :2], axis=1)
        is_left = len(a) < max(2 * FEWEST, STILL_SEEN * len(frame.ids))
        return is_left or bool(np.median(moved) * focal > NEW_KEYFRAME)

    def _add_points(self, frame: Keyframe, baseline: float, threshold: float) -> None:
        """Landmarks of tracks that have none yet: from stereo depth, or from two keyframes."""
        to_world = np.linalg.inv(frame.pose)
        for number, (x, y, disparity) in zip(frame.ids.tolist(), frame.seen, strict=True):
            if number not in self._points and disparity > 1 / FARTHEST:
                self._points[number] = to_world[:3] @ [*(np.array([x, y, 1]) * baseline / disparity), 1]
        for earlier in self._window[:-1]:
            a, b = shared(earlier, frame)
            new = [number not in self._points for number in frame.ids[b].tolist()]
            a, b = a[new], b[new]
            if not len(a):
                continue
            rays = earlier.seen[a, :2], frame.seen[b, :2]
            points = cv2.triangulatePoints(earlier.pose[:3], frame.pose[:3], rays[0].T, rays[1].T)
            with np.errstate(all='ignore'):
                points = (points[:3] / points[3]).T
            good = angles(points - centre(earlier), points - centre(frame)) > WIDE_ENOUGH
            for view, ray in zip((earlier, frame), rays, strict=True):
                local = points @ view.pose[:3, :3].T + view.pose[:3, 3]
                error = np.linalg.norm(local[:, :2] / local[:, 2:] - ray, axis=1)
                good &= (local[:, 2] > 0) & (error < threshold)
            self._points.update(zip(frame.ids[b][good].tolist(), points[good], strict=True))

    def _adjust(self, baseline: float, focal: float) -> None:
        """Bundle adjustment of the window; then forget landmarks that it does not see, and wrong observations."""
        numbers = np.array(sorted(self._points), np.int64)
        rows = [np.flatnonzero(np.isin(k.ids, numbers) & np.isfinite(k.seen[:, 0])) for k in self._window]
        view = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        ids = np.concatenate([k.ids[r] for k, r in zip(self._window, rows, strict=True)])
        seen = np.concatenate([k.seen[r] for k, r in zip(self._window, rows, strict=True)])
        numbers, point = np.unique(ids, return_inverse=True)
        poses = np.array([keyframe.pose for keyframe in self._window])
        points = np.array([self._points[number] for number in numbers.tolist()])
        # One camera's window keeps its place and its scale by two poses that stay.
        fixed = 1 if np.isfinite(seen[:, 2]).any() else 2
        window = poses, points, view, point, seen, baseline, NOISE / focal
        poses, points, stretch, errors = adjust(*window, fixed, self._doubt)
        self.focal *= stretch
        wrong = errors > OUTLIER / focal
        for index, (keyframe, r) in enumerate(zip(self._window, rows, strict=True)):
            keyframe.pose = poses[index]
            keyframe.seen[r[wrong[view == index]]] = np.nan
            keyframe.seen /= stretch
        kept = np.bincount(point[~wrong], minlength=len(points)) > 0
        self._points = dict(zip(numbers[kept].tolist(), points[kept], strict=True))


def shared(one: Keyframe, other: Keyframe) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the tracks that two keyframes both see."""
    _, a, b = np.intersect1d(one.ids, other.ids, return_indices=True)
    seen = np.isfinite(one.seen[a, 0]) & np.isfinite(other.seen[b, 0])
    return a[seen], b[seen]


def centre(frame: Keyframe) -> np.ndarray:
    """[3], where its camera was in the world."""
    return -frame.pose[:3, :3].T @ frame.pose[:3, 3]


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N] radians between vectors [N, 3]."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1))


class Sight(NamedTuple):
    """What `VisualOdometry.update` takes of one message."""

    ids: np.ndarray
    seen: np.ndarray
    focal: float
    baseline: float


def from_features(message: PointCloud2) -> Sight:
    """Ids and rays of `features`."""
    features = read_features(message)
    known = np.isfinite(features.rays).all(axis=1)
    rays, keypoints = features.rays[known], features.keypoints[known]
    seen = np.column_stack([rays[:, :2], np.full(len(rays), np.nan)])
    return Sight(features.track_ids[known], seen, focal_length(rays, keypoints), 1.0)


def from_stereo_matches(message: PointCloud2) -> Sight:
    """Ids, rays and depth of `stereo_matches`."""
    matches = read_stereo_matches(message)
    near = np.isfinite(matches.points).all(axis=1)
    points, keypoints = matches.points[near].astype(float), matches.keypoints[near]
    rays, depth = points / points[:, 2:], points[:, 2]
    focal = focal_length(rays, keypoints)
    baseline = disparity_per_inverse_depth(1 / depth, matches.disparity[near]) / focal if len(points) else 1.0
    return Sight(matches.track_ids[near], np.column_stack([rays[:, :2], baseline / depth]), focal, baseline)


def disparity_per_inverse_depth(inverse: np.ndarray, disparity: np.ndarray) -> float:
    """Focal length times baseline. What is infinitely far has a disparity, too, where principal points differ."""
    off = inverse - inverse.mean()
    if off.std() < 1e-3 * inverse.mean():
        return float(np.median(disparity / inverse))
    return float(off @ disparity / (off @ off))


def focal_length(rays: np.ndarray, keypoints: np.ndarray) -> float:
    """Pixels that a ray's x moves its keypoint by, about; 1 of fewer than two."""
    spread = float(np.std(rays[:, 0])) if len(rays) > 1 else 0.0
    return float(np.std(keypoints[:, 0])) / spread if spread else 1.0


class OdometryNode(Node):
    """Publishes `odometry` and `path` for each `features` or, with the parameter `stereo`, each `stereo_matches`."""

    def __init__(self) -> None:
        super().__init__('visual_odometry')
        stereo = self.declare_parameter('stereo', False).value
        any_number = ParameterDescriptor(dynamic_typing=True)  # also 0, as people write it
        self._doubt = float(self.declare_parameter('focal_doubt', 0.0, any_number).value)
        self._odometry, self._stamp_ns, self._poses = VisualOdometry(self._doubt), 0, []
        self._odometry_out = self.create_publisher(Odometry, 'odometry', 10)
        self._path_out = self.create_publisher(Path, 'path', 1)
        topic, read = ('stereo_matches', from_stereo_matches) if stereo else ('features', from_features)
        self.create_subscription(PointCloud2, topic, lambda message: self._update(message.header, read(message)), 3)

    def _update(self, header: Header, sight: Sight) -> None:
        now_ns = stamp_ns(header.stamp)
        if now_ns < self._stamp_ns:  # a bag that begins again
            self._odometry, self._poses, self._stamp_ns = VisualOdometry(self._doubt), [], now_ns
        matrix = self._odometry.update(*sight, seconds=(now_ns - self._stamp_ns) / 1e9)
        self._stamp_ns = now_ns
        if matrix is None:
            self.get_logger().info('Waiting for rays that tell how the camera moves.', throttle_duration_sec=5.0)
            return
        pose, odom = to_pose(matrix), Header(stamp=header.stamp, frame_id='odom')
        odometry = Odometry(header=odom, child_frame_id=header.frame_id)
        odometry.pose.pose = pose
        self._odometry_out.publish(odometry)
        self._poses = [*self._poses, PoseStamped(header=odom, pose=pose)][-PATH:]
        self._path_out.publish(Path(header=odom, poses=self._poses))


def to_pose(matrix: np.ndarray) -> Pose:
    """`geometry_msgs/Pose` of [4, 4]."""
    turn = cv2.Rodrigues(matrix[:3, :3])[0].ravel()
    angle = float(np.linalg.norm(turn))
    axis = turn * (np.sin(angle / 2) / angle if angle else 0.5)
    orientation = Quaternion(w=float(np.cos(angle / 2)), **dict(zip('xyz', axis.tolist(), strict=True)))
    return Pose(position=Point(**dict(zip('xyz', matrix[:3, 3].tolist(), strict=True))), orientation=orientation)


def main() -> None:
    """Run until a signal comes."""
    rclpy.init()
    node = OdometryNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
