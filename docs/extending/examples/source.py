"""A data source: pictures of stripes, drawn here, ``stripes:NUMBER``."""

import numpy as np

import fedmerge as fm


@fm.SOURCES.source("stripes", form="stripes:NUMBER")
def stripes(request: fm.SourceRequest) -> fm.Arrays:
    """NUMBER grey images of 8 x 8 pixels: lying, upright or no stripes, under noise."""
    if not request.rest.isdigit() or int(request.rest) < 30:
        raise fm.FedMergeError(f"source '{request.text}': write stripes:NUMBER with a number from 30 on.")
    rng = np.random.default_rng(0)  # the same images for every seed, as those of a file would be
    labels = np.arange(int(request.rest)) % 3
    pixels = np.arange(8) // 2 % 2 * 120
    patterns = np.stack([np.tile(pixels[:, None], 8), np.tile(pixels, (8, 1)), np.zeros((8, 8), int)])
    images = patterns[labels] + rng.integers(0, 100, (len(labels), 8, 8))
    return fm.Arrays(images.astype(np.uint8), labels, class_names=("lying", "upright", "none"))
