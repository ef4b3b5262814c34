"""Parameters as a table: declared with descriptors, so that tools show their meaning, and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

_KINDS = {float: 'a number', int: 'an integer', bool: 'true or false', str: 'a text', list: 'a list of texts'}


class ParameterError(ValueError):
    """A parameter was given a value that it can't have."""


NEXT_IMAGE = 'at the next image'
ON_RELOAD = 'on ~/reload_weights'
ON_ACTIVATION = 'when the node is activated again'
ON_CONFIGURATION = 'when the node is configured and activated again'
ON_START = 'when the process starts'


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        low, high: range of a number, both included.
        choices: what a string may be; empty allows all.
        form: regular expression of what a string may be, which the description tells people; empty allows all.
        takes_effect: when a change does, for people: one of the five above. What is for the start can't be changed.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    form: str = ''
    takes_effect: str = ON_CONFIGURATION

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(
            name=self.name, description=self.description, read_only=self.takes_effect == ON_START
        )
        if self.choices:
            descriptor.additional_constraints = f'One of {", ".join(self.choices)}.'
        if isinstance(self.default, float):
            # `rate:=0` on a command line is an integer, and meant as a number all the same.
            descriptor.dynamic_typing = True
            if self.low is not None and self.high is not None:
                descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
        elif self.low is not None and self.high is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high))]
        return descriptor

    def check(self, value: Any) -> Any:
        """The value in the parameter's own type.

        Raises:
            ParameterError: it has another type or form, is out of range, or is none of the choices.
        """
        if isinstance(self.default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(self.default):
            kind = _KINDS[type(self.default)]
            raise ParameterError(f'{self.name} must be {kind}, not {value!r}.')
        if self.choices and value not in self.choices:
            raise ParameterError(f'{self.name} must be one of {", ".join(self.choices)}, not {value!r}.')
        if self.form and not re.fullmatch(self.form, value):
            raise ParameterError(f'{self.name} must be {self.description.rstrip(".")}, not {value!r}.')
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise ParameterError(f'{self.name} must be from {self.low:g} to {self.high:g}, not {value:g}.')
        return value


def declare(node: Node, parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Declare a node's parameters and return their values by name, as given at start or by default.

    Others that were given are a warning.

    Raises:
        ParameterError: one of the values given has the wrong type or is out of range.
    """
    values = {}
    for parameter in parameters:
        try:
            value = node.declare_parameter(parameter.name, parameter.default, parameter.descriptor()).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ParameterError(str(error)) from error
        values[parameter.name] = parameter.check(value)
    for name in getattr(node, '_parameter_overrides', {}):  # rclpy has no other way to ask for those given
        if not node.has_parameter(name) and not name.startswith('qos_overrides.'):
            meant = ''.join(f'; {near} is' for near in get_close_matches(name, values, 1))
            node.get_logger().warning(f'{name} was given, but is no parameter of this node{meant}.')
    return values
