"""What other programs need, made from recorded `features`: COLMAP's database, DBoW3's vocabulary."""
