"""From recordings to better weights: what `train_from_bag` does between reading its command line and its last word.

`request` is what is asked for, `plan` what it would take, `workspace` the folder of a run, `general` the pictures that
hold forgetting back, `schedule` how long to train, `rounds` labelling and training, `proof` the figures before and
after with a verdict, `report` and `card` what is written of them; `run` joins them.
"""
