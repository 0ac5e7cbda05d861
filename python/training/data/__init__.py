"""Labelled images: COCO json in, augmented batches out."""
