"""The lifecycle node `superpoint_rig`: images of many cameras in, one batch through one network; features out."""

from __future__ import annotations

import re

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from superpoint_ros.nodes.channel import Arrival
from superpoint_ros.nodes.command_line import check_arguments
from superpoint_ros.nodes.frontend import FrontendNode, serve
from superpoint_ros.nodes.parameters import ParameterError
from superpoint_ros.nodes.process import run
from superpoint_ros.nodes.settings import RIG_PARAMETERS


class RigNode(FrontendNode):
    """A front-end for cameras that need not be synchronised; one that stops does not stop the others."""

    def __init__(self) -> None:
        super().__init__('superpoint_rig', RIG_PARAMETERS, cameras=())

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights and warm up. Fails, with the reason in the log, where something can't be used."""
        try:
            self._cameras = check_names(self._values['cameras'])
        except ParameterError as error:
            return self._not_configured(str(error))
        return super().on_configure(state)

    def _take(self, index: int, arrival: Arrival) -> None:
        """Pass an image on, to wait for others only where the engine at work gains by it."""
        if self._worker is not None and self._pipeline is not None:
            self._worker.gather = self._values['gather'] if self._pipeline.detector.engine.batches else 0.0
        super()._take(index, arrival)


def check_names(cameras: list[str]) -> tuple[str, ...]:
    """The names of a rig's cameras, as their topics begin with.

    Raises:
        ParameterError: there is none, one is no name of a ROS topic, or two are the same.
    """
    if not cameras:
        raise ParameterError('cameras must name one camera or more.')
    for name in cameras:
        if not re.fullmatch(r'[A-Za-z_]\w*(/[A-Za-z_]\w*)*', name, re.ASCII):
            raise ParameterError(f"cameras has '{name}', which can't begin a topic's name: letters, digits, _ and /.")
    if len(set(cameras)) < len(cameras):
        raise ParameterError(f'cameras must be different ones, not {", ".join(cameras)}.')
    return tuple(cameras)


def main(args: list[str] | None = None) -> None:
    """Run the node until a signal comes."""
    check_arguments('rig_frontend', __doc__, RIG_PARAMETERS, args)
    run('rig_frontend', RigNode, serve, args)


if __name__ == '__main__':
    main()
