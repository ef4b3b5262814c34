"""How each paper trains: its examples, its losses and its configuration, one file each."""
