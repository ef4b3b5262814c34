"""The lifecycle node `superpoint_frontend`: images in; features, matches and tracks out."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterable, Sequence
from functools import partial
from threading import Thread
from time import monotonic
from typing import Any

import torch
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from superpoint_ros.calibrations import read_calibration_of
from superpoint_ros.detector import Detector
from superpoint_ros.engines import EngineError
from superpoint_ros.nodes.channel import Arrival, Channel, topic_prefix
from superpoint_ros.nodes.command_line import check_arguments
from superpoint_ros.nodes.diagnostics import Diagnostics
from superpoint_ros.nodes.inputs import Inputs
from superpoint_ros.nodes.optics import read_mask
from superpoint_ros.nodes.outputs import Outputs
from superpoint_ros.nodes.parameters import NEXT_IMAGE, Parameter, ParameterError, declare
from superpoint_ros.nodes.pipeline import Pipeline
from superpoint_ros.nodes.process import run
from superpoint_ros.nodes.settings import PARAMETERS, Settings, load_detector
from superpoint_ros.nodes.statistics import Statistics
from superpoint_ros.nodes.worker import NewestWins

RCLError = rclpy_implementation.RCLError
_DIAGNOSTICS_PERIOD = 1.0  # seconds


class FrontendNode(LifecycleNode):
    """A shell around `Pipeline`. The executor's thread hands things over; the worker does all work on images.

    configure loads the weights and warms up, activate subscribes, deactivate stops the worker, cleanup frees
    all. Nodes of several cameras derive from it: what they have in common is here.
    """

    _depth = 1
    """Images of a camera that wait for the executor's thread."""
    _paired = False
    """Whether images of two cameras are paired."""

    def __init__(
        self,
        name: str = 'superpoint_frontend',
        parameters: Sequence[Parameter] = PARAMETERS,
        cameras: Sequence[str] = ('',),
    ) -> None:
        """cameras: their names, which the names of their topics begin with; '' for the only one."""
        super().__init__(name)
        self._survive_impossible_transitions()
        self._table = {parameter.name: parameter for parameter in parameters}
        self._values = declare(self, parameters)
        try:
            self._settings = Settings.of(self._values)
        except ValueError as error:  # of values that do not go together
            raise ParameterError(str(error)) from error
        self._cameras = cameras
        self._problem = ''
        self._idle = 'Not configured.'
        self._outputs: list[Any] = []
        self._channels: list[Channel] = []
        self._pipeline: Pipeline | None = None
        self._worker: NewestWins[Any] | None = None
        self._loader: Thread | None = None
        self._inputs: list[Inputs] = []
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = Diagnostics(self)
        # Simulated time may stand still; diagnostics must not.
        self.create_timer(_DIAGNOSTICS_PERIOD, self._look_around, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, '~/reset', self._on_reset)
        # Loading takes seconds. In a thread and a callback group of its own it does not hold up the images.
        loading = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, '~/reload_weights', self._on_reload_weights, callback_group=loading)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights and warm up. Fails, with the reason in the log, where they can't be used."""
        try:
            self._channels = [self._make_channel(name) for name in self._cameras]
            self._pipeline = self._make_pipeline()
        except (EngineError, ValueError) as error:
            return self._not_configured(str(error))
        except Exception:  # rclpy would swallow it
            return self._not_configured(traceback.format_exc())
        self._problem = ''
        self.get_logger().info(f'Configured: {self._pipeline.detector.description}.')
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and listen."""
        # A collection would go through the network and all modules, for tens of milliseconds amid a frame.
        gc.collect()
        gc.freeze()
        self._worker = self._make_worker()
        if self._pipeline is not None:
            self._pipeline.restart()
        for index, channel in enumerate(self._channels):
            self._inputs.append(
                Inputs(
                    self,
                    channel,
                    partial(self._on_image, index),
                    transport=self._values['image_transport'],
                    reliability=self._values['image_reliability'],
                    depth=self._depth,
                )
            )
        topics = ', '.join(topic for inputs in self._inputs for topic in inputs.topics)
        self.get_logger().info(f'Active: listening to {topics}.')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and finish the image in hand."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network, its memory on the device, and the topics."""
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free all, from any state."""
        self._stop()
        self._free()
        self._idle, self._problem = 'Shut down.', ''
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that went wrong: back to where configure can be tried again."""
        self._stop()
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Finish the image in hand, and the loading of weights, and leave ROS, whatever the state."""
        self._stop()
        if self._loader is not None:
            self._loader.join()
        super().destroy_node()

    def _survive_impossible_transitions(self) -> None:
        """Refuse a transition that the state does not have; rclpy would let its error end the process."""
        service = self._service_change_state
        change_state = service.callback

        def guarded(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except RCLError as error:
                self.get_logger().warning(f'Transition {request.transition.id} is not possible now: {error}')
                response.success = False
                return response

        service.callback = guarded

    def _make_channel(self, name: str) -> Channel:
        """What a camera has of its own."""
        outputs = self._make_outputs(name)
        self._outputs.append(outputs)
        mask = read_mask(self._values['mask'].replace('{camera}', name))
        given = self._values['calibration']
        calibration = read_calibration_of(name, self._cameras, given) if given else None
        return Channel(name, outputs, Statistics(self._paired), mask, self.get_logger(), calibration)

    def _make_outputs(self, name: str) -> Outputs:
        return Outputs(self, topic_prefix(name))

    def _make_pipeline(self) -> Pipeline:
        return Pipeline(self._load, self._settings, self._channels, self.get_logger())

    def _make_worker(self) -> NewestWins[Any]:
        """Hands arrivals to the pipeline; its sources are the cameras."""
        assert self._pipeline is not None
        return NewestWins(
            self._pipeline.process,
            lambda index: self._channels[index].statistics.on_dropped(),
            self.get_logger().error,
        )

    def _take(self, index: int, arrival: Arrival) -> None:
        """Pass an image of a camera on. The executor's thread calls this."""
        if self._worker is not None:
            self._worker.put(arrival, index)

    def _warnings(self) -> list[str]:
        """What is amiss while active, for people."""
        of_inputs = [warning for inputs in self._inputs for warning in inputs.warnings(self._settings.stale_after)]
        return [*of_inputs, *filter(None, [self._latest_warning()])]

    def _latest_warning(self) -> str:
        """What is odd about the latest images."""
        return self._pipeline.warning if self._pipeline else ''

    def _on_image(self, index: int, message: Image | CompressedImage) -> None:
        self._channels[index].statistics.on_received()
        self._take(index, Arrival(message, monotonic()))

    def _on_set_parameters(self, changes: list[RosParameter]) -> SetParametersResult:
        try:
            new = {p.name: self._table[p.name].check(p.value) for p in changes if p.name in self._table}
            self._settings = Settings.of(self._values | new)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._explain_late_ones(name for name in new if new[name] != self._values[name])
        self._values = self._values | new  # not in place: ~/reload_weights may be reading them
        if self._pipeline is not None:
            self._pipeline.settings = self._settings
        return SetParametersResult(successful=True)

    def _explain_late_ones(self, changed: Iterable[str]) -> None:
        """Say of changed parameters when they will be looked at, unless that is at the next image."""
        if self._pipeline is None:
            return
        for name in changed:
            when = self._table[name].takes_effect
            if when != NEXT_IMAGE:
                self.get_logger().info(f'{name} takes effect {when}.')

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._pipeline is None:
            response.message = 'Not configured: there are no tracks.'
            return response
        self._pipeline.reset_wanted = True
        response.success, response.message = True, 'Tracks start anew, with ids from 1, at the next image.'
        return response

    async def _on_reload_weights(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        done = Future()
        self._loader = Thread(target=lambda: done.set_result(self._reload_weights(response)))
        self._loader.start()
        return await done

    def _reload_weights(self, response: Trigger.Response) -> Trigger.Response:
        pipeline = self._pipeline
        if pipeline is None:
            response.message = 'Not configured: configure loads the weights.'
            return response
        self.get_logger().info(f"Loading weights '{self._values['weights']}'; those in use work on meanwhile.")
        try:
            detector = self._load(None)
        except (EngineError, ValueError) as error:
            response.message = f'The weights in use stay: {error}'
        except Exception:  # rclpy would let it end the process
            response.message = f'The weights in use stay: {traceback.format_exc()}'
        else:
            if self._pipeline is pipeline:
                pipeline.detector = detector
                response.success, response.message = True, f'Loaded {detector.description}.'
                self.get_logger().info(response.message)
                return response
            response.message = 'The node was cleaned up meanwhile: configure loads the weights.'
        self.get_logger().error(response.message)
        return response

    def _load(self, device: str | None) -> Detector:
        return load_detector(self._values, device, images=len(self._cameras))

    def _not_configured(self, reason: str) -> TransitionCallbackReturn:
        self._problem = f'Not configured: {reason}'
        if self.context.ok():  # else a signal came, which spoils whatever it comes upon
            self.get_logger().error(self._problem)
        self._free()
        return TransitionCallbackReturn.FAILURE

    def _stop(self) -> None:
        for inputs in self._inputs:
            inputs.destroy()
        self._inputs = []
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
            gc.unfreeze()

    def _free(self) -> None:
        self._pipeline = None
        for outputs in self._outputs:
            outputs.destroy(self)
        self._outputs = []
        try:
            torch.cuda.empty_cache()  # does nothing where CUDA was not used
        except RuntimeError as error:  # the device is gone, and its memory with it
            self.get_logger().warning(f'The memory of the CUDA device could not be freed: {error}')

    def _look_around(self) -> None:
        for inputs in self._inputs:
            inputs.follow()
        self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        pipeline = self._pipeline
        hardware = ' '.join(self.resolve_topic_name(f'{topic_prefix(name)}image') for name in self._cameras)
        values = {f'{c.prefix}{key}': value for c in self._channels for key, value in c.statistics.report().items()}
        if pipeline is None:
            self._diagnostics.publish(hardware, self._problem, '', self._idle, values)
            return
        values['detector'] = pipeline.detector.description
        values |= {f'{channel.prefix}calibration': channel.optics.status for channel in self._channels}
        values |= {name: f'{value:.6g}' for name, value in pipeline.figures.items()}
        problem, warning, state = '', '', 'Inactive.'
        if self._inputs:
            problem, warning, state = pipeline.problem, ' '.join(self._warnings()), 'Active.'
        self._diagnostics.publish(hardware, problem, warning, state, values)


def main(args: list[str] | None = None) -> None:
    """Run the node until a signal comes."""
    check_arguments('frontend', __doc__, PARAMETERS, args)
    run('frontend', FrontendNode, serve, args)


def serve(node: FrontendNode) -> None:
    """Let the node work, from active where it starts by itself."""
    # Not the multi-threaded one: while images wait it spins, on a core that the network needs.
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if not node.get_parameter('autostart').value:
        node.get_logger().info(
            'Unconfigured, for autostart is false: waiting for somebody to configure and activate it.'
        )
    elif node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()
    executor.spin()


if __name__ == '__main__':
    main()
