"""What nodes say to a command line."""

import subprocess
import sys

import pytest

from superpoint_ros.nodes import frontend, replay, rig, settings, stereo


@pytest.mark.parametrize(
    ('node', 'parameters'),
    [
        (frontend, settings.PARAMETERS),
        (stereo, settings.STEREO_PARAMETERS),
        (rig, settings.RIG_PARAMETERS),
        (replay, replay.PARAMETERS),
    ],
)
def test_help_lists_the_parameters_that_the_node_has(node, parameters, capsys):
    with pytest.raises(SystemExit) as end:
        node.main(['node', '--help'])
    said = capsys.readouterr().out
    assert end.value.code == 0
    for parameter in parameters:
        assert f'  {parameter.name}:=' in said
        assert parameter.description in said


def test_arguments_that_are_not_for_ros_are_refused_with_the_form_of_those_that_are(capsys):
    with pytest.raises(SystemExit) as end:
        frontend.main(['frontend', '--weights', 'superpoint_small', '--ros-args', '-p', 'levels:=1'])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert '--weights superpoint_small' in said
    assert '--ros-args -p PARAMETER:=VALUE' in said
    assert 'levels' not in said


def test_what_ros_can_not_read_is_said_in_a_line(capsys):
    with pytest.raises(SystemExit) as end:
        frontend.main(['frontend', '--ros-args', '-p', 'levels=1'])
    assert end.value.code == 2
    assert "'-p levels=1'" in capsys.readouterr().err


@pytest.mark.parametrize('argument', ['weights:=kp2d', '--params-file=/nothere.yaml'])
def test_what_rclpy_refuses_is_said_without_a_traceback(argument):
    command = [sys.executable, '-m', 'superpoint_ros.nodes.frontend', '--ros-args', *argument.split('=/')]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode != 0
    assert 'Traceback' not in said.stderr
    assert 'frontend: ' in said.stderr


def test_help_as_a_command():
    said = subprocess.run([sys.executable, '-m', 'superpoint_ros.nodes.frontend', '-h'], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, '')
    assert '  autostart:=false\n' in said.stdout
    assert "  mask:=''\n" in said.stdout
