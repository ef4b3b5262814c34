"""Evaluation by its parts: inputs, predictions computed once, and a run for each kind of question.

`pairs`, `sequences` (with `layouts`, `cameras` and `trajectories`) and `recordings` read inputs and name what is wrong
with them; `predictions` keeps what detectors found; `pair_run`, `pose_run`, `shapes_run` and `recording_run` put the
metrics on it; `summary` averages and `results` writes.
"""
