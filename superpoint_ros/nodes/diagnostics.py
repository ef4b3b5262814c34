"""The front-end's state as `diagnostic_msgs`."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node


class Diagnostics:
    """Publishes one status of a node on `/diagnostics`, whatever state its lifecycle is in."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)

    def publish(self, hardware: str, problem: str, warning: str, state: str, values: dict[str, str]) -> None:
        """Publish an error if there is a problem, a warning if there is only that, else that all is well."""
        level = DiagnosticStatus.ERROR if problem else DiagnosticStatus.WARN if warning else DiagnosticStatus.OK
        message = ' '.join(filter(None, (problem, warning))) or state
        status = DiagnosticStatus(
            level=level,
            name=self._node.get_fully_qualified_name().lstrip('/'),
            hardware_id=hardware,
            message=message,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
