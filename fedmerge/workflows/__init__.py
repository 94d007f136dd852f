"""What a person does with FedMerge, each a function behind a command: ``run``, ``bench``, ``merge_files``, …

``run`` carries out one experiment, ``bench`` a study of many; ``deployed`` one with hospitals on machines of
their own, whose state ``watching`` tells; ``flower_app`` is what Flower's runtimes load. ``merge_files``
fuses weights in files, ``analyse`` says why merging worked, ``served`` finds what a service answers with.
They use the stages of an experiment and write its reports; nothing but the command line knows them.
"""
