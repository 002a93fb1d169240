"""Scripts of *Deep Learning from Scratch* on these layers: ``python -m xplayers.book SCRIPT``.

A reader's script runs as it is. Of the modules ``common.layers``, ``functions``, ``gradient``,
``optimizer`` and ``time_layers`` beside it, the classes that the book describes are replaced by
adapters: each holds a layer of xplayers and calls its pure functions. What else the reader has
written there, and all other modules, stay. `replacing` imports the reader's modules, `device` is
the ``np`` that they get, and the other files have the names of the modules that they replace.
"""
