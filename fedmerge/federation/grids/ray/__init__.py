"""Ray: persistent workers that each speak for several hospitals.

``session`` gets into Ray and out again, ``place`` packs hospitals, ``grid`` is Flower's Grid. Behind that,
``desk`` knows of every hospital where it is and what it keeps, ``sending`` hands its messages out in order,
``pool`` starts, watches and replaces workers, ``worker`` is what runs in their processes, with the
``numerics`` of the server's.
"""
