"""How long the front-end takes, stage by stage and as a node, beside what people use today in the same run."""
