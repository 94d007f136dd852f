"""Where a hospital's images come from.

``source_kinds`` is the registry, ``sources`` those that are there: arrays, ``npz``, ``folders``, tables (CSV
and parquet), ``dicom_folders``, MedMNIST, digits. Each gives ``raw`` images with labels; ``patients`` keeps a
person's images together, ``labels`` names classes alike. ``new_cohort`` writes a cohort file of what it
finds.
"""
