"""A hospital: it answers each message with its own images and its own rules.

``app`` is Flower's ClientApp, ``hospital`` answers, ``inspection`` and ``image_checks`` describe images.
``private_training`` noises updates, ``secure`` masks them, ``sums`` adds up remote statistics for a fusion.
``log`` is a hospital's own record of what left it; ``faults`` applies the faults that a test run draws.
"""
