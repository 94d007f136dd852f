"""Read one image file of any kind as 8-bit pixels, and many of them in parallel."""
