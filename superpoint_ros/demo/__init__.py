"""A run of the front-end on a sequence with known geometry: real processes, figures, pictures."""
